"""Downloaded artifacts on this node's disk, by their sha256: each is downloaded once for all processes of the node."""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from infinitedub.stages.errors import Damaged
from infinitedub.stages.records import Artifact

SCAN_SHARE = 16  # the cache is scanned again when 1/16 of its size has been added: it may exceed its size by so much per process


class ArtifactCache:
    """A folder of files named by their sha256, shared by all processes of the node. One instance should serve a whole process."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._bytes_until_scan = 0  # the first download scans what earlier processes have left

    def link(self, artifact: Artifact, to: Path, download: Callable[[Path], None]) -> None:
        """Links the artifact's bytes to `to`, which must be on the cache's disk; they are downloaded if the cache does not hold them.

        Several callers of one artifact, threads or processes, cause one download. `to` is a hard link, so its bytes stay when the cache removes
        its own link. Raises Damaged if the downloaded bytes are not those of the artifact.
        """
        cached = self._folder / artifact.sha256[:2] / artifact.sha256
        if _link_cached(cached, artifact, to):
            return
        with _locked(self._folder / "locks", artifact.sha256):
            if _link_cached(cached, artifact, to):  # downloaded by another caller while this one waited for the lock
                return
            download(to)
            verify(to, artifact)
            to.chmod(0o444)
            cached.parent.mkdir(parents=True, exist_ok=True)
            cached.unlink(missing_ok=True)
            os.link(to, cached)
        self._bytes_until_scan -= artifact.bytes
        if self._bytes_until_scan <= 0:
            self._shrink()
            self._bytes_until_scan = self._max_bytes // SCAN_SHARE

    def _shrink(self) -> None:
        """Removes the files that were not used for the longest time, until the cache has its size. Lists the whole cache."""
        files: list[tuple[float, int, Path]] = []
        for path in self._folder.glob("??/*"):
            with suppress(FileNotFoundError):
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        surplus = sum(size for _, size, _ in files) - self._max_bytes
        for _, size, path in sorted(files):
            if surplus <= 0:
                return
            path.unlink(missing_ok=True)
            surplus -= size


def verify(path: Path, artifact: Artifact) -> None:
    """Raises Damaged unless the file holds exactly the artifact's bytes."""
    status = path.stat()
    if status.st_size != artifact.bytes:
        raise Damaged(f"{artifact.uri} has {status.st_size} bytes; wanted {artifact.bytes}; if this persists, delete the file and run again")
    digest = _sha256(path, status.st_ino, status.st_size, status.st_mtime_ns)
    if digest != artifact.sha256:
        raise Damaged(f"{artifact.uri} has sha256 {digest}; wanted {artifact.sha256}; if this persists, delete the file and run again")


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link_cached(cached: Path, artifact: Artifact, to: Path) -> bool:
    """Links the cached file to `to` and marks it as used now; False if the cache does not hold it whole."""
    try:
        if cached.stat().st_size != artifact.bytes:
            return False
        os.link(cached, to)
    except FileNotFoundError:
        return False
    with suppress(FileNotFoundError):  # another process has removed it since
        os.utime(cached)
    return True


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """Holds the lock of that name against all threads and processes of the node. Its file is removed afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    while True:
        with open(path, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                if os.fstat(file.fileno()).st_ino != path.stat().st_ino:
                    continue
            except FileNotFoundError:  # the holder before has removed the file: a later caller would lock another one
                continue
            try:
                yield
            finally:
                path.unlink()
            return


@lru_cache(maxsize=4096)
def _sha256(path: Path, _inode: int, _size: int, _modified_ns: int) -> str:
    """Digest of a file, computed once per process: several calls often have the same inputs."""
    return sha256_of(path)
