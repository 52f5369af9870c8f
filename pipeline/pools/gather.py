"""Waiting for the ranks of a worker group: act on the first failure, and let a watchdog end a group that makes no progress."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from infinitedub.pipeline.pools.failures import Failure, FailureClass

CAUSE_FIRST = (
    FailureClass.INPUT,
    FailureClass.CONFIG,
    FailureClass.NODE_LOST,
    FailureClass.HOST_OOM,
    FailureClass.GPU_OOM,
    FailureClass.NUMERIC,
    FailureClass.STORAGE,
    FailureClass.WORKER_LOST,
    FailureClass.GANG_LOST,
    FailureClass.CODE,
)
"""From cause to consequence: when a rank fails, the others report lost connections or wrong data."""

POLL_SECONDS = 1.0  # how often the watchdog is read; progress may have changed its timeout


class Watchdog:
    """Measures the time since the last sign of progress."""

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds  # may change while a call runs
        self.last_gap_seconds = 0.0  # between the last two signs
        self._last = monotonic()

    def reset(self) -> None:
        """Notes a sign of progress."""
        now = monotonic()
        self.last_gap_seconds = now - self._last
        self._last = now

    def remaining(self) -> float:
        """Seconds until the timeout."""
        return self._last + self.timeout_seconds - monotonic()


@dataclass
class AdaptiveTimeout:
    """The watchdog's timeout per kind of window, learnt from the slowest window of that kind; shared by the groups of a pool."""

    longest_seconds: float  # before the first window of a kind, and the upper bound afterwards; for windows of more work in proportion
    factor: float
    floor_seconds: float
    slowest: dict[object, float] = field(default_factory=dict)

    def seconds_for(self, kind: object, work: float = 1.0) -> float:
        """The timeout until the next sign of progress of a call of that kind, whose windows are `work` times the work of a common one."""
        longest = self.longest_seconds * work
        if kind not in self.slowest:
            return longest
        return min(longest, max(self.floor_seconds, self.factor * self.slowest[kind]))

    def observe(self, kind: object, seconds: float) -> None:
        """A window of that kind has taken so long."""
        self.slowest[kind] = max(seconds, self.slowest.get(kind, 0.0))


@dataclass(frozen=True, slots=True)
class GatherResult:
    """The answers of all ranks in rank order; None for a rank that had not answered when waiting ended."""

    answers: tuple[Any, ...]
    unfinished: tuple[int, ...]  # the ranks that had not answered
    timeout_seconds: float

    @property
    def group_is_reusable(self) -> bool:
        """Whether every rank may take the next call: each has answered, with a result or a failure that leaves its process sound."""
        return not self.unfinished and all(failure.worker_is_reusable for failure in self.failures)

    @property
    def failures(self) -> list[Failure]:
        return [answer for answer in self.answers if isinstance(answer, Failure)]

    def outcome(self) -> Any:
        """Rank 0's answer, or the failure nearest to the cause."""
        if self.failures:
            return min(self.failures, key=lambda failure: CAUSE_FIRST.index(failure.kind))
        if self.unfinished:
            ranks = ", ".join(str(rank) for rank in self.unfinished)
            who = "the process" if len(self.answers) == 1 else f"rank {ranks} of {len(self.answers)}"
            return Failure(FailureClass.WORKER_LOST, f"{who} made no progress for {self.timeout_seconds:g} s and was killed", "")
        return self.answers[0]


async def gather_ranks(calls: Sequence[Coroutine[Any, Any, Any]], watchdog: Watchdog, settle_seconds: float) -> GatherResult:
    """Waits until every call has returned or the watchdog's timeout has passed. A call reports a failure by returning a `Failure`.

    After the first failure the other ranks have `settle_seconds` to end: they may hang in a collective for ever, but if one of them is the
    cause, its own failure says more. Calls that have not returned are cancelled.
    """
    tasks = [asyncio.ensure_future(call) for call in calls]
    pending = set(tasks)
    settling: Watchdog | None = None
    try:
        while pending and (left := (settling or watchdog).remaining()) > 0:
            done, pending = await asyncio.wait(pending, timeout=min(left, POLL_SECONDS), return_when=asyncio.FIRST_COMPLETED)
            if settling is None and any(isinstance(task.result(), Failure) for task in done):
                settling = Watchdog(settle_seconds)
        answers = tuple(None if task in pending else task.result() for task in tasks)
        return GatherResult(answers, tuple(rank for rank, task in enumerate(tasks) if task in pending), watchdog.timeout_seconds)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
