"""A pool of Ray actors: one process per worker, started when first needed and replaced when it is lost."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, NodeDiedError, OutOfMemoryError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from infinitedub.pipeline.pools.crash_report import WorkerProcess, crash_report, register_stack_dump
from infinitedub.pipeline.pools.gather import GatherResult, Watchdog, gather_ranks
from infinitedub.pipeline.pools.pool import OnPart, StageCall
from infinitedub.pipeline.pools.posts import Dispatcher
from infinitedub.pipeline.pools.retry import NO_ROOM, Failure, FailureClass, RetryPolicy, failure_of, tail
from infinitedub.pipeline.pools.settings import ActorSettings
from infinitedub.pipeline.pools.worker import Part, Worker
from infinitedub.pipeline.storage.storage import StorageSettings
from infinitedub.stages.contract import Rank, Stage
from infinitedub.stages.errors import ConfigError

Handle = Any
"""A Ray actor; its methods come to be at run time, so no type knows them."""

ASKING_SECONDS = 60.0
LOSSES = (FailureClass.WORKER_LOST, FailureClass.GANG_LOST, FailureClass.HOST_OOM)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker runs."""

    node: str  # Ray's id
    witness: WorkerProcess


class RayWorker(Worker):
    """A worker on a Ray actor."""

    def settle(self) -> Place:
        """Says where it came to be, once it has."""
        return Place(ray.get_runtime_context().get_node_id(), register_stack_dump())


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
        patience: RetryPolicy,
        weights: str = "",
    ) -> None:
        """`weights`: the digest of the stage's weights, in each process's eyes; empty where it has none."""
        self._desks = [ActorSlot(name, stage, settings, storage, placement_seconds, weights) for _ in range(settings.actors)]
        self._posts = Dispatcher(self._desks, placement_seconds)
        self._patience = patience

    async def run(self, order: StageCall, on_part: OnPart) -> Any:
        return await self._patience.until_done(order, on_part, partial(self._posts.serve, order))

    def drain(self) -> None:
        self._posts.drain()

    async def close(self) -> None:
        self._posts.drain()
        for desk in self._desks:
            desk.dismiss()


class ActorSlot:
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

    async def serve(self, order: StageCall, on_part: OnPart, low_memory: bool) -> Any:
        """The record, or a `Failure`. The worker of a call that is broken off dies with it; one that gets by with less memory stays."""
        watch = Watchdog(self._settings.watchdog_seconds)
        try:
            if low_memory and not self._low_memory:
                self.dismiss()
            if self._worker is None and (fault := await self._take_on(low_memory)) is not None:
                self.dismiss()
                return fault.at_opening()
            watch.heard()
            ended = await gather_ranks([replying(self._worker, order, on_part, watch)], watch, 0)
            verdict = await with_crash_report(ended, self._places)
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

    async def _take_on(self, low_memory: bool) -> Failure | None:
        """Brings up a worker: a place, the process, the stage."""
        settings = self._settings
        hand: Any = ray.remote(RayWorker)
        hired = hand.options(num_cpus=settings.cpus, num_gpus=settings.gpus, memory=settings.memory_bytes, **NO_SECOND_LIFE)
        self._worker, self._low_memory = hired.remote(*self._arguments), low_memory
        try:
            self._places = await placed(self._name, [self._worker], self._asked(), self._placement_seconds)
        except ConfigError as error:
            return replace(failure_of(error), mark=NO_ROOM)
        except RayError as error:
            return loss(error)
        device = "cuda:0" if settings.gpus else "cpu"  # Ray shows a process only the GPUs it was given
        opened = await gather_ranks([opening(self._worker, Rank(device=device, low_memory=low_memory))], Watchdog(settings.watchdog_seconds), 0)
        fault: Failure | None = await with_crash_report(opened, self._places)
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


async def opening(worker: Handle, rank: Rank) -> Failure | None:
    """Opens a worker at its rank."""
    try:
        return await worker.open.remote(rank)
    except RayError as error:
        return loss(error)


async def replying(worker: Handle, order: StageCall, on_part: OnPart, watch: Watchdog) -> Any:
    """What the worker makes of an order: its record or a `Failure`. Each sign of life is noted, each part passed on."""
    replies = worker.work.options(num_returns="streaming").remote(order)
    try:
        async for reference in replies:
            reply = await reference
            watch.heard()
            if isinstance(reply, Part):
                on_part(reply.value)
            else:
                return reply if isinstance(reply, Failure) else reply.record
    except RayError as error:
        return loss(error)
    raise RuntimeError(f"{order.stage}: the worker ended without an answer")


def loss(error: RayError) -> Failure:
    """What Ray's own errors mean. Errors of the stage do not come this way: a worker gives them as a `Failure`."""
    if isinstance(error, RayTaskError):
        return Failure(FailureClass.CODE, str(error.cause), tail(error.traceback_str))
    if isinstance(error, OutOfMemoryError):
        told = str(error).strip().partition("\n")[0]
        return Failure(
            FailureClass.HOST_OOM, f"killed because its machine ran out of memory; set memory_bytes aside for it, or run fewer beside it: {told}", ""
        )
    told = str(error).partition("Some common causes")[0]  # Ray's advice for the general case is long
    reason = f"{type(error).__name__}: {' '.join(told.split())}"
    # A whole machine gone shows as any of these, depending on who notices first; Ray tells the last from a dead process only in words.
    node = isinstance(error, NodeDiedError | ActorUnavailableError) or (
        isinstance(error, ActorDiedError) and (error.preempted or "node has died" in str(error))
    )
    return Failure(FailureClass.NODE_LOST if node else FailureClass.WORKER_LOST, reason, "")


async def with_crash_report(ended: GatherResult, places: Sequence[Place]) -> Any:
    """The verdict; where it is about processes that died or fell silent, with what they wrote before, or where they stand."""
    verdict = ended.verdict()
    if not isinstance(verdict, Failure) or verdict.kind not in LOSSES or verdict.trace:
        return verdict
    dead = [place for place, answer in enumerate(ended.answers) if isinstance(answer, Failure) and not answer.trace]
    asked = dead or ended.hushed
    words = await asyncio.gather(*(_asking(places[place], hung=not dead) for place in asked))
    told = [f"{place}: {line}" if len(places) > 1 else line for place, said in zip(asked, words, strict=True) for line in said.splitlines()]
    return replace(verdict, trace="\n".join(told))


async def _asking(place: Place, hung: bool) -> str:
    """The last words of one process; nothing where its machine does not answer either."""
    here = NodeAffinitySchedulingStrategy(place.node, soft=False)
    reading: Any = ray.remote(crash_report)
    try:
        async with asyncio.timeout(ASKING_SECONDS):
            return str(await reading.options(num_cpus=0, max_retries=0, scheduling_strategy=here).remote(place.witness, hung))
    except (RayError, TimeoutError):
        return ""
