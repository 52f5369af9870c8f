"""A worker group in the driver's own process: for debuggers, where breakpoints hold and Ctrl-C reaches the stage."""

import asyncio
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from infinitedub.pipeline.pools.calls import OnProgress, StageCall, WorkersStarted
from infinitedub.pipeline.pools.failures import Failure
from infinitedub.pipeline.pools.worker import Done, Worker
from infinitedub.stages.contract import Rank


class InlineGroup:
    """Serves every stage, one call at a time; everything else of the driver waits meanwhile."""

    def __init__(self, workers: Mapping[str, Callable[[], Worker]]) -> None:
        """`workers`: what makes the worker of each stage."""
        self._make = workers
        self._open: dict[str, Worker] = {}
        self._lost: set[str] = set()  # stages whose worker was given up after a failure

    @property
    def ready(self) -> bool:
        return bool(self._open)

    async def serve(self, call: StageCall, on_progress: OnProgress, low_memory: bool) -> Any:
        """The record, or a `Failure`. A failure that may have left the stage unsound costs its worker."""
        if call.stage not in self._open:
            started, worker = monotonic(), self._make[call.stage]()
            if (failure := worker.open(Rank(low_memory=low_memory))) is not None:
                return failure.at_opening()
            self._open[call.stage] = worker
            on_progress(WorkersStarted(monotonic() - started, call.stage in self._lost))
        for reply in self._open[call.stage].work(call):
            if isinstance(reply, Done):
                return reply.record
            if isinstance(reply, Failure):
                if not reply.worker_is_reusable:
                    self._close(call.stage)
                return reply
            await asyncio.sleep(0.001)  # lets other tasks and signal handlers run between two windows
            on_progress(reply)
        raise RuntimeError(f"{call.stage}: the worker ended without a reply")

    async def close(self) -> None:
        for stage in list(self._open):
            self._close(stage)

    def _close(self, stage: str) -> None:
        self._open.pop(stage).close()
        self._lost.add(stage)
