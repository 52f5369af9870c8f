"""A worker group in the driver's own process: for debuggers, where breakpoints hold and Ctrl-C reaches the stage."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import Any

from infinitedub.pipeline.pools.calls import OnProgress, StageCall, WorkersStarted
from infinitedub.pipeline.pools.failures import Failure
from infinitedub.pipeline.pools.placement import Resources
from infinitedub.pipeline.pools.worker import Done, Worker
from infinitedub.stages.contract import Rank

Interruptible = Callable[[], AbstractContextManager[None]]
"""A context in which a second signal raises `Interrupted` instead of waiting for the event loop."""


class Interrupted(BaseException):
    """A second signal arrived while a stage blocked the event loop."""


class InlineGroup:
    """Serves every stage, one call at a time; everything else of the driver waits meanwhile."""

    def __init__(self, workers: Mapping[str, Callable[[], Worker]], interruptible: Interruptible = nullcontext) -> None:
        """`workers`: what makes the worker of each stage."""
        self._make = workers
        self._interruptible = interruptible
        self._open: dict[str, Worker] = {}
        self._interrupted = False  # calls that were queued behind the interrupted one must not start
        self._lost: set[str] = set()  # stages whose worker was given up after a failure

    @property
    def ready(self) -> bool:
        return bool(self._open)

    @property
    def held(self) -> Resources:
        return {}

    async def serve(self, call: StageCall, on_progress: OnProgress, low_memory: bool) -> Any:
        """The record, or a `Failure`. A failure that may have left the stage unsound costs its worker, and so does an interruption."""
        try:
            if not self._interrupted:
                return await self._serve(call, on_progress, low_memory)
        except Interrupted:
            self._interrupted = True
            self._close(call.stage)
        raise asyncio.CancelledError(f"{call.stage} was interrupted")

    async def _serve(self, call: StageCall, on_progress: OnProgress, low_memory: bool) -> Any:
        if call.stage not in self._open:
            started, worker = monotonic(), self._make[call.stage]()
            with self._interruptible():
                failure = worker.open(Rank(device=worker.device, low_memory=low_memory))
            if failure is not None:
                return failure.at_opening()
            self._open[call.stage] = worker
            on_progress(WorkersStarted(monotonic() - started, call.stage in self._lost))
        replies = self._open[call.stage].work(call)
        while True:
            with self._interruptible():
                reply = next(replies)
            if isinstance(reply, Done):
                return reply.record
            if isinstance(reply, Failure):
                if not reply.worker_is_reusable:
                    self._close(call.stage)
                return reply
            await asyncio.sleep(0.001)  # lets other tasks run between two windows
            on_progress(reply)

    async def close(self) -> None:
        for stage in list(self._open):
            self._close(stage)

    def _close(self, stage: str) -> None:
        worker = self._open.pop(stage, None)
        if worker is not None:
            worker.close()
            self._lost.add(stage)
