"""A pool: one queue of calls by priority, served by worker groups that start when they are first needed."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from time import monotonic
from typing import Any, Protocol

from infinitedub.pipeline.pools.calls import OnProgress, StageCall, Started
from infinitedub.pipeline.pools.failures import NO_ROOM, Failure, FailureClass
from infinitedub.pipeline.pools.placement import Resources
from infinitedub.pipeline.pools.retry import RetryPolicy

logger = logging.getLogger(__name__)


class WorkerGroup(Protocol):
    """One or several processes that serve one call at a time together. They start with the first call."""

    @property
    def ready(self) -> bool:
        """Whether the processes run and have opened the stage."""

    @property
    def held(self) -> Resources:
        """What the group's processes reserve on the cluster now, summed over its ranks; empty while it has no place."""

    async def serve(self, call: StageCall, on_progress: OnProgress, low_memory: bool) -> Any:
        """The call's committed record, or a `Failure`. A call that is cancelled takes the group's processes with it."""

    async def close(self) -> None:
        """Closes the stage and ends the processes. A later call starts them again."""


@dataclass(order=True, slots=True)
class QueuedCall:
    """A call that waits for a group: the smallest priority first, among equals the first to arrive."""

    priority: tuple[float, ...]
    arrival: int
    call: StageCall = field(compare=False)
    on_progress: OnProgress = field(compare=False)
    low_memory: bool = field(compare=False)
    result: asyncio.Future[Any] = field(compare=False)
    queued_at: float = field(compare=False)


class Pool:
    """Serves the calls of one stage, or of all stages where one group serves them all."""

    def __init__(self, groups: Sequence[WorkerGroup], retry: RetryPolicy, rest_seconds: float) -> None:
        """`rest_seconds`: how long a group that cannot be started, while others can, takes no calls."""
        self.groups = groups
        self._retry = retry
        self._rest_seconds = rest_seconds
        self._queue: asyncio.PriorityQueue[QueuedCall] = asyncio.PriorityQueue()
        self._arrivals = count()
        self._unused = list(reversed(groups))  # groups that no server task works for yet
        self._servers: set[asyncio.Task[None]] = set()
        self._idle: dict[WorkerGroup, tuple[float, asyncio.Task[None]]] = {}  # since when a group waits for a call, and its server task
        self._busy: list[WorkerGroup] = []
        self._was_ready = False
        self._draining = False

    async def run(self, call: StageCall, on_progress: OnProgress) -> Any:
        """The stage's committed record. Raises BadInput, ConfigError, or RetriesExhausted when the retry budget is spent."""
        return await self._retry.run(call, on_progress, partial(self._attempt, call))

    def drain(self) -> None:
        """Takes no more calls: those in the queue, and later ones, end with CancelledError. Calls that a group serves go on."""
        self._draining = True
        while not self._queue.empty():
            self._queue.get_nowait().result.cancel()

    @property
    def idle(self) -> Mapping[WorkerGroup, float]:
        """The groups that wait for a call, and since when (by `time.monotonic`)."""
        return {group: since for group, (since, _) in self._idle.items()}

    async def retire(self, group: WorkerGroup) -> None:
        """Ends the processes of an idle group, which gives its place on the cluster back. A later call starts it again."""
        _, server = self._idle.pop(group)  # at once: no other waiting group may choose it as well
        try:
            server.cancel()
            await asyncio.gather(server, return_exceptions=True)
            await group.close()
        finally:
            self._unused.append(group)
            self._start_server()  # a call may have arrived meanwhile

    async def close(self) -> None:
        """Drains the pool and ends every process. A call in progress is lost, except for what it has committed."""
        self.drain()
        for server in self._servers:
            server.cancel()
        await asyncio.gather(*self._servers, return_exceptions=True)
        await asyncio.gather(*(group.close() for group in self.groups))

    async def _attempt(self, call: StageCall, on_progress: OnProgress, low_memory: bool) -> Any:
        """One try of the call at the first free group."""
        result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._enqueue(QueuedCall(call.priority, next(self._arrivals), call, on_progress, low_memory, result, monotonic()))
        return await result

    def _enqueue(self, queued: QueuedCall) -> None:
        if self._draining:
            queued.result.cancel()
            return
        self._queue.put_nowait(queued)
        self._start_server()

    def _start_server(self) -> None:
        """Puts an unused group to work if more calls wait than groups; those that have run before are preferred, since their stage is open."""
        if self._unused and self._queue.qsize() > len(self._idle):
            server = asyncio.create_task(self._serve_calls(self._unused.pop()))
            self._servers.add(server)
            server.add_done_callback(self._servers.discard)

    async def _serve_calls(self, group: WorkerGroup) -> None:
        while True:
            server = asyncio.current_task()
            assert server is not None
            self._idle[group] = (monotonic(), server)
            try:
                queued = await self._queue.get()
            finally:
                self._idle.pop(group, None)  # a group that is being retired is not there any more
            if queued.result.done():  # cancelled in the queue
                continue
            answer = await self._served(group, queued)
            if queued.result.done():
                continue
            if isinstance(answer, Failure) and self._should_rest(group, answer):
                logger.warning("%s: a worker group rests for %g s, the others go on: %s", queued.call.stage, self._rest_seconds, answer.reason)
                self._enqueue(queued)
                await asyncio.sleep(self._rest_seconds)
            else:
                queued.result.set_result(self._judged(answer))

    async def _served(self, group: WorkerGroup, queued: QueuedCall) -> Any:
        """The group's answer; None once the caller has its exception or has left."""
        work = asyncio.ensure_future(group.serve(queued.call, queued.on_progress, queued.low_memory))
        queued.result.add_done_callback(lambda _: work.cancel())  # the caller no longer waits
        self._busy.append(group)
        try:
            queued.on_progress(Started(monotonic() - queued.queued_at, self._queue.qsize()))
            return await work
        except asyncio.CancelledError:
            queued.result.cancel()
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # the pool is closed
                raise
        except Exception as error:  # noqa: BLE001 - the caller's to handle: this task serves the next call
            if not queued.result.done():
                queued.result.set_exception(error)
        finally:
            self._busy.remove(group)
        return None

    def _should_rest(self, group: WorkerGroup, failure: Failure) -> bool:
        """Whether a group that could not be started is the exception: the fault is its node's then, and the call waits for another group."""
        if not failure.while_opening or failure.kind is not FailureClass.CONFIG:
            return False
        return any(other.ready or other in self._busy for other in self.groups if other is not group)

    def _judged(self, answer: Any) -> Any:
        """The answer; room that was there before and is gone means a lost node, not impossible settings."""
        if not isinstance(answer, Failure) or not answer.while_opening:
            self._was_ready = True
        elif answer.kind is FailureClass.CONFIG and answer.fingerprint == NO_ROOM and self._was_ready:
            return replace(answer, kind=FailureClass.NODE_LOST, fingerprint="").at_opening()
        return answer
