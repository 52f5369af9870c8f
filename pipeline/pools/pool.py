"""What the flow asks of whoever does the work."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class CallLabel:
    """What a piece of work is about, for logs, events and dead letters."""

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
    priority: tuple[float, ...]  # smaller goes first: jobs begun earlier, then the longest piece of work
    pace: tuple[Any, ...] = ()  # calls of equal pace should need equally long for a window: what size it has, for how many speakers


@dataclass(frozen=True, slots=True)
class WorkSeconds:
    """How long a worker worked at an order, waiting not counted. The last part of a call that ends well."""

    seconds: float


OnPart = Callable[[Any], None]
"""Called on the driver with each part that a stage yields on the way, such as a `Chunk` per window, and with `WorkSeconds` at the end."""


class Pool(Protocol):
    """Takes orders for one stage. Many may wait at once; they are served in the order of their priority."""

    async def run(self, order: StageCall, on_part: OnPart) -> Any:
        """The stage's committed record. Raises BadInput, ConfigError, or `RetriesExhausted` when the budget of tries is spent."""

    def drain(self) -> None:
        """Takes no more orders: those that wait for a place, or come later, end with CancelledError. Those that are worked at go on."""

    async def close(self) -> None:
        """Ends every process of the pool. Work in progress is lost."""
