"""Whatever fsspec reaches; S3 first of all. Written against what real servers do, see the comments."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from pipeline.stores.insist import insist
from pipeline.stores.store import Missing, Stat
from stages.errors import ConfigError, Transient

T = TypeVar("T")

PART_BYTES = 16 << 20
PARTS_AT_ONCE = 4
MAX_PARTS = 10_000  # of a multipart upload, by the S3 protocol
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
        if scheme == "s3":
            self._fs.retries = 1  # s3fs would repeat each of botocore's repetitions

    def read(self, path: str) -> bytes:
        return self._insist(lambda: bytes(self._fs.cat_file(path)), path)

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        return self._insist(lambda: bytes(self._fs.cat_file(path, start=start, end=stop)), path)

    def create(self, path: str, data: bytes) -> None:
        # Not open(path, "xb"): of an empty file that truncates what is there.
        self._insist(lambda: self._fs.pipe_file(path, data, mode="create"), path)

    def put(self, path: str, source: bytes | Path) -> None:
        if isinstance(source, bytes):
            self._insist(lambda: self._fs.pipe_file(path, source), path)
            return
        size = source.stat().st_size
        parts: dict[str, Any] = {}
        if "s3" in self._fs.protocol:
            parts = {"chunksize": max(PART_BYTES, -(-size // MAX_PARTS)), "max_concurrency": PARTS_AT_ONCE}
        self._insist(lambda: self._fs.put_file(str(source), path, **parts), path)
        kept = self.stat(path).bytes
        if kept != size:
            raise Transient(f"{path}: {size} bytes were sent, {kept} arrived")

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

    def delete(self, path: str) -> None:
        def delete() -> None:
            try:
                self._fs.rm_file(path)
            except FileNotFoundError:
                return

        self._insist(delete, path)

    def download(self, path: str, to: Path) -> None:
        self._insist(lambda: self._fs.get_file(path, str(to)), path)

    def _insist(self, call: Callable[[], T], path: str) -> T:
        return insist(call, path, self._attempts)


def _stat(info: Mapping[str, Any], path: str) -> Stat:
    if info.get("type") == "directory":
        raise Missing(f"{path} is not there")  # object stores have no folders, only longer names
    seen = next((info[name] for name in ("ETag", "etag", "md5Hash", "LastModified", "Last-Modified", "mtime", "created") if info.get(name)), "")
    return Stat(int(info["size"] or 0), str(seen))
