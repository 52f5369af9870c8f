"""What a stage is, and what it is handed by whoever runs it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from infinitedub.stages.records import Artifact
from infinitedub.stages.settings import Settings

T = TypeVar("T")


class Files(Protocol):
    """The only way a stage touches storage. One instance serves one call of one stage."""

    def fetch(self, what: Artifact | str) -> Path:
        """A local, read-only path to an artifact, verified, or to a URI of the catalogue. Raises BadInput (not there) or Transient."""

    def store(self, path: Path, kind: str) -> Artifact:
        """Stores a finished local file for good and says where. The file may be moved away."""

    def load_checkpoint(self, number: int, type_: type[T]) -> T | None:
        """What this call or an earlier one for the same result has remembered under `number`; None where nothing is, or where its files have gone."""

    def save_checkpoint(self, number: int, record: T) -> T:
        """Commits a piece of the result at once, so that a call that is broken off can be taken up behind it. Returns what holds from now on: the
        given record, or that of another call that was quicker."""

    def scratch(self) -> Path:
        """A fresh local directory that is gone when the call has ended."""

    def deliver(self, path: Path, name: str) -> str:
        """Puts a finished local file atomically at `name` under the storage root, over what was there. Returns its URI."""


@dataclass(frozen=True, slots=True)
class Rank:
    """Where in a gang a stage sits, and on which device."""

    index: int = 0
    world_size: int = 1
    device: str = "cpu"
    rendezvous: str = ""  # "tcp://host:port" of rank 0's store; empty where the world is 1
    low_memory: bool = False  # the GPU was too small before: get by with less of its memory, more slowly, but with the same bits


class Stage(Protocol):
    """One verb. Built in the driver from its config, which is cheap; opened in the process that does the work, which is dear.

    A stage is called with records and gives a record. `generate` gives an iterator instead: one `Chunk` per window as it is finished,
    and the `Clip` last. Heavy imports (torch, av, cv2) happen in `open` or below it, so that the driver never pays for them.
    """

    @property
    def config(self) -> Settings: ...

    def __init__(self, config: Any) -> None: ...

    def open(self, rank: Rank) -> None: ...

    # Any names, since each stage has its own records; `files: Files` is always among them.
    def __call__(self, *records: Any, **files: Any) -> Any | Iterator[Any]: ...

    def close(self) -> None: ...
