"""The retry policy: how often a failing call, or a failing storage under the driver, is tried again, and after which wait."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt

from infinitedub.pipeline.pools.calls import OnProgress, Progress, Retrying, StageCall, Yielded
from infinitedub.pipeline.pools.circuit_breaker import CircuitBreaker
from infinitedub.pipeline.pools.failures import Failure, FailureClass, WorkerTraceback, failure_of, retries_exhausted
from infinitedub.pipeline.pools.settings import RetrySettings
from infinitedub.stages.errors import BadInput, ConfigError, Transient
from infinitedub.stages.records import Chunk

T = TypeVar("T")

Attempt = Callable[[OnProgress, bool], Awaitable[Any]]
"""attempt(on_progress, low_memory): one try of a call; returns its record or a `Failure`. low_memory: in a process that uses less GPU memory."""


class RetryPolicy:
    """Grants each call a budget of attempts per failure class, and reports calls that fail for good to the circuit breaker."""

    def __init__(self, settings: RetrySettings, breaker: CircuitBreaker) -> None:
        self._settings = settings
        self._breaker = breaker

    async def run(self, call: StageCall, on_progress: OnProgress, attempt: Attempt) -> Any:
        """The record of `attempt`, repeated after each `Failure` while the budget of its class lasts.

        A call that commits a window for the first time gets full budgets again: they bound failures at one and the same window.
        Raises BadInput or ConfigError if the stage did, and RetriesExhausted when a budget is spent.
        """
        spent: Counter[FailureClass] = Counter()
        attempts, last_window, low_memory = 0, -1, False

        def watch(progress: Progress) -> None:
            nonlocal last_window
            if isinstance(progress, Yielded) and isinstance(progress.value, Chunk) and progress.value.window > last_window:
                last_window = progress.value.window
                spent.clear()
            on_progress(progress)

        while isinstance(failure := await attempt(watch, low_memory), Failure):
            attempts += 1
            spent[failure.kind] += 1
            final = failure.kind in (FailureClass.INPUT, FailureClass.CONFIG)
            if final or spent[failure.kind] >= getattr(self._settings, failure.kind):
                self._breaker.record_failure(call, failure.fingerprint, failure.reason, while_opening=failure.while_opening)
                raise _final_error(failure, attempts) from WorkerTraceback(failure.trace)
            low_memory = low_memory or failure.kind is FailureClass.GPU_OOM
            wait = backoff_seconds(failure.kind, spent[failure.kind], self._settings)
            on_progress(Retrying(attempts, failure.kind, wait, failure.reason))
            await asyncio.sleep(wait)
        self._breaker.record_success(call)
        return failure


def _final_error(failure: Failure, attempts: int) -> Exception:
    if failure.kind is FailureClass.INPUT:
        return BadInput(failure.reason)
    if failure.kind is FailureClass.CONFIG:
        return ConfigError(failure.reason)
    return retries_exhausted(failure, attempts)


def backoff_seconds(kind: FailureClass, failures: int, settings: RetrySettings) -> float:
    """The wait after that many failures of a class: doubled each time, with a jitter of half to full length so that many calls do not return at once.

    Only classes that time can heal wait: a lost process is replaced at once.
    """
    if kind not in (FailureClass.STORAGE, FailureClass.NODE_LOST, FailureClass.HOST_OOM):
        return 0.0
    longest = min(settings.backoff_limit_seconds, settings.backoff_seconds * 2 ** (failures - 1))
    return longest * random.uniform(0.5, 1.0)


async def retry_transient(settings: RetrySettings, stopping: Callable[[], bool], call: Callable[..., T], *arguments: Any) -> T:
    """The result of a storage call of the driver, made in a thread, with the budget and waits that a stage has for class `storage`.

    Raises RetriesExhausted when the budget is spent, and the call's own Transient if the run is stopping.
    """

    def wait(state: RetryCallState) -> float:
        return backoff_seconds(FailureClass.STORAGE, state.attempt_number, settings)

    def give_up(state: RetryCallState) -> bool:
        return stop_after_attempt(settings.storage)(state) or stopping()

    retrying = AsyncRetrying(stop=give_up, wait=wait, retry=retry_if_exception_type(Transient), reraise=True)
    try:
        return await retrying(asyncio.to_thread, call, *arguments)
    except Transient as error:
        attempts = retrying.statistics["attempt_number"]
        if stopping() and attempts < settings.storage:
            raise
        raise retries_exhausted(failure_of(error), attempts) from error
