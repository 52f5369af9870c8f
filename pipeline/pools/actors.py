"""A pool of Ray actors: one process per worker, started when first needed and replaced when it is lost."""

import asyncio
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, NodeDiedError, RayError, RayTaskError

from pipeline.pools.pool import OnPart, Order
from pipeline.pools.retry import FailureClass, Fault, tail, until_done
from pipeline.pools.settings import ActorSettings, RetrySettings
from pipeline.pools.slots import Slots
from pipeline.pools.together import Watch, together
from pipeline.pools.worker import Part, Worker
from pipeline.storage import StorageSettings
from stages.contract import Seat, Stage
from stages.errors import ConfigError

Handle = Any
"""A Ray actor; its methods come to be at run time, so no type knows them."""


class ActorPool:
    """As many desks as the settings say, each with a worker of its own."""

    def __init__(
        self, name: str, stage: Stage, settings: ActorSettings, storage: StorageSettings, *, placement_seconds: float, retry: RetrySettings
    ) -> None:
        self._desks = [Desk(name, stage, settings, storage, placement_seconds) for _ in range(settings.actors)]
        self._slots = Slots(self._desks)
        self._retry = retry

    async def run(self, order: Order, on_part: OnPart) -> Any:
        async def once() -> Any:
            async with self._slots.place(order.priority) as desk:
                return await desk.serve(order, on_part)

        return await until_done(order, once, self._retry)

    async def close(self) -> None:
        self._slots.close()
        for desk in self._desks:
            desk.dismiss()


class Desk:
    """A place for one worker. Ray restarts nothing by itself: whether work is tried again depends on the order, not on the actor."""

    def __init__(self, name: str, stage: Stage, settings: ActorSettings, storage: StorageSettings, placement_seconds: float) -> None:
        self._name = name
        self._settings = settings
        self._arguments = (stage, storage, settings.threads)
        self._placement_seconds = placement_seconds
        self._worker: Handle | None = None

    async def serve(self, order: Order, on_part: OnPart) -> Any:
        """The record, or a `Fault`. The worker of a call that is broken off dies with it."""
        watch = Watch(self._settings.watchdog_seconds)
        try:
            if self._worker is None:
                self._worker = self._hire()
                await placed(self._name, [self._worker], self._asked(), self._placement_seconds)
                watch.heard()
                opened = await together([opening(self._worker, self._seat())], watch, 0)
                if (fault := opened.verdict()) is not None:
                    self.dismiss()
                    return fault
                watch.heard()
            ended = await together([replying(self._worker, order, on_part, watch)], watch, 0)
        except RayError as error:
            self.dismiss()
            return loss(error)
        except BaseException:
            self.dismiss()
            raise
        if not ended.intact:
            self.dismiss()
        return ended.verdict()

    def dismiss(self) -> None:
        """Ends the worker at once."""
        if self._worker is not None:
            ray.kill(self._worker)
            self._worker = None

    def _hire(self) -> Handle:
        settings = self._settings
        worker: Any = ray.remote(Worker)
        hired = worker.options(num_cpus=settings.cpus, num_gpus=settings.gpus, memory=settings.memory_bytes, **NO_SECOND_LIFE)
        return hired.remote(*self._arguments)

    def _seat(self) -> Seat:
        return Seat(device="cuda:0" if self._settings.gpus else "cpu")  # Ray shows a process only the GPUs it was given

    def _asked(self) -> str:
        return words({"CPU": self._settings.cpus, "GPU": self._settings.gpus, "memory": self._settings.memory_bytes or 0})


NO_SECOND_LIFE: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0}


async def placed(name: str, workers: Sequence[Handle], asked: str, seconds: float) -> None:
    """Waits until the processes run somewhere. Raises ConfigError when the cluster has found no room for them."""
    try:
        async with asyncio.timeout(seconds):  # `wait_for` would leave the gathering's own CancelledError to be complained of
            await asyncio.gather(*(worker.__ray_ready__.remote() for worker in workers))
    except TimeoutError:
        nodes = [f"{node['NodeManagerHostname']}: {words(node['Resources'])}" for node in ray.nodes() if node["Alive"]]
        raise ConfigError(
            f"{name}: no node had room for {asked} within {seconds:g} s; the cluster has {'; '.join(nodes) or 'no node'} "
            f"(free in all: {words(ray.available_resources())}); ask for less in pools.{name}, or give the cluster another node"
        ) from None


def words(resources: dict[str, float]) -> str:
    """Resources as one reads them, such as `2 CPU, 1 GPU, 8.0 GB memory`."""
    said = [f"{resources.get('CPU', 0):g} CPU", f"{resources.get('GPU', 0):g} GPU"]
    if memory := resources.get("memory"):
        said.append(f"{memory / 1e9:.1f} GB memory")
    return ", ".join(said)


async def opening(worker: Handle, seat: Seat) -> Fault | None:
    """Opens a worker at its seat."""
    try:
        return await worker.open.remote(seat)
    except RayError as error:
        return loss(error)


async def replying(worker: Handle, order: Order, on_part: OnPart, watch: Watch) -> Any:
    """What the worker makes of an order: its record or a `Fault`. Each sign of life is noted, each part passed on."""
    replies = worker.work.options(num_returns="streaming").remote(order)
    try:
        async for reference in replies:
            reply = await reference
            watch.heard()
            if isinstance(reply, Part):
                on_part(reply.value)
            else:
                return reply if isinstance(reply, Fault) else reply.record
    except RayError as error:
        return loss(error)
    raise RuntimeError(f"{order.stage}: the worker ended without an answer")


def loss(error: RayError) -> Fault:
    """What Ray's own errors mean. Errors of the stage do not come this way: a worker gives them as a `Fault`."""
    if isinstance(error, RayTaskError):
        return Fault(FailureClass.CODE, str(error.cause), tail(error.traceback_str))
    told = str(error).partition("Some common causes")[0]  # Ray's advice for the general case is long
    reason = f"{type(error).__name__}: {' '.join(told.split())}"
    # A whole machine gone shows as any of these, depending on who notices first; Ray tells the last from a dead process only in words.
    node = isinstance(error, NodeDiedError | ActorUnavailableError) or (
        isinstance(error, ActorDiedError) and (error.preempted or "node has died" in str(error))
    )
    return Fault(FailureClass.NODE_LOST if node else FailureClass.WORKER_LOST, reason, "")
