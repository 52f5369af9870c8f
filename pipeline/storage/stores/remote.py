"""Whatever fsspec reaches; S3 first of all. Written against what real servers do, see the comments."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from infinitedub.pipeline.storage.stores.storage_retry import insist
from infinitedub.pipeline.storage.stores.store import Found, Missing, Stat, Unfinished
from infinitedub.stages.errors import ConfigError, Transient

T = TypeVar("T")

PART_BYTES = 16 << 20
PARTS_AT_ONCE = 4
MAX_PARTS = 10_000  # of a multipart upload, by the S3 protocol
PAGE_KEYS = 1000  # of a listing, likewise
REQUEST_ATTEMPTS = 3  # by botocore, per request: one lost part does not repeat a whole upload


class RemoteStore:
    """Paths are URIs. Objects are put whole: s3fs would commit what an interrupted stream has written so far. Nothing is renamed or cached."""

    def __init__(self, scheme: str, options: Mapping[str, Any], attempts: int) -> None:
        self._attempts = attempts
        try:
            # The instance cache of fsspec is per thread; sessions are dear and safe to share.
            self._fs: Any = fsspec.filesystem(scheme, skip_instance_cache=True, use_listings_cache=False, **options)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"storage of the kind {scheme}:// is not at hand: {error}") from error
        self._s3 = scheme == "s3"
        if self._s3:
            self._fs.retries = 1  # s3fs would repeat each of botocore's repetitions

    def read(self, path: str) -> bytes:
        # One request: with more, s3fs asks for the size first and may then put parts of two versions together.
        alone = {"max_concurrency": 1} if self._s3 else {}
        return self._insist(lambda: bytes(self._fs.cat_file(path, **alone)), path)

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        return self._insist(lambda: bytes(self._fs.cat_file(path, start=start, end=stop)), path)

    def create(self, path: str, data: bytes) -> None:
        # Not open(path, "xb"): of an empty file that truncates what is there.
        self._insist(lambda: self._fs.pipe_file(path, data, mode="create"), path, creating=True)

    def put(self, path: str, source: bytes | Path) -> None:
        if isinstance(source, bytes):
            self._insist(lambda: self._fs.pipe_file(path, source), path)
            return
        size = source.stat().st_size
        parts: dict[str, Any] = {}
        if self._s3:
            parts = {"chunksize": max(PART_BYTES, -(-size // MAX_PARTS)), "max_concurrency": PARTS_AT_ONCE}

        def put() -> None:
            self._fs.put_file(str(source), path, **parts)
            try:
                kept = int(self._fs.info(path)["size"])
            except FileNotFoundError as error:
                raise Transient(f"{path} was sent and did not arrive") from error
            if kept != size:
                raise Transient(f"{path}: {size} bytes were sent, {kept} arrived")

        self._insist(put, path)

    def stat(self, path: str) -> Stat:
        return self._insist(lambda: _stat(self._fs.info(path), path), path)

    def list(self, path: str) -> list[str]:
        def names() -> list[str]:
            found = (str(name).rstrip("/") for name in self._fs.ls(path, detail=False))
            return sorted(name.rsplit("/", 1)[-1] for name in found if name != self._fs._strip_protocol(path))

        try:
            return self._insist(names, path)
        except Missing:
            return []

    def walk(self, path: str) -> dict[str, Stat]:
        def walk() -> dict[str, Stat]:
            root = self._fs._strip_protocol(path).rstrip("/") + "/"
            found = self._fs.find(path, detail=True)
            return {name.removeprefix(root): _stat(info, name) for name, info in found.items() if name.startswith(root) and not name.endswith("/")}

        return self._insist(walk, path)

    def scan(self, path: str) -> Iterator[Found]:
        root = self._fs._strip_protocol(path).rstrip("/") + "/"
        if not self._s3:  # fsspec has no listing by pages
            for name, info in sorted(self._insist(lambda: self._fs.find(path, detail=True), path).items()):
                if name.startswith(root) and not name.endswith("/"):
                    yield Found(name.removeprefix(root), int(info["size"] or 0), _time(info))
            return
        bucket, _, prefix = root.partition("/")
        words = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": PAGE_KEYS}
        for page in self._pages("list_objects_v2", path, {"ContinuationToken": "NextContinuationToken"}, **words):
            for item in page.get("Contents", []):
                if not item["Key"].endswith("/"):
                    yield Found(item["Key"].removeprefix(prefix), int(item["Size"]), _time(item))

    def unfinished(self, path: str) -> Iterator[Unfinished]:
        if not self._s3:
            return
        bucket, _, prefix = (self._fs._strip_protocol(path).rstrip("/") + "/").partition("/")
        places = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
        for page in self._pages("list_multipart_uploads", path, places, Bucket=bucket, Prefix=prefix):
            for item in page.get("Uploads", []):
                words = {"Bucket": bucket, "Key": item["Key"], "UploadId": item["UploadId"]}
                try:
                    pages = list(self._pages("list_parts", path, {"PartNumberMarker": "NextPartNumberMarker"}, **words))
                except Transient:  # finished meanwhile
                    continue
                size = sum(int(part["Size"]) for parts in pages for part in parts.get("Parts", []))
                yield Unfinished(f"s3://{bucket}/{item['Key']}", item["UploadId"], size, item["Initiated"].timestamp())

    def _pages(self, method: str, path: str, places: Mapping[str, str], **words: Any) -> Iterator[Any]:
        """The answers to a listing; `places`: which word of the next question takes which word of the answer."""
        while True:
            page = self._insist(partial(self._fs.call_s3, method, **words), path)
            yield page
            if not page.get("IsTruncated"):
                return
            words |= {asked: page[told] for asked, told in places.items()}

    def discard(self, write: Unfinished) -> None:
        bucket, _, key = write.path.removeprefix("s3://").partition("/")

        def abort() -> None:
            try:
                self._fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=write.upload)
            except FileNotFoundError:
                return

        self._insist(abort, write.path)

    def now(self, path: str) -> float:
        if not self._s3:
            return time.time()
        bucket = self._fs._strip_protocol(path).partition("/")[0]
        answer = self._insist(lambda: self._fs.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1), path)
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()

    def tidy(self, path: str, top: str) -> None:
        """Object stores have no folders."""

    def delete(self, path: str) -> None:
        def delete() -> None:
            try:
                self._fs.rm_file(path)
            except FileNotFoundError:
                return

        self._insist(delete, path)

    def download(self, path: str, to: Path) -> None:
        self._insist(lambda: self._fs.get_file(path, str(to)), path)

    def _insist(self, call: Callable[[], T], path: str, *, creating: bool = False) -> T:
        return insist(call, path, self._attempts, creating=creating)


def _stat(info: Mapping[str, Any], path: str) -> Stat:
    if info.get("type") == "directory":
        raise Missing(f"{path} is not there")  # object stores have no folders, only longer names
    seen = next((info[name] for name in ("ETag", "etag", "md5Hash", "LastModified", "Last-Modified", "mtime", "created") if info.get(name)), "")
    return Stat(int(info["size"] or 0), str(seen))


def _time(info: Mapping[str, Any]) -> float:
    """When a listing says that a file was made: each kind of storage has its own word for it."""
    seen = next((info[name] for name in ("LastModified", "last_modified", "mtime", "updated", "created") if info.get(name)), None)
    if isinstance(seen, datetime):
        return seen.timestamp()
    return float(seen) if isinstance(seen, int | float) else math.inf
