"""The interface of a stage, and what the pipeline passes to it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from infinitedub.stages.records import Artifact
from infinitedub.stages.settings import Settings

T = TypeVar("T")


class Files(Protocol):
    """The only way a stage accesses storage. One instance serves one call of one stage."""

    def fetch(self, what: Artifact | str) -> Path:
        """A local, read-only path to an artifact, verified, or to a URI of the catalogue. Raises BadInput if it does not exist, or Transient."""

    def release(self, path: Path) -> None:
        """Frees the local disk space of a fetched file that the call does not need any more."""

    def store(self, path: Path, kind: str) -> Artifact:
        """Stores a finished local file permanently. The file may be moved away."""

    def load_checkpoint(self, number: int, type_: type[T]) -> T | None:
        """The record saved under `number` by this call or an earlier one for the same result; None if it or one of its files does not exist."""

    def save_checkpoint(self, number: int, record: T) -> T:
        """Commits a part of the result at once, so that an interrupted call can be continued after it. Returns the committed record: the given one,
        or that of a concurrent call that was faster."""

    def scratch(self) -> Path:
        """A new local directory that is deleted when the call ends."""

    def deliver(self, path: Path, name: str) -> str:
        """Moves a finished local file atomically to `name` under the storage root, replacing an existing file. Returns its URI."""


@dataclass(frozen=True, slots=True)
class Rank:
    """The position of a stage's process in a gang, and its device."""

    index: int = 0
    world_size: int = 1
    device: str = "cpu"
    rendezvous: str = ""  # "tcp://host:port" of rank 0's store; empty if the world size is 1
    low_memory: bool = False  # GPU memory ran out before: use less of it, more slowly, with the same bits


class Stage(Protocol):
    """One step of the flow. It is constructed in the driver from its settings, which is cheap, and opened in the worker, which is expensive.

    A stage is called with records and returns a record. `generate` returns an iterator instead: one `Chunk` per window as it is finished, and the
    `Clip` last. Heavy imports (torch, av, cv2) happen in `open` or below it, so that the driver never loads them.
    """

    @property
    def config(self) -> Settings: ...

    def __init__(self, config: Any) -> None: ...

    def open(self, rank: Rank) -> None: ...

    # The names differ, since each stage has its own records; `files: Files` is always among them.
    def __call__(self, *records: Any, **files: Any) -> Any | Iterator[Any]: ...

    def close(self) -> None: ...
