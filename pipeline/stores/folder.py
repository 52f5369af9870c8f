"""Folders of this machine, or of a file system that every node has mounted."""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from pipeline.stores.insist import insist
from pipeline.stores.store import Missing, Refused, Stat

T = TypeVar("T")

PART = ".part"  # ends the names of files still being written


class FolderStore:
    """Paths are absolute. A file is written beside its place, forced to disk, and then linked or moved there: readers never see half of it."""

    def __init__(self, attempts: int) -> None:
        self._attempts = attempts

    def read(self, path: str) -> bytes:
        return self._insist(lambda: Path(path).read_bytes(), path)

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        def read() -> bytes:
            with open(path, "rb") as file:
                file.seek(start)
                return file.read(stop - start)

        return self._insist(read, path)

    def create(self, path: str, data: bytes) -> None:
        def create() -> None:
            with _beside(Path(path), data) as part:
                os.link(part, path)  # unlike a move it fails where something is there

        self._insist(create, path)

    def put(self, path: str, source: bytes | Path) -> None:
        def put() -> None:
            with _beside(Path(path), source) as part:
                os.replace(part, path)

        self._insist(put, path)

    def stat(self, path: str) -> Stat:
        return self._insist(lambda: _stat(Path(path)), path)

    def list(self, path: str) -> list[str]:
        def names() -> list[str]:
            return sorted(name for name in os.listdir(path) if not name.endswith(PART))

        try:
            return self._insist(names, path)
        except Missing:
            return []

    def walk(self, path: str) -> dict[str, Stat]:
        def walk() -> dict[str, Stat]:
            root = Path(path)
            places = (Path(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names)
            return {place.relative_to(root).as_posix(): _stat(place) for place in places if place.suffix != PART}

        return self._insist(walk, path)

    def delete(self, path: str) -> None:
        self._insist(lambda: Path(path).unlink(missing_ok=True), path)

    def download(self, path: str, to: Path) -> None:
        self._insist(lambda: shutil.copyfile(path, to), path)

    def _insist(self, call: Callable[[], T], path: str) -> T:
        return insist(call, path, self._attempts)


def _stat(path: Path) -> Stat:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise Refused(f"{path} is not a file but a {'folder' if stat.S_ISDIR(found.st_mode) else 'device or pipe'}")
    return Stat(found.st_size, str(found.st_mtime_ns))


@contextmanager
def _beside(path: Path, source: bytes | Path) -> Iterator[Path]:
    """A finished copy of the source in the folder of `path`, gone afterwards if it was not moved; the folder is made where needed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise Refused(f"{path.parent} is a file where a folder is wanted") from error
    except FileNotFoundError as error:  # below /proc, or a drive that is not there
        raise Refused(f"{path.parent} cannot be made") from error
    part = path.parent / f".{uuid4().hex}{PART}"
    try:
        with open(part, "wb") as to:
            if isinstance(source, bytes):
                to.write(source)
            else:
                with open(source, "rb") as file:
                    shutil.copyfileobj(file, to, 1 << 20)
            to.flush()
            os.fsync(to.fileno())
        yield part
        _sync(path.parent)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def _sync(folder: Path) -> None:
    """Forces the folder's own entries to disk, so that a name survives a power cut as its bytes do."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
