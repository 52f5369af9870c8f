"""Several processes at one piece of work: wait for all, but act on the first that fails and on silence."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from infinitedub.pipeline.pools.retry import Failure, FailureClass

TELLING = (
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
"""From cause to consequence: when a rank fails, those it leaves behind complain of lost connections or of nonsense."""

LOOKING_SECONDS = 1.0  # how often patience is looked at, which a sign may have changed


class Watchdog:
    """Counts the time since somebody last gave a sign."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds  # of patience; may change on the way
        self.silence = 0.0  # seconds: the one that the last sign broke
        self._heard = monotonic()

    def heard(self) -> None:
        now = monotonic()
        self.silence = now - self._heard
        self._heard = now

    def left(self) -> float:
        """Seconds until patience ends."""
        return self._heard + self.seconds - monotonic()


@dataclass(frozen=True, slots=True)
class GatherResult:
    """How calls that were made together ended, in their order; `None` for one that had not when waiting for it ended."""

    answers: tuple[Any, ...]
    hushed: tuple[int, ...]  # the calls that had not ended
    silence_seconds: float

    @property
    def intact(self) -> bool:
        """Whether all who were called may be called again: each has ended, well or with a harmless fault."""
        return not self.hushed and all(fault.harmless for fault in self.faults)

    @property
    def faults(self) -> list[Failure]:
        return [answer for answer in self.answers if isinstance(answer, Failure)]

    def verdict(self) -> Any:
        """The first call's answer, or else the most telling fault."""
        if self.faults:
            return min(self.faults, key=lambda fault: TELLING.index(fault.kind))
        if self.hushed:
            who = ", ".join(str(place) for place in self.hushed)
            whose = "the process" if len(self.answers) == 1 else f"rank {who} of {len(self.answers)}"
            return Failure(FailureClass.WORKER_LOST, f"{whose} gave no sign for {self.silence_seconds:g} s and was killed", "")
        return self.answers[0]


async def gather_ranks(calls: Sequence[Coroutine[Any, Any, Any]], watch: Watchdog, settle_seconds: float) -> GatherResult:
    """Waits until every call has ended, or patience has. Calls tell of failures by giving a `Failure`.

    Once one has failed the others have `settle_seconds`: they may be blocked for ever in a collective with it, but where they die of the
    same cause, or are the cause, it is worth hearing. Calls that have not ended are cancelled.
    """
    tasks = [asyncio.ensure_future(call) for call in calls]
    pending = set(tasks)
    settling: Watchdog | None = None
    try:
        while pending and (left := (settling or watch).left()) > 0:
            done, pending = await asyncio.wait(pending, timeout=min(left, LOOKING_SECONDS), return_when=asyncio.FIRST_COMPLETED)
            if settling is None and any(isinstance(task.result(), Failure) for task in done):
                settling = Watchdog(settle_seconds)
        answers = tuple(None if task in pending else task.result() for task in tasks)
        return GatherResult(answers, tuple(place for place, task in enumerate(tasks) if task in pending), watch.seconds)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
