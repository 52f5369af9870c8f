"""What a failure means, and how often the same work is tried again: nothing for ever, nothing dropped in silence."""

import asyncio
import errno
import logging
import random
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Self

from infinitedub.pipeline.pools.circuit_breaker import CircuitBreaker
from infinitedub.pipeline.pools.pool import OnPart, StageCall
from infinitedub.pipeline.pools.settings import RetrySettings
from infinitedub.stages.errors import BadInput, ConfigError, DubError, Transient
from infinitedub.stages.records import Chunk

logger = logging.getLogger(__name__)

TRACE_LINES = 40
OURS = "infinitedub"
NO_ROOM = "no room on the cluster"
"""The mark of a fault of a worker that found no place: the same whatever is free elsewhere."""
PASSING_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EHOSTUNREACH, errno.ENETUNREACH)
"""A disk that is full or away, a network that is down: of the machine, not of the code."""


class FailureClass(StrEnum):
    """Why a call failed. Each has a budget of its own in `RetrySettings`, under the same name, but the first two."""

    INPUT = "input"  # the job's material: never tried again
    CONFIG = "config"  # the settings: never tried again
    STORAGE = "storage"
    WORKER_LOST = "worker_lost"  # the process died, or was killed because it fell silent
    GANG_LOST = "gang_lost"  # a rank died, or the ranks lost each other
    NODE_LOST = "node_lost"
    HOST_OOM = "host_oom"  # the machine's memory was full
    GPU_OOM = "gpu_oom"
    NUMERIC = "numeric"
    CODE = "code"  # everything nobody foresaw


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure as it travels: exceptions of a worker need not be known, or picklable, where it is dealt with."""

    kind: FailureClass
    reason: str
    trace: str  # the last lines of the traceback, or of what the process wrote before it died
    mark: str = ""  # the same for the same error: what it is and where it was raised; empty where that is no error of ours
    opening: bool = False  # met before the order was looked at

    @property
    def harmless(self) -> bool:
        """Whether the process that failed may take the next order: it ended the call in good order and said why."""
        return self.kind in (FailureClass.INPUT, FailureClass.CONFIG, FailureClass.STORAGE)

    def at_opening(self) -> Self:
        """The same, met before the order was looked at: if it meets others too, it is the run's failure."""
        return replace(self, mark=self.mark or f"{self.kind} while the stage was opened", opening=True)


class RetriesExhausted(DubError):
    """All tries that an order's kind of failure is allowed have failed."""

    def __init__(self, message: str, kind: FailureClass, attempts: int, trace: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.attempts = attempts
        self.trace = trace


class WorkerTraceback(Exception):
    """The cause of an error raised in the driver for one that a worker met: prints the worker's traceback."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def classify(error: BaseException) -> FailureClass:
    """The failure class of an exception, judged where it was raised. Errors of torch are told by name, so that nobody imports it for this."""
    if isinstance(error, BadInput):
        return FailureClass.INPUT
    if isinstance(error, ConfigError):
        return FailureClass.CONFIG
    if isinstance(error, Transient | ConnectionError | TimeoutError) or (isinstance(error, OSError) and error.errno in PASSING_ERRNOS):
        return FailureClass.STORAGE
    if isinstance(error, FloatingPointError):
        return FailureClass.NUMERIC
    torch_names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.partition(".")[0] == "torch"}
    text = str(error)
    if "OutOfMemoryError" in torch_names or "CUDA error: out of memory" in text or "CUBLAS_STATUS_ALLOC_FAILED" in text:
        return FailureClass.GPU_OOM
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: " in text or getattr(error, "errno", None) == errno.ENOMEM:
        return FailureClass.HOST_OOM
    if "DistError" in torch_names or "/gloo/transport/" in text or "NCCL error" in text:
        return FailureClass.GANG_LOST  # what a rank sees when another is gone
    if "AcceleratorError" in torch_names or text.startswith("CUDA error: "):
        return FailureClass.WORKER_LOST  # a GPU that failed: whatever this process asks of it fails from now on
    return FailureClass.CODE


def failure_of(error: BaseException) -> Failure:
    """The fault that tells of an exception. What is no `DubError` is introduced by its type, as in a traceback."""
    kind = classify(error)
    reason = (str(error) if isinstance(error, DubError) else "".join(traceback.format_exception_only(error)).strip()) or type(error).__name__
    mark = {FailureClass.CODE: _mark(error), FailureClass.CONFIG: reason}.get(kind, "")
    return Failure(kind, reason, tail("".join(traceback.format_exception(error))), mark)


def retries_exhausted(fault: Failure, tries: int) -> RetriesExhausted:
    """What is raised when the budget of the last fault's kind is spent."""
    often = "1 try" if tries == 1 else f"{tries} tries"
    return RetriesExhausted(f"given up after {often} ({fault.kind}): {fault.reason}", fault.kind, tries, fault.trace)


def _mark(error: BaseException) -> str:
    """The error's type and where it was raised: the last calls of ours and the very last one. Messages, which name files and sizes, do not count."""
    calls = [(str(frame.f_globals.get("__name__")), frame.f_code.co_name, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    ours = [call for call in calls if call[0].partition(".")[0] == OURS]
    return " < ".join([type(error).__name__, *(f"{module}.{function}:{line}" for module, function, line in reversed([*ours[-3:], *calls[-1:]]))])


def tail(trace: str, lines: int = TRACE_LINES) -> str:
    """The last lines of a traceback, where it says what happened."""
    return "\n".join(trace.splitlines()[-lines:])


Once = Callable[[OnPart, bool], Awaitable[Any]]
"""once(on_part, low_memory): one try at an order, which gives its record or a `Failure`; low_memory asks for a process that gets by with less."""


class RetryPolicy:
    """What the pools of a run bear: each order has its budgets, all orders together have the alarm."""

    def __init__(self, settings: RetrySettings, alarm: CircuitBreaker) -> None:
        self._settings = settings
        self._alarm = alarm

    async def until_done(self, order: StageCall, on_part: OnPart, once: Once) -> Any:
        """The result of `once`, called again after each `Failure` it gives as long as the budget of that kind of failure lasts.

        Raises BadInput or ConfigError where the stage did, and `RetriesExhausted` when a budget is spent.
        """
        spent: Counter[FailureClass] = Counter()
        tries, furthest, low_memory = 0, -1, False

        def heard(part: Any) -> None:
            nonlocal furthest
            if isinstance(part, Chunk) and part.window > furthest:
                furthest = part.window
                spent.clear()  # it was not stuck
            on_part(part)

        while isinstance(fault := await once(heard, low_memory), Failure):
            tries += 1
            spent[fault.kind] += 1
            if fault.kind in (FailureClass.INPUT, FailureClass.CONFIG):
                self._alarm.failed(order, fault.mark, fault.reason, opening=fault.opening)
                refusal = BadInput if fault.kind is FailureClass.INPUT else ConfigError
                raise refusal(fault.reason) from WorkerTraceback(fault.trace)
            if spent[fault.kind] >= getattr(self._settings, fault.kind):
                self._alarm.failed(order, fault.mark, fault.reason, opening=fault.opening)
                raise retries_exhausted(fault, tries) from WorkerTraceback(fault.trace)
            low_memory = low_memory or fault.kind is FailureClass.GPU_OOM
            pause = backoff_seconds(fault.kind, spent[fault.kind], self._settings)
            logger.warning("%s %s: try %d failed (%s), again in %.1f s: %s", order.stage, order.label, tries, fault.kind, pause, fault.reason)
            await asyncio.sleep(pause)
        self._alarm.ended_well(order)
        return fault


def backoff_seconds(kind: FailureClass, failures: int, settings: RetrySettings) -> float:
    """How long to wait after that many failures of a kind: doubling, with a jitter of half to full length so that many do not return at once."""
    if kind not in (FailureClass.STORAGE, FailureClass.NODE_LOST, FailureClass.HOST_OOM):
        return 0.0
    longest = min(settings.backoff_limit_seconds, settings.backoff_seconds * 2 ** (failures - 1))
    return longest * random.uniform(0.5, 1.0)
