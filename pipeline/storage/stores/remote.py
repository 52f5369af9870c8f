"""Storage on S3 and other object stores that fsspec reaches. The comments name the behaviour of real servers that the code depends on."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from infinitedub.pipeline.storage.stores.storage_retry import UploadEnded, retry_storage_call
from infinitedub.pipeline.storage.stores.store import FileStat, ListedFile, NotFound, UnfinishedUpload
from infinitedub.stages.errors import ConfigError, Transient

T = TypeVar("T")

PART_BYTES = 16 << 20
PARTS_AT_ONCE = 4
MAX_PARTS = 10_000  # of a multipart upload, by the S3 protocol
PAGE_KEYS = 1000  # of a listing, by the S3 protocol
REQUEST_ATTEMPTS = 3  # by botocore, per request: a lost part does not repeat the whole upload


class RemoteStore:
    """Paths are URIs. Objects are written whole, since s3fs would commit what an interrupted stream has written. Nothing is renamed or cached."""

    def __init__(self, scheme: str, options: Mapping[str, Any], attempts: int) -> None:
        self._attempts = attempts
        try:
            # The instance cache of fsspec is per thread; sessions are expensive and safe to share.
            self._fs: Any = fsspec.filesystem(scheme, skip_instance_cache=True, use_listings_cache=False, **options)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"storage of the kind {scheme}:// cannot be opened: {error}") from error
        self._s3 = scheme == "s3"
        if self._s3:
            self._fs.retries = 1  # s3fs would repeat each of botocore's repetitions

    def read(self, path: str) -> bytes:
        # One request: with several, s3fs asks for the size first and may then join parts of two versions.
        sequential = {"max_concurrency": 1} if self._s3 else {}
        return self._retry(lambda: bytes(self._fs.cat_file(path, **sequential)), path)

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        return self._retry(lambda: bytes(self._fs.cat_file(path, start=start, end=stop)), path)

    def create(self, path: str, data: bytes) -> None:
        # Not open(path, "xb"): for empty data that truncates an existing file.
        self._retry(lambda: self._fs.pipe_file(path, data, mode="create"), path, creating=True)

    def put(self, path: str, source: bytes | Path) -> None:
        if isinstance(source, bytes):
            self._retry(lambda: self._fs.pipe_file(path, source), path)
            return
        size = source.stat().st_size
        parts: dict[str, Any] = {}
        if self._s3:
            parts = {"chunksize": max(PART_BYTES, -(-size // MAX_PARTS)), "max_concurrency": PARTS_AT_ONCE}

        def put() -> None:
            self._fs.put_file(str(source), path, **parts)
            try:
                stored = int(self._fs.info(path)["size"])
            except FileNotFoundError as error:
                raise Transient(f"{path} was uploaded, but it does not exist") from error
            if stored != size:
                raise Transient(f"{path}: {size} bytes were uploaded, {stored} are stored")

        self._retry(put, path)

    def stat(self, path: str) -> FileStat:
        return self._retry(lambda: _stat(self._fs.info(path), path), path)

    def list(self, path: str) -> list[str]:
        def names() -> list[str]:
            found = (str(name).rstrip("/") for name in self._fs.ls(path, detail=False))
            return sorted(name.rsplit("/", 1)[-1] for name in found if name != self._fs._strip_protocol(path))

        try:
            return self._retry(names, path)
        except NotFound:
            return []

    def walk(self, path: str) -> dict[str, FileStat]:
        def walk() -> dict[str, FileStat]:
            root = self._fs._strip_protocol(path).rstrip("/") + "/"
            found = self._fs.find(path, detail=True)
            return {name.removeprefix(root): _stat(info, name) for name, info in found.items() if name.startswith(root) and not name.endswith("/")}

        return self._retry(walk, path)

    def scan(self, path: str) -> Iterator[ListedFile]:
        root = self._fs._strip_protocol(path).rstrip("/") + "/"
        if not self._s3:  # fsspec cannot list in pages
            for name, info in sorted(self._retry(lambda: self._fs.find(path, detail=True), path).items()):
                if name.startswith(root) and not name.endswith("/"):
                    yield ListedFile(name.removeprefix(root), int(info["size"] or 0), _time(info))
            return
        bucket, _, prefix = root.partition("/")
        query = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": PAGE_KEYS}
        for page in self._pages("list_objects_v2", path, {"ContinuationToken": "NextContinuationToken"}, **query):
            for item in page.get("Contents", []):
                if not item["Key"].endswith("/"):
                    yield ListedFile(item["Key"].removeprefix(prefix), int(item["Size"]), _time(item))

    def unfinished_uploads(self, path: str) -> Iterator[UnfinishedUpload]:
        if not self._s3:
            return
        bucket, _, prefix = (self._fs._strip_protocol(path).rstrip("/") + "/").partition("/")
        markers = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
        for page in self._pages("list_multipart_uploads", path, markers, Bucket=bucket, Prefix=prefix):
            for item in page.get("Uploads", []):
                query = {"Bucket": bucket, "Key": item["Key"], "UploadId": item["UploadId"]}
                try:
                    pages = list(self._pages("list_parts", path, {"PartNumberMarker": "NextPartNumberMarker"}, **query))
                except (UploadEnded, NotFound):  # it has ended since it was listed
                    continue
                size = sum(int(part["Size"]) for parts in pages for part in parts.get("Parts", []))
                yield UnfinishedUpload(f"s3://{bucket}/{item['Key']}", item["UploadId"], size, item["Initiated"].timestamp())

    def _pages(self, method: str, path: str, markers: Mapping[str, str], **query: Any) -> Iterator[Any]:
        """The pages of a listing. `markers`: parameter of the next request -> field of the response that holds its value."""
        while True:
            page = self._retry(partial(self._fs.call_s3, method, **query), path)
            yield page
            if not page.get("IsTruncated"):
                return
            query |= {parameter: page[field] for parameter, field in markers.items()}

    def abort_upload(self, upload: UnfinishedUpload) -> None:
        bucket, _, key = upload.path.removeprefix("s3://").partition("/")

        def abort() -> None:
            try:
                self._fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload.upload)
            except FileNotFoundError:
                return

        self._retry(abort, upload.path)

    def now(self, path: str) -> float:
        if not self._s3:
            return time.time()
        bucket = self._fs._strip_protocol(path).partition("/")[0]
        response = self._retry(lambda: self._fs.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1), path)
        return parsedate_to_datetime(response["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()

    def remove_empty_folders(self, path: str, top: str) -> None:
        """Does nothing: object stores have no folders."""

    def delete(self, path: str) -> None:
        def delete() -> None:
            try:
                self._fs.rm_file(path)
            except FileNotFoundError:
                return

        self._retry(delete, path)

    def download(self, path: str, to: Path) -> None:
        # One request: with more, s3fs holds each part in memory and may put parts of two versions together.
        sequential = {"max_concurrency": 1} if self._s3 else {}
        self._retry(lambda: self._fs.get_file(path, str(to), **sequential), path)

    def _retry(self, call: Callable[[], T], path: str, *, creating: bool = False) -> T:
        return retry_storage_call(call, path, self._attempts, creating=creating)


def _stat(info: Mapping[str, Any], path: str) -> FileStat:
    if info.get("type") == "directory":
        raise NotFound(f"{path} does not exist")  # object stores have no folders, only longer names
    names = ("ETag", "etag", "md5Hash", "LastModified", "Last-Modified", "mtime", "created")
    version = next((info[name] for name in names if info.get(name)), "")
    return FileStat(int(info["size"] or 0), str(version))


def _time(info: Mapping[str, Any]) -> float:
    """The time of modification in a listing; each kind of storage has another name for it."""
    value = next((info[name] for name in ("LastModified", "last_modified", "mtime", "updated", "created") if info.get(name)), None)
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, int | float) else math.inf
