"""A pool of Ray actors: one process per worker, started when first needed and replaced when it is lost."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, NodeDiedError, OutOfMemoryError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.pools.lastwords import Witness, bear_witness, last_words
from pipeline.pools.pool import OnPart, Order
from pipeline.pools.posts import Posts
from pipeline.pools.retry import NO_ROOM, FailureClass, Fault, Patience, fault_of, tail
from pipeline.pools.settings import ActorSettings
from pipeline.pools.together import Ended, Watch, together
from pipeline.pools.worker import Part, Worker
from pipeline.storage import StorageSettings
from stages.contract import Seat, Stage
from stages.errors import ConfigError

Handle = Any
"""A Ray actor; its methods come to be at run time, so no type knows them."""

ASKING_SECONDS = 60.0
LOSSES = (FailureClass.WORKER_LOST, FailureClass.GANG_LOST, FailureClass.HOST_OOM)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker runs."""

    node: str  # Ray's id
    witness: Witness


class Hand(Worker):
    """A worker on a Ray actor."""

    def settle(self) -> Place:
        """Says where it came to be, once it has."""
        return Place(ray.get_runtime_context().get_node_id(), bear_witness())


class ActorPool:
    """As many desks as the settings say, each with a worker of its own."""

    def __init__(
        self,
        name: str,
        stage: Stage,
        settings: ActorSettings,
        storage: StorageSettings,
        *,
        placement_seconds: float,
        patience: Patience,
        weights: str = "",
    ) -> None:
        """`weights`: the digest of the stage's weights, in each process's eyes; empty where it has none."""
        self._desks = [Desk(name, stage, settings, storage, placement_seconds, weights) for _ in range(settings.actors)]
        self._posts = Posts(self._desks, placement_seconds)
        self._patience = patience

    async def run(self, order: Order, on_part: OnPart) -> Any:
        return await self._patience.until_done(order, on_part, partial(self._posts.serve, order))

    def drain(self) -> None:
        self._posts.drain()

    async def close(self) -> None:
        self._posts.drain()
        for desk in self._desks:
            desk.dismiss()


class Desk:
    """A place for one worker. Ray restarts nothing by itself: whether work is tried again depends on the order, not on the actor."""

    def __init__(self, name: str, stage: Stage, settings: ActorSettings, storage: StorageSettings, placement_seconds: float, weights: str) -> None:
        self._name = name
        self._settings = settings
        self._arguments = (stage, storage, settings.threads, weights)
        self._placement_seconds = placement_seconds
        self._worker: Handle | None = None
        self.stands = False
        self._places: list[Place] = []
        self._low_memory = False

    async def serve(self, order: Order, on_part: OnPart, low_memory: bool) -> Any:
        """The record, or a `Fault`. The worker of a call that is broken off dies with it; one that gets by with less memory stays."""
        watch = Watch(self._settings.watchdog_seconds)
        try:
            if low_memory and not self._low_memory:
                self.dismiss()
            if self._worker is None and (fault := await self._take_on(low_memory)) is not None:
                self.dismiss()
                return fault.at_opening()
            watch.heard()
            ended = await together([replying(self._worker, order, on_part, watch)], watch, 0)
            verdict = await with_last_words(ended, self._places)
        except BaseException:
            self.dismiss()
            raise
        if not ended.intact:
            self.dismiss()
        return verdict

    def dismiss(self) -> None:
        """Ends the worker at once."""
        if self._worker is not None:
            ray.kill(self._worker)
            self._worker = None
            self.stands = False

    async def _take_on(self, low_memory: bool) -> Fault | None:
        """Brings up a worker: a place, the process, the stage."""
        settings = self._settings
        hand: Any = ray.remote(Hand)
        hired = hand.options(num_cpus=settings.cpus, num_gpus=settings.gpus, memory=settings.memory_bytes, **NO_SECOND_LIFE)
        self._worker, self._low_memory = hired.remote(*self._arguments), low_memory
        try:
            self._places = await placed(self._name, [self._worker], self._asked(), self._placement_seconds)
        except ConfigError as error:
            return replace(fault_of(error), mark=NO_ROOM)
        except RayError as error:
            return loss(error)
        device = "cuda:0" if settings.gpus else "cpu"  # Ray shows a process only the GPUs it was given
        opened = await together([opening(self._worker, Seat(device=device, low_memory=low_memory))], Watch(settings.watchdog_seconds), 0)
        fault: Fault | None = await with_last_words(opened, self._places)
        self.stands = fault is None
        return fault

    def _asked(self) -> str:
        return words({"CPU": self._settings.cpus, "GPU": self._settings.gpus, "memory": self._settings.memory_bytes or 0})


NO_SECOND_LIFE: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0}


async def placed(name: str, workers: Sequence[Handle], asked: str, seconds: float) -> list[Place]:
    """Waits until the processes run somewhere, and says where. Raises ConfigError when the cluster has found no room for them."""
    try:
        async with asyncio.timeout(seconds):  # `wait_for` would leave the gathering's own CancelledError to be complained of
            return list(await asyncio.gather(*(worker.settle.remote() for worker in workers)))
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
    if isinstance(error, OutOfMemoryError):
        told = str(error).strip().partition("\n")[0]
        return Fault(
            FailureClass.HOST_OOM, f"killed because its machine ran out of memory; set memory_bytes aside for it, or run fewer beside it: {told}", ""
        )
    told = str(error).partition("Some common causes")[0]  # Ray's advice for the general case is long
    reason = f"{type(error).__name__}: {' '.join(told.split())}"
    # A whole machine gone shows as any of these, depending on who notices first; Ray tells the last from a dead process only in words.
    node = isinstance(error, NodeDiedError | ActorUnavailableError) or (
        isinstance(error, ActorDiedError) and (error.preempted or "node has died" in str(error))
    )
    return Fault(FailureClass.NODE_LOST if node else FailureClass.WORKER_LOST, reason, "")


async def with_last_words(ended: Ended, places: Sequence[Place]) -> Any:
    """The verdict; where it is about processes that died or fell silent, with what they wrote before, or where they stand."""
    verdict = ended.verdict()
    if not isinstance(verdict, Fault) or verdict.kind not in LOSSES or verdict.trace:
        return verdict
    dead = [place for place, answer in enumerate(ended.answers) if isinstance(answer, Fault) and not answer.trace]
    asked = dead or ended.hushed
    words = await asyncio.gather(*(_asking(places[place], hung=not dead) for place in asked))
    told = [f"{place}: {line}" if len(places) > 1 else line for place, said in zip(asked, words, strict=True) for line in said.splitlines()]
    return replace(verdict, trace="\n".join(told))


async def _asking(place: Place, hung: bool) -> str:
    """The last words of one process; nothing where its machine does not answer either."""
    here = NodeAffinitySchedulingStrategy(place.node, soft=False)
    reading: Any = ray.remote(last_words)
    try:
        async with asyncio.timeout(ASKING_SECONDS):
            return str(await reading.options(num_cpus=0, max_retries=0, scheduling_strategy=here).remote(place.witness, hung))
    except (RayError, TimeoutError):
        return ""
