"""What a failure means, and how often the same work is tried again: nothing for ever, nothing dropped in silence."""

import asyncio
import logging
import random
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pipeline.pools.pool import Order
from pipeline.pools.settings import RetrySettings
from stages.errors import BadInput, ConfigError, DubError, Transient

logger = logging.getLogger(__name__)

TRACE_LINES = 40


class FailureClass(StrEnum):
    """Why a call failed. Each has a budget of its own in `RetrySettings`, under the same name, but the first two."""

    INPUT = "input"  # the job's material: never tried again
    CONFIG = "config"  # the settings: never tried again
    STORAGE = "storage"
    WORKER_LOST = "worker_lost"  # the process died, or was killed because it fell silent
    GANG_LOST = "gang_lost"  # a rank died, or the ranks lost each other
    NODE_LOST = "node_lost"
    GPU_OOM = "gpu_oom"
    NUMERIC = "numeric"
    CODE = "code"  # everything nobody foresaw


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure as it travels: exceptions of a worker need not be known, or picklable, where it is dealt with."""

    kind: FailureClass
    reason: str
    trace: str  # the last lines of the traceback

    @property
    def harmless(self) -> bool:
        """Whether the process that failed may take the next order: it ended the call in good order and said why."""
        return self.kind in (FailureClass.INPUT, FailureClass.CONFIG, FailureClass.STORAGE)


class Exhausted(DubError):
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
    if isinstance(error, Transient):
        return FailureClass.STORAGE
    if isinstance(error, FloatingPointError):
        return FailureClass.NUMERIC
    if isinstance(error, MemoryError):
        return FailureClass.WORKER_LOST
    torch_names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.partition(".")[0] == "torch"}
    text = str(error)
    if "OutOfMemoryError" in torch_names or "CUDA error: out of memory" in text or "CUBLAS_STATUS_ALLOC_FAILED" in text:
        return FailureClass.GPU_OOM
    if "DistError" in torch_names or "/gloo/transport/" in text or "NCCL error" in text:
        return FailureClass.GANG_LOST  # what a rank sees when another is gone
    return FailureClass.CODE


def fault_of(error: BaseException) -> Fault:
    """The fault that tells of an exception. What is no `DubError` is introduced by its type, as in a traceback."""
    reason = str(error) if isinstance(error, DubError) else "".join(traceback.format_exception_only(error)).strip()
    return Fault(classify(error), reason or type(error).__name__, tail("".join(traceback.format_exception(error))))


def tail(trace: str) -> str:
    """The last lines of a traceback, where it says what happened."""
    return "\n".join(trace.splitlines()[-TRACE_LINES:])


async def until_done(order: Order, once: Callable[[], Awaitable[Any]], settings: RetrySettings) -> Any:
    """The result of `once`, called again after each `Fault` it gives as long as the budget of that kind of failure lasts.

    Raises BadInput or ConfigError where the stage did, and `Exhausted` when a budget is spent.
    """
    spent: Counter[FailureClass] = Counter()
    while isinstance(fault := await once(), Fault):
        spent[fault.kind] += 1
        if fault.kind is FailureClass.INPUT:
            raise BadInput(fault.reason) from WorkerTraceback(fault.trace)
        if fault.kind is FailureClass.CONFIG:
            raise ConfigError(fault.reason) from WorkerTraceback(fault.trace)
        tries = spent.total()
        if spent[fault.kind] >= getattr(settings, fault.kind):
            often = "1 try" if tries == 1 else f"{tries} tries"
            raise Exhausted(f"given up after {often} ({fault.kind}): {fault.reason}", fault.kind, tries, fault.trace) from WorkerTraceback(
                fault.trace
            )
        pause = backoff_seconds(fault.kind, spent[fault.kind], settings)
        logger.warning("%s %s: try %d failed (%s), again in %.1f s: %s", order.stage, order.label, tries, fault.kind, pause, fault.reason)
        await asyncio.sleep(pause)
    return fault


def backoff_seconds(kind: FailureClass, failures: int, settings: RetrySettings) -> float:
    """How long to wait after that many failures of a kind: doubling, with a jitter of half to full length so that many do not return at once."""
    if kind not in (FailureClass.STORAGE, FailureClass.NODE_LOST):
        return 0.0
    longest = min(settings.backoff_limit_seconds, settings.backoff_seconds * 2 ** (failures - 1))
    return longest * random.uniform(0.5, 1.0)
