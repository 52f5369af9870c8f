"""A worker group on Ray: one actor, or a gang of N actors on one node that hold one model and serve one call together."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Self

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, NodeDiedError, OutOfMemoryError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from infinitedub.pipeline.pools.calls import OnProgress, Progress, StageCall, WaitingForRoom, WorkersStarted, Yielded
from infinitedub.pipeline.pools.crash_report import WorkerProcess, crash_report, register_stack_dump
from infinitedub.pipeline.pools.failures import NO_ROOM, Failure, FailureClass, failure_of, last_lines
from infinitedub.pipeline.pools.gather import AdaptiveTimeout, GatherResult, Watchdog, gather_ranks
from infinitedub.pipeline.pools.placement import GroupRequest, Resources, node_text, resource_text, resources_of
from infinitedub.pipeline.pools.ray_nodes import alive_nodes
from infinitedub.pipeline.pools.room import Room
from infinitedub.pipeline.pools.settings import ActorSettings, GangSettings
from infinitedub.pipeline.pools.worker import Done, Worker
from infinitedub.pipeline.storage.storage import StorageSettings
from infinitedub.stages.contract import Rank, Stage
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.records import Chunk

ActorHandle = Any
"""A Ray actor; its methods are made at run time, so no type describes them."""

LOCALHOST = "127.0.0.1"  # the ranks of a gang share one node
NO_RESTART: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0}  # the retry policy decides, not Ray
REPORT_SECONDS = 60.0
POLL_SECONDS = 0.2  # between two looks at whether a place is reserved
RETIRE_SECONDS = 2.0  # a free place is reserved faster than this
CLOSE_SECONDS = 10.0
LOST = (FailureClass.WORKER_LOST, FailureClass.GANG_LOST, FailureClass.HOST_OOM)


@dataclass(frozen=True, slots=True)
class WorkerLocation:
    """Where a worker runs."""

    node: str  # Ray's id
    process: WorkerProcess


class RayWorker(Worker):
    """A worker in a Ray actor."""

    def locate(self) -> WorkerLocation:
        """Answers once the actor runs: its node and process."""
        return WorkerLocation(ray.get_runtime_context().get_node_id(), register_stack_dump())


class RankWorker(RayWorker):
    """A rank of a gang."""

    def host_store(self) -> str:
        """Opens the store through which the ranks meet; its address. The kernel picks the port and it stays open: no other process can take it."""
        from torch.distributed import TCPStore

        self._store = TCPStore(LOCALHOST, 0, is_master=True, wait_for_workers=False)  # lives as long as this process
        return f"tcp://{LOCALHOST}:{self._store.port}"

    def open(self, rank: Rank) -> Failure | None:
        """Opens the stage with the environment that torchrun would set."""
        if rank.world_size > 1:
            port = rank.rendezvous.rpartition(":")[2]
            # With an agent's store init_process_group only makes clients; otherwise rank 0 would try to bind the port a second time.
            os.environ.update(TORCHELASTIC_USE_AGENT_STORE="True", MASTER_ADDR=LOCALHOST, MASTER_PORT=port)
            os.environ.update(RANK=str(rank.index), WORLD_SIZE=str(rank.world_size), LOCAL_RANK="0")  # each rank sees one GPU, its own
        return super().open(rank)


@dataclass(frozen=True)
class GroupShape:
    """The processes of a group, their share of a node, and how long each step may take."""

    worker: type[RayWorker]
    ranks: int
    per_rank: Resources  # what each rank reserves
    threads: int
    open_seconds: float
    timeout: AdaptiveTimeout  # shared by the groups of a pool
    settle_seconds: float
    lost: FailureClass  # the class of a lost process
    low_memory: bool = False  # from the start, since the GPU is too small otherwise

    @classmethod
    def of_actor(cls, settings: ActorSettings) -> Self:
        """One process; its watchdog has one fixed timeout."""
        timeout = AdaptiveTimeout(settings.watchdog_seconds, 1.0, floor_seconds=settings.watchdog_seconds)
        return cls(RayWorker, 1, resources_of(settings), settings.threads, settings.watchdog_seconds, timeout, 0.0, FailureClass.WORKER_LOST)

    @classmethod
    def of_gang(cls, settings: GangSettings, degree: int) -> Self:
        """`degree` ranks; the timeout of their watchdog is learnt from the windows they make."""
        timeout = AdaptiveTimeout(settings.watchdog_seconds, settings.watchdog_factor, settings.watchdog_floor_seconds)
        share, lost = resources_of(settings), FailureClass.GANG_LOST
        return cls(RankWorker, degree, share, settings.threads, settings.open_seconds, timeout, settings.settle_seconds, lost)

    def request(self, stage: str) -> GroupRequest:
        """What the group asks of the cluster."""
        return GroupRequest(stage, self.per_rank, self.ranks, gang=issubclass(self.worker, RankWorker))


class RayGroup:
    """The actors of a group. They are lost and replaced together; their placement group is kept, and moved by Ray if its node dies."""

    def __init__(
        self, name: str, stage: Stage, shape: GroupShape, storage: StorageSettings, placement_seconds: float, weights: str, room: Room
    ) -> None:
        """`name` is the pool's. `weights`: the digest that the stage's weights must have in every process; empty for none."""
        self._request = shape.request(name)
        self._room = room
        self._shape = shape
        self._arguments = (stage, storage, shape.threads, weights)
        self._placement_seconds = placement_seconds
        self._placement: PlacementGroup | None = None
        self._reserved = False
        self._actors: list[ActorHandle] = []
        self._locations: list[WorkerLocation] = []
        self._low_memory = False
        self._starts = 0
        self._ready = False

    @property
    def ready(self) -> bool:
        return self._ready

    @property
    def held(self) -> Resources:
        if self._placement is None or not self._reserved:
            return {}
        return {name: amount * self._shape.ranks for name, amount in self._shape.per_rank.items() if amount}

    async def serve(self, call: StageCall, on_progress: OnProgress, low_memory: bool) -> Any:
        """Rank 0's record, or a `Failure`. All ranks get the same call.

        A group in low-memory mode stays in it: it is hardly slower, and another call may need it as well.
        """
        low_memory = low_memory or self._shape.low_memory
        try:
            if low_memory and not self._low_memory:
                self._kill()
            if not self._ready and (failure := await self._start(low_memory, on_progress)) is not None:
                return self._as_lost(failure.at_opening())
            result = await self._work(call, on_progress)
            outcome = await with_crash_report(result, self._locations)
        except BaseException:
            self._kill()
            if not self._reserved:
                self._release()
            raise
        if not result.group_is_reusable:
            self._kill()
        return self._as_lost(outcome)

    async def close(self) -> None:
        """Closes the stage on every rank, then ends the processes. A call that is still in progress is lost."""
        if self._ready:
            with suppress(TimeoutError, RayError):  # the processes end either way
                async with asyncio.timeout(CLOSE_SECONDS):
                    await asyncio.gather(*(actor.close.remote() for actor in self._actors))
        self._kill()
        self._release()

    async def _work(self, call: StageCall, on_progress: OnProgress) -> GatherResult:
        kind, timeout = (call.window_kind, self._low_memory), self._shape.timeout
        watchdog = Watchdog(timeout.seconds_for(kind, call.window_work))

        def watch(progress: Progress) -> None:
            if isinstance(progress, Yielded) and isinstance(progress.value, Chunk):
                timeout.observe(kind, watchdog.last_gap_seconds)
                watchdog.timeout_seconds = timeout.seconds_for(kind, call.window_work)
            on_progress(progress)

        return await gather_ranks([call_actor(actor, call, watch, watchdog) for actor in self._actors], watchdog, self._shape.settle_seconds)

    async def _start(self, low_memory: bool, on_progress: OnProgress) -> Failure | None:
        """Starts all ranks: placement, processes, rendezvous, weights. A failure leaves nothing running."""
        started, restart = monotonic(), self._starts > 0
        placement = await self._reserve(on_progress)
        failure = placement if isinstance(placement, Failure) else await self._open(placement, low_memory)
        self._ready = failure is None
        if failure is None:
            self._starts += 1
            on_progress(WorkersStarted(monotonic() - started, restart))
            return None
        self._kill()
        if failure.kind is FailureClass.CONFIG:  # there is no room, or the fault is the node's: Ray chooses again next time
            self._release()
        return failure

    async def _open(self, placement: PlacementGroup, low_memory: bool) -> Failure | None:
        shape = self._shape
        self._low_memory = low_memory
        self._actors = self._create_actors(placement)
        located = await gather_ranks([answer_of(actor.locate.remote()) for actor in self._actors], Watchdog(shape.open_seconds), 0)
        answer = located.outcome()
        if isinstance(answer, Failure):
            return answer
        self._locations = list(located.answers)
        rendezvous = ""
        if shape.ranks > 1:
            hosted = await gather_ranks([answer_of(self._actors[0].host_store.remote())], Watchdog(shape.open_seconds), 0)
            rendezvous = await with_crash_report(hosted, self._locations[:1])
            if isinstance(rendezvous, Failure):
                return rendezvous
        device = "cuda:0" if shape.per_rank["GPU"] else "cpu"  # Ray shows a process only the GPUs that it was given
        ranks = [Rank(index, shape.ranks, device, rendezvous, low_memory) for index in range(shape.ranks)]
        opening = [answer_of(actor.open.remote(rank)) for actor, rank in zip(self._actors, ranks, strict=True)]
        result = await gather_ranks(opening, Watchdog(shape.open_seconds), shape.settle_seconds)
        failure: Failure | None = await with_crash_report(result, self._locations)
        return failure

    async def _reserve(self, on_progress: OnProgress) -> PlacementGroup | Failure:
        """Reserves room for all ranks on one node. Idle groups of other stages give way; `NO_ROOM` if there is none for `placement_seconds`.

        Time does not count while groups of other stages are at work whose end will make room.
        """
        request = self._request
        if self._placement is None:
            bundle = {name: amount for name, amount in self._shape.per_rank.items() if amount}
            self._placement = placement_group([bundle] * self._shape.ranks, strategy="STRICT_PACK")
        began = looked = monotonic()
        waited, announced = 0.0, False
        while placement_group_table(self._placement)["state"] != "CREATED":
            self._reserved = False
            await asyncio.sleep(POLL_SECONDS)
            if monotonic() - began > RETIRE_SECONDS and not announced:
                announced = True
                on_progress(WaitingForRoom(f"{request} has no room yet; the cluster has {node_text(alive_nodes())}"))
            if announced and await self._room.make(request):
                await asyncio.sleep(RETIRE_SECONDS)  # Ray takes a moment to give the place to this group
            elif not self._room.will_come(request):
                waited += monotonic() - looked
            if waited > self._placement_seconds:
                return replace(failure_of(no_room(request, self._placement_seconds)), fingerprint=NO_ROOM)
            looked = monotonic()
        self._reserved = True
        return self._placement

    def _create_actors(self, placement: PlacementGroup) -> list[ActorHandle]:
        shape = self._shape
        worker: Any = ray.remote(shape.worker)
        amounts = shape.per_rank
        share = {"num_cpus": amounts["CPU"], "num_gpus": amounts["GPU"], "memory": int(amounts["memory"]) or None, **NO_RESTART}
        bundles = [PlacementGroupSchedulingStrategy(placement, placement_group_bundle_index=index) for index in range(shape.ranks)]
        return [worker.options(scheduling_strategy=bundle, **share).remote(*self._arguments) for bundle in bundles]

    def _kill(self) -> None:
        """Ends all processes at once: a rank that waits in a collective for a lost one reacts to nothing else."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        self._ready = False

    def _release(self) -> None:
        if self._placement is not None:
            remove_placement_group(self._placement)
            self._placement = None
            self._reserved = False

    def _as_lost(self, outcome: Any) -> Any:
        """A lost rank is a lost gang."""
        if isinstance(outcome, Failure) and outcome.kind is FailureClass.WORKER_LOST:
            return replace(outcome, kind=self._shape.lost)
        return outcome


def no_room(request: GroupRequest, seconds: float) -> ConfigError:
    """No node had room for a group in that time."""
    return ConfigError(
        f"{request.stage}: no node had room for {request} within {seconds:g} s; the cluster has {node_text(alive_nodes())} "
        f"(free in all: {resource_text(ray.available_resources())}); ask for less in pools.{request.stage}, or add a node to the cluster"
    )


async def answer_of(reference: Any) -> Any:
    """The value behind an object reference, or the `Failure` that Ray reports."""
    try:
        return await reference
    except RayError as error:
        return ray_failure(error)


async def call_actor(actor: ActorHandle, call: StageCall, on_progress: OnProgress, watchdog: Watchdog) -> Any:
    """The actor's record or `Failure`. Each reply resets the watchdog, and progress is passed on."""
    replies = actor.work.options(num_returns="streaming").remote(call)
    try:
        async for reference in replies:
            reply = await reference
            watchdog.reset()
            if isinstance(reply, Failure):
                return reply
            if isinstance(reply, Done):
                return reply.record
            on_progress(reply)
    except RayError as error:
        return ray_failure(error)
    raise RuntimeError(f"{call.stage}: the worker ended without a reply")


def ray_failure(error: RayError) -> Failure:
    """What Ray's own errors mean. Errors of a stage do not arrive this way: a worker returns them as `Failure`."""
    if isinstance(error, RayTaskError):
        return Failure(FailureClass.CODE, str(error.cause), last_lines(error.traceback_str))
    if isinstance(error, OutOfMemoryError):
        message = str(error).strip().partition("\n")[0]
        advice = "killed because its machine ran out of memory; reserve memory_bytes for it, or run fewer processes per node"
        return Failure(FailureClass.HOST_OOM, f"{advice}: {message}", "")
    message = str(error).partition("Some common causes")[0]  # Ray's advice for the general case is long
    # A lost machine shows as any of these, depending on who notices first; Ray tells the last from a dead process only in its message.
    node_lost = isinstance(error, NodeDiedError | ActorUnavailableError) or (
        isinstance(error, ActorDiedError) and (error.preempted or "node has died" in str(error))
    )
    kind = FailureClass.NODE_LOST if node_lost else FailureClass.WORKER_LOST
    return Failure(kind, f"{type(error).__name__}: {' '.join(message.split())}", "")


async def with_crash_report(result: GatherResult, locations: Sequence[WorkerLocation]) -> Any:
    """The outcome; for processes that died or hang, with the end of their standard error and the stacks of those that hang."""
    outcome = result.outcome()
    if not isinstance(outcome, Failure) or outcome.kind not in LOST or outcome.trace:
        return outcome
    dead = [rank for rank, answer in enumerate(result.answers) if isinstance(answer, Failure) and not answer.trace]
    ranks = dead or result.unfinished
    reports = await asyncio.gather(*(_report_of(locations[rank], hung=not dead) for rank in ranks))
    prefixed = [f"{rank}: {line}" if len(locations) > 1 else line for rank, text in zip(ranks, reports, strict=True) for line in text.splitlines()]
    return replace(outcome, trace="\n".join(prefixed))


async def _report_of(location: WorkerLocation, hung: bool) -> str:
    """The crash report of one process; empty if its node does not answer either."""
    on_its_node = NodeAffinitySchedulingStrategy(location.node, soft=False)
    task: Any = ray.remote(crash_report)
    try:
        async with asyncio.timeout(REPORT_SECONDS):
            return str(await task.options(num_cpus=0, max_retries=0, scheduling_strategy=on_its_node).remote(location.process, hung))
    except (RayError, TimeoutError):
        return ""
