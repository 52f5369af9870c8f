"""Folders of this machine, or of a file system that every node has mounted."""

import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar
from uuid import uuid4

from infinitedub.pipeline.storage.stores.storage_retry import insist
from infinitedub.pipeline.storage.stores.store import Found, Missing, Refused, Stat, Unfinished

T = TypeVar("T")

PART = ".part"  # ends the names of files still being written
WRITING = re.compile(r"\.[0-9a-f]{32}\.part")
MAKING_TRIES = 20  # of a folder that others take away because it is empty


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

        insist(create, path, self._attempts, creating=True)

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

    def scan(self, path: str) -> Iterator[Found]:
        for place in self._files(Path(path)):
            if not place.name.endswith(PART):
                with suppress(Missing):  # deleted meanwhile
                    found = self._insist(place.stat, place.path)
                    yield Found(os.path.relpath(place.path, path), found.st_size, found.st_mtime)

    def unfinished(self, path: str) -> Iterator[Unfinished]:
        for place in self._files(Path(path)):
            if WRITING.fullmatch(place.name):
                with suppress(Missing):  # finished meanwhile
                    found = self._insist(place.stat, place.path)
                    yield Unfinished(place.path, "", found.st_size, found.st_mtime)

    def _files(self, folder: Path) -> Iterator["os.DirEntry[str]"]:
        """A folder at a time, by name. Links to folders are not followed: what they show may be there twice, or be somebody else's."""

        def entries() -> list[os.DirEntry[str]]:
            with os.scandir(folder) as found:
                return sorted(found, key=lambda entry: entry.name)

        try:
            here = self._insist(entries, str(folder))
        except Missing:
            return
        for entry in here:
            if entry.is_dir(follow_symlinks=False):
                yield from self._files(Path(entry.path))
            else:
                yield entry

    def discard(self, write: Unfinished) -> None:
        self.delete(write.path)

    def now(self, path: str) -> float:
        # A share's server has a clock of its own, which a file made now will tell.
        def made() -> float:
            with _beside(Path(path) / "clock", b"") as part:
                return part.stat().st_mtime

        return self._insist(made, path) if os.path.isdir(path) else time.time()

    def delete(self, path: str) -> None:
        self._insist(lambda: Path(path).unlink(missing_ok=True), path)

    def tidy(self, path: str, top: str) -> None:
        folder = Path(path)
        with suppress(OSError):  # not empty, or another has taken it away
            while folder.is_relative_to(top) and folder != Path(top):
                folder.rmdir()
                folder = folder.parent

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
    part = path.parent / f".{uuid4().hex}{PART}"
    to = _opened(part)
    try:
        with to:
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


def _opened(part: Path) -> BinaryIO:
    """A new file, and the folders above it where they are not there. Tried again, since `tidy` may take an empty one away at this instant."""
    tries = 0
    while True:
        try:
            _make(part.parent)
            return open(part, "xb")
        except (FileExistsError, FileNotFoundError) as error:  # for good: a file there, or below /proc, or on a drive that is not there
            tries += 1
            if tries == MAKING_TRIES:
                there = isinstance(error, FileExistsError)
                raise Refused(f"{part.parent} {'is a file where a folder is wanted' if there else 'cannot be made'}") from error


def _make(folder: Path) -> None:
    """The folder and those above it, each forced to disk."""
    new = []
    while not folder.is_dir() and folder not in new:
        new.append(folder)
        folder = folder.parent
    for folder in reversed(new):
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    """Forces the folder's own entries to disk, so that a name survives a power cut as its bytes do."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
