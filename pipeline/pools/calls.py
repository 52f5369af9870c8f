"""A call of a stage as the driver sees it, and the progress that a pool reports while it works on one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class CallLabel:
    """The job and segment that a call is for: names it in logs, events and dead letters."""

    job: str
    segment: int | None = None

    def __str__(self) -> str:
        return f"job={self.job}" if self.segment is None else f"job={self.job} segment={self.segment}"


@dataclass(frozen=True, slots=True)
class StageCall:
    """One call of one stage."""

    stage: str
    key: str  # content key: equal keys, equal results
    records: tuple[Any, ...]  # the stage's arguments
    label: CallLabel
    priority: tuple[float, ...]  # the smallest is served first: jobs started earlier, then the longest segment
    window_kind: tuple[Any, ...] = ()  # windows of one kind should take equally long: frame size and number of speakers
    window_work: float = 1.0  # see `window_work`
    sources: tuple[tuple[str, str], ...] = ()  # (URI, fingerprint) of each source that the key was made of


@dataclass(frozen=True, slots=True)
class Started:
    """A worker group has taken the call from the queue."""

    waited_seconds: float
    queue_depth: int  # calls that still wait in the pool's queue


@dataclass(frozen=True, slots=True)
class WaitingForRoom:
    """The call's worker group has no place on the cluster yet."""

    reason: str


@dataclass(frozen=True, slots=True)
class WorkersStarted:
    """The call's worker group has started its processes and opened the stage there."""

    seconds: float
    restart: bool  # the group had processes before, which were lost or killed


@dataclass(frozen=True, slots=True)
class Yielded:
    """A record that the stage has yielded, such as the `Chunk` of a window."""

    value: Any
    seconds: float  # that the worker spent on it: neither queue nor opening nor failed attempts are counted


@dataclass(frozen=True, slots=True)
class Retrying:
    """An attempt has failed and the retry policy grants another."""

    attempt: int  # the one that failed, from 1
    failure_class: str
    wait_seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Worked:
    """The worker's time for the whole call, waiting not counted. The last progress of a call that succeeds."""

    seconds: float


Progress = Started | WaitingForRoom | WorkersStarted | Yielded | Retrying | Worked

OnProgress = Callable[[Progress], None]
"""Called on the driver. An exception that it raises ends the call."""
