"""What every kind of storage can do for us, and the three answers that are not bytes."""

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

    def delete(self, path: str) -> None: ...

    def download(self, path: str, to: Path) -> None: ...
