"""Storage in folders of this machine, or of a file system that every node has mounted."""

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

from infinitedub.pipeline.storage.stores.storage_retry import retry_storage_call
from infinitedub.pipeline.storage.stores.store import AccessRefused, FileStat, ListedFile, NotFound, UnfinishedUpload

T = TypeVar("T")

PART = ".part"  # suffix of files that are being written
UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.part")
OPEN_ATTEMPTS = 20  # while other processes remove the folder because it is empty


class FolderStore:
    """Paths are absolute. A file is written under another name beside its path, synced to disk, and then linked or renamed: no reader sees a part."""

    def __init__(self, attempts: int) -> None:
        self._attempts = attempts

    def read(self, path: str) -> bytes:
        return self._retry(lambda: Path(path).read_bytes(), path)

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        def read() -> bytes:
            with open(path, "rb") as file:
                file.seek(start)
                return file.read(stop - start)

        return self._retry(read, path)

    def create(self, path: str, data: bytes) -> None:
        def create() -> None:
            with _part_file(Path(path), data) as part:
                os.link(part, path)  # unlike a rename, it fails if the file exists

        retry_storage_call(create, path, self._attempts, creating=True)

    def put(self, path: str, source: bytes | Path) -> None:
        def put() -> None:
            with _part_file(Path(path), source) as part:
                os.replace(part, path)

        self._retry(put, path)

    def stat(self, path: str) -> FileStat:
        return self._retry(lambda: _stat(Path(path)), path)

    def list(self, path: str) -> list[str]:
        def names() -> list[str]:
            return sorted(name for name in os.listdir(path) if not name.endswith(PART))

        try:
            return self._retry(names, path)
        except NotFound:
            return []

    def walk(self, path: str) -> dict[str, FileStat]:
        def walk() -> dict[str, FileStat]:
            root = Path(path)
            files = (Path(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names)
            return {file.relative_to(root).as_posix(): _stat(file) for file in files if file.suffix != PART}

        return self._retry(walk, path)

    def scan(self, path: str) -> Iterator[ListedFile]:
        for entry in self._entries(Path(path)):
            if not entry.name.endswith(PART):
                with suppress(NotFound):  # deleted since it was listed
                    status = self._retry(entry.stat, entry.path)
                    yield ListedFile(os.path.relpath(entry.path, path), status.st_size, status.st_mtime)

    def unfinished_uploads(self, path: str) -> Iterator[UnfinishedUpload]:
        for entry in self._entries(Path(path)):
            if UNFINISHED.fullmatch(entry.name):
                with suppress(NotFound):  # finished since it was listed
                    status = self._retry(entry.stat, entry.path)
                    yield UnfinishedUpload(entry.path, "", status.st_size, status.st_mtime)

    def _entries(self, folder: Path) -> Iterator["os.DirEntry[str]"]:
        """Every file below the folder, one folder at a time, by name. Links to folders are not followed: their content may be listed
        elsewhere, or belong to something else."""

        def entries() -> list[os.DirEntry[str]]:
            with os.scandir(folder) as found:
                return sorted(found, key=lambda entry: entry.name)

        try:
            here = self._retry(entries, str(folder))
        except NotFound:
            return
        for entry in here:
            if entry.is_dir(follow_symlinks=False):
                yield from self._entries(Path(entry.path))
            else:
                yield entry

    def abort_upload(self, upload: UnfinishedUpload) -> None:
        self.delete(upload.path)

    def now(self, path: str) -> float:
        # The server of a network share has a clock of its own; a new file shows its time.
        def modified() -> float:
            with _part_file(Path(path) / "clock", b"") as part:
                return part.stat().st_mtime

        return self._retry(modified, path) if os.path.isdir(path) else time.time()

    def delete(self, path: str) -> None:
        self._retry(lambda: Path(path).unlink(missing_ok=True), path)

    def remove_empty_folders(self, path: str, top: str) -> None:
        folder = Path(path)
        with suppress(OSError):  # it is not empty, or another process has removed it
            while folder.is_relative_to(top) and folder != Path(top):
                folder.rmdir()
                folder = folder.parent

    def download(self, path: str, to: Path) -> None:
        self._retry(lambda: shutil.copyfile(path, to), path)

    def _retry(self, call: Callable[[], T], path: str) -> T:
        return retry_storage_call(call, path, self._attempts)


def _stat(path: Path) -> FileStat:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise AccessRefused(f"{path} is not a file but a {'folder' if stat.S_ISDIR(status.st_mode) else 'device or pipe'}")
    return FileStat(status.st_size, str(status.st_mtime_ns))


@contextmanager
def _part_file(path: Path, source: bytes | Path) -> Iterator[Path]:
    """A synced copy of the source in the folder of `path`, removed afterwards if it was not renamed. Creates the folder if needed."""
    part = path.parent / f".{uuid4().hex}{PART}"
    to = _open_new(part)
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
        _sync_folder(path.parent)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def _open_new(part: Path) -> BinaryIO:
    """A new file, with its parent folders. Retried, since `remove_empty_folders` of another process may remove a new folder at this moment."""
    attempts = 0
    while True:
        try:
            _make_folder(part.parent)
            return open(part, "xb")
        except (FileExistsError, FileNotFoundError) as error:  # permanent if a file is in the way, or below /proc, or on a drive that does not exist
            attempts += 1
            if attempts == OPEN_ATTEMPTS:
                exists = isinstance(error, FileExistsError)
                raise AccessRefused(f"{part.parent} {'is a file; wanted a folder' if exists else 'cannot be created'}") from error


def _make_folder(folder: Path) -> None:
    """The folder and its parents, each synced to disk."""
    new = []
    while not folder.is_dir() and folder not in new:
        new.append(folder)
        folder = folder.parent
    for folder in reversed(new):
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Syncs the folder's entries to disk, so that a file's name survives a power cut as its bytes do."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
