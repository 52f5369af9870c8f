"""Few places, many who wait: the smallest priority is served first."""

import asyncio
import heapq
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import count
from typing import Generic, TypeVar

Place = TypeVar("Place")


class Slots(Generic[Place]):
    """Hands its places out one by one: to the smallest priority that waits, among equals to the first that came."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._free = list(reversed(list(places)))
        self._waiting: list[tuple[tuple[float, ...], int, asyncio.Future[Place]]] = []
        self._arrivals = count()
        self._resting: dict[Place, float] = {}
        self._closed = False

    @asynccontextmanager
    async def place(self, priority: tuple[float, ...]) -> AsyncIterator[Place]:
        """A place, held for the length of the block. Raises CancelledError once the slots are closed."""
        place = await self._take(priority)
        try:
            yield place
        finally:
            self._give(place)

    def rest(self, place: Place, seconds: float) -> None:
        """A place that is held now is offered to nobody until so long after it is given back, and then last of those that are free."""
        self._resting[place] = seconds

    def close(self) -> None:
        """Sends everyone away who waits or comes later."""
        self._closed = True
        for _, _, waiter in self._waiting:
            waiter.cancel()
        self._waiting.clear()

    async def _take(self, priority: tuple[float, ...]) -> Place:
        if self._closed:
            raise asyncio.CancelledError("the pool is closed")
        if self._free:
            return self._free.pop()
        waiter: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._arrivals), waiter))
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # called off after it was served, before it woke up
                self._give(waiter.result())
            raise

    def _give(self, place: Place, at: int | None = None) -> None:
        if (seconds := self._resting.pop(place, None)) is not None:
            asyncio.get_running_loop().call_later(seconds, self._give, place, 0)
            return
        while self._waiting:
            waiter = heapq.heappop(self._waiting)[2]
            if not waiter.done():
                waiter.set_result(place)
                return
        self._free.insert(len(self._free) if at is None else at, place)  # the last is taken next: the place used last has a warm worker
