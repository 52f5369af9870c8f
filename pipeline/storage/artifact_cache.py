"""Fetched results on this node's disk, by what they hold: fetched once, whoever asks."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from infinitedub.stages.errors import Transient
from infinitedub.stages.records import Artifact


class Cache:
    """A folder of files named by their sha256, shared by all processes of the node."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def link(self, artifact: Artifact, to: Path, download: Callable[[Path], None]) -> None:
        """Puts the artifact's bytes at `to`, which must be on the cache's disk. Raises Transient where what was downloaded is not what was kept.

        `to` is a hard link, so the bytes stay for whoever was given them when the cache lets go of its own.
        """
        place = self._folder / artifact.sha256[:2] / artifact.sha256
        with suppress(FileNotFoundError):
            if place.stat().st_size == artifact.bytes:
                os.link(place, to)
                with suppress(FileNotFoundError):  # another process has let go of it since
                    os.utime(place)
                return
        download(to)
        verify(to, artifact)
        to.chmod(0o444)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        with suppress(FileExistsError):  # another process was as quick; its bytes are the same
            os.link(to, place)
        self._shrink()

    def _shrink(self) -> None:
        files: list[tuple[float, int, Path]] = []
        for path in self._folder.glob("??/*"):
            with suppress(FileNotFoundError):
                found = path.stat()
                files.append((found.st_mtime, found.st_size, path))
        surplus = sum(size for _, size, _ in files) - self._max_bytes
        for _, size, path in sorted(files):
            if surplus <= 0:
                return
            path.unlink(missing_ok=True)
            surplus -= size


def verify(path: Path, artifact: Artifact) -> None:
    """Raises Transient unless the file holds exactly the artifact's bytes."""
    found = path.stat()
    if found.st_size != artifact.bytes:
        raise Transient(f"{artifact.uri} has {found.st_size} bytes where {artifact.bytes} were kept; if it stays so, delete it and run again")
    digest = _sha256(path, found.st_ino, found.st_size, found.st_mtime_ns)
    if digest != artifact.sha256:
        raise Transient(f"{artifact.uri} has sha256 {digest} where {artifact.sha256} was kept; if it stays so, delete it and run again")


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=4096)
def _sha256(path: Path, _inode: int, _size: int, _changed_ns: int) -> str:
    """Read once per process: a call's inputs are often another's too."""
    return sha256_of(path)
