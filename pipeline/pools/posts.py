"""The places of a pool, and which of them an order goes to."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

from infinitedub.pipeline.pools.pool import OnPart, StageCall
from infinitedub.pipeline.pools.retry import NO_ROOM, Failure, FailureClass
from infinitedub.pipeline.pools.slots import Slots

logger = logging.getLogger(__name__)


class WorkerSlot(Protocol):
    """A place for one worker, or for one gang of them, which comes up with the first order."""

    @property
    def stands(self) -> bool:
        """Whether its workers are up and have opened their stage."""

    async def serve(self, order: StageCall, on_part: OnPart, low_memory: bool) -> Any:
        """The record, or a `Failure`."""


P = TypeVar("P", bound=WorkerSlot)


class Dispatcher(Generic[P]):
    """Serves each order at the first post that is free. One that cannot be filled, where others can, is of its node and not of the settings."""

    def __init__(self, posts: Sequence[P], rest_seconds: float) -> None:
        """`rest_seconds`: how long a post that cannot be filled is offered to nobody."""
        self._posts = posts
        self._slots = Slots(posts)
        self._rest_seconds = rest_seconds
        self._busy: list[P] = []
        self._have_stood = False

    async def serve(self, order: StageCall, on_part: OnPart, low_memory: bool) -> Any:
        """The record, or a `Failure`. A call that has come to a slot which cannot be filled waits for another, as long as one stands or comes up."""
        while True:
            async with self._slots.place(order.priority) as post:
                self._busy.append(post)
                try:
                    answer = await post.serve(order, on_part, low_memory)
                finally:
                    self._busy.remove(post)
                if not isinstance(answer, Failure) or not answer.opening:
                    self._have_stood = True
                    return answer
                if answer.kind is not FailureClass.CONFIG:
                    return answer
                if not any(other.stands or other in self._busy for other in self._posts if other is not post):
                    gone = answer.mark == NO_ROOM and self._have_stood
                    return replace(answer, kind=FailureClass.NODE_LOST, mark="").at_opening() if gone else answer
                logger.warning("%s: one of its places rests for %g s, the others go on: %s", order.stage, self._rest_seconds, answer.reason)
                self._slots.rest(post, self._rest_seconds)

    def drain(self) -> None:
        """Takes no more orders."""
        self._slots.close()
