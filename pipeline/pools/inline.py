"""The pool for debuggers: the stage runs in the driver itself, where breakpoints hold and Ctrl-C reaches it."""

import asyncio
from collections.abc import Callable
from typing import Any

from infinitedub.pipeline.pools.pool import OnPart, StageCall
from infinitedub.pipeline.pools.retry import Failure, RetryPolicy
from infinitedub.pipeline.pools.slots import Slots
from infinitedub.pipeline.pools.worker import Part, Worker
from infinitedub.stages.contract import Rank

Turn = Slots[None]
"""One place, shared by all inline pools of a run: one call at a time."""


class InlinePool:
    """Serves one order at a time and holds up everything else meanwhile."""

    def __init__(self, hire: Callable[[], Worker], turn: Turn, patience: RetryPolicy) -> None:
        self._hire = hire
        self._turn = turn
        self._patience = patience
        self._worker: Worker | None = None

    async def run(self, order: StageCall, on_part: OnPart) -> Any:
        async def once(heard: OnPart, low_memory: bool) -> Any:
            async with self._turn.place(order.priority):
                return await self._serve(order, heard, low_memory)

        return await self._patience.until_done(order, on_part, once)

    def drain(self) -> None:
        self._turn.close()

    async def close(self) -> None:
        self._turn.close()
        self._dismiss()

    async def _serve(self, order: StageCall, on_part: OnPart, low_memory: bool) -> Any:
        if self._worker is None:
            worker = self._hire()
            if (fault := worker.open(Rank(low_memory=low_memory))) is not None:
                return fault.at_opening()
            self._worker = worker
        for reply in self._worker.work(order):
            if isinstance(reply, Part):
                await asyncio.sleep(0.001)  # between windows the others may move, and signals are heard
                on_part(reply.value)
            elif isinstance(reply, Failure):
                if not reply.harmless:
                    self._dismiss()
                return reply
            else:
                return reply.record
        raise RuntimeError(f"{order.stage}: the worker ended without an answer")

    def _dismiss(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None
