"""The interface of a storage backend, and the exceptions that every backend raises in place of its library's."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class NotFound(Exception):
    """No file of that name exists."""


class AlreadyExists(Exception):
    """A file of that name exists already."""


class AccessRefused(Exception):
    """The location cannot be used at all: the bucket does not exist, permission is denied, or a folder is where a file was wanted."""


@dataclass(frozen=True, slots=True)
class FileStat:
    """What a storage says about a file without reading it."""

    bytes: int
    version: str  # changes when the content does: the time of modification, or the server's ETag


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file of a listing."""

    name: str  # relative to the listed folder
    bytes: int
    time: float  # of the last modification by the storage's own clock, seconds since 1970; infinite if the storage does not say


@dataclass(frozen=True, slots=True)
class UnfinishedUpload:
    """A write that is in progress, or that ended when its process died. No reader sees its bytes, but they occupy space."""

    path: str  # of the partial file, or of the object that the upload would create
    upload: str  # the server's id of a multipart upload; empty in a folder
    bytes: int
    time: float  # when it began or was last modified, as in `ListedFile`


class Store(Protocol):
    """Reads and writes whole files by their full path: a file exists with all its bytes, or it does not exist.

    Every call may raise NotFound, AlreadyExists or AccessRefused, and after several attempts Transient or ConfigError.
    """

    def read(self, path: str) -> bytes: ...

    def read_range(self, path: str, start: int, stop: int) -> bytes: ...

    def create(self, path: str, data: bytes) -> None:
        """Raises AlreadyExists and changes nothing if the file exists. Some servers check first and write then, so two may create it at once."""

    def put(self, path: str, source: bytes | Path) -> None:
        """Writes or replaces the file in one step."""

    def stat(self, path: str) -> FileStat: ...

    def list(self, path: str) -> list[str]:
        """Names of the files and folders directly under `path`, sorted; empty if `path` does not exist."""

    def walk(self, path: str) -> dict[str, FileStat]:
        """Every file below `path`, by its relative name."""

    def scan(self, path: str) -> Iterator[ListedFile]:
        """Every file below `path`, grouped by folder. Holds at most one page or folder of the listing in memory."""

    def unfinished_uploads(self, path: str) -> Iterator[UnfinishedUpload]:
        """Every write below `path` that has begun and has not ended."""

    def abort_upload(self, upload: UnfinishedUpload) -> None:
        """Removes what an unfinished write has left. Does nothing if it no longer exists."""

    def now(self, path: str) -> float:
        """The current time by the clock that dates the files below `path`, seconds since 1970."""

    def delete(self, path: str) -> None: ...

    def remove_empty_folders(self, path: str, top: str) -> None:
        """Removes the folder if it is empty, then its parents while they are empty, up to but not including `top`."""

    def download(self, path: str, to: Path) -> None: ...
