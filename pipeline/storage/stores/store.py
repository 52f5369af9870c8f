"""What every kind of storage can do for us, and the three answers that are not bytes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Missing(Exception):
    """There is nothing of that name."""


class Taken(Exception):
    """There is something of that name already."""


class Refused(Exception):
    """The place itself is no use: no such bucket, no permission, a folder where a file was wanted."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What is known of a file without reading it."""

    bytes: int
    version: str  # changes when the content does: the time of change, or the server's ETag


@dataclass(frozen=True, slots=True)
class Found:
    """A file as a listing shows it."""

    name: str  # relative to where the listing began
    bytes: int
    time: float  # of its last change, by the storage's own clock, in seconds since 1970; infinite where the storage does not say


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A write that is under way, or was broken off when its process died. Nobody sees its bytes, but they are paid for."""

    path: str  # where its bytes lie, or would have come to lie
    upload: str  # the server's name for it; empty in a folder
    bytes: int
    time: float  # of its begin or of its last change, as in `Found`


class Store(Protocol):
    """Whole files by their full path, no half ones: a file is there with all its bytes, or it is not there.

    Every call may raise Missing, Taken, Refused, or, after several tries, Transient and ConfigError.
    """

    def read(self, path: str) -> bytes: ...

    def read_range(self, path: str, start: int, stop: int) -> bytes: ...

    def create(self, path: str, data: bytes) -> None:
        """Raises Taken and changes nothing where something is there already; on some servers only if it was not there at the same instant."""

    def put(self, path: str, source: bytes | Path) -> None:
        """Over what was there, in one step."""

    def stat(self, path: str) -> Stat: ...

    def list(self, path: str) -> list[str]:
        """Names of the files and folders right under `path`, sorted; none where it is not there."""

    def walk(self, path: str) -> dict[str, Stat]:
        """Every file below `path`, by its name relative to it."""

    def scan(self, path: str) -> Iterator[Found]:
        """Every file below `path`, those of one folder together. For any number of files: never more than a page or a folder is held."""

    def unfinished(self, path: str) -> Iterator[Unfinished]:
        """Every write below `path` that has been begun and has not ended."""

    def discard(self, write: Unfinished) -> None:
        """Ends a write that will never end of itself. Nothing happens where it has gone."""

    def now(self, path: str) -> float:
        """What the clock says that dates the files below `path`, in seconds since 1970."""

    def delete(self, path: str) -> None: ...

    def tidy(self, path: str, top: str) -> None:
        """Takes the folder away if it is empty, then the one above it, up to but not including `top`."""

    def download(self, path: str, to: Path) -> None: ...
