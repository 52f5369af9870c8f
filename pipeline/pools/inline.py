"""The pool for debuggers: the stage runs in the driver itself, where breakpoints hold and Ctrl-C reaches it."""

import asyncio
from collections.abc import Callable
from typing import Any

from pipeline.pools.pool import OnPart, Order
from pipeline.pools.retry import Fault, until_done
from pipeline.pools.settings import RetrySettings
from pipeline.pools.slots import Slots
from pipeline.pools.worker import Part, Worker
from stages.contract import Seat

Turn = Slots[None]
"""One place, shared by all inline pools of a run: one call at a time."""


class InlinePool:
    """Serves one order at a time and holds up everything else meanwhile."""

    def __init__(self, hire: Callable[[], Worker], turn: Turn, retry: RetrySettings) -> None:
        self._hire = hire
        self._turn = turn
        self._retry = retry
        self._worker: Worker | None = None

    async def run(self, order: Order, on_part: OnPart) -> Any:
        async def once() -> Any:
            async with self._turn.place(order.priority):
                return await self._serve(order, on_part)

        return await until_done(order, once, self._retry)

    async def close(self) -> None:
        self._turn.close()
        self._dismiss()

    async def _serve(self, order: Order, on_part: OnPart) -> Any:
        if self._worker is None:
            worker = self._hire()
            if (fault := worker.open(Seat())) is not None:
                return fault
            self._worker = worker
        for reply in self._worker.work(order):
            if isinstance(reply, Part):
                on_part(reply.value)
                await asyncio.sleep(0)  # between windows the others may move
            elif isinstance(reply, Fault):
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
