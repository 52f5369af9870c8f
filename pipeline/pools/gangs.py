"""A pool of gangs: N processes on one node that hold one model and work on one order together."""

import os
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from infinitedub.pipeline.pools.actors import NO_SECOND_LIFE, Handle, Place, RayWorker, loss, opening, placed, replying, with_crash_report, words
from infinitedub.pipeline.pools.gather import Watchdog, gather_ranks
from infinitedub.pipeline.pools.pace import AdaptiveTimeout
from infinitedub.pipeline.pools.pool import OnPart, StageCall
from infinitedub.pipeline.pools.posts import Dispatcher
from infinitedub.pipeline.pools.retry import NO_ROOM, Failure, FailureClass, RetryPolicy, failure_of
from infinitedub.pipeline.pools.settings import GangSettings
from infinitedub.pipeline.storage.storage import StorageSettings
from infinitedub.stages.contract import Rank, Stage
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.records import Chunk

HOST = "127.0.0.1"  # a gang is packed on one node


class GangPool:
    """As many gangs as the settings say, each serving one order at a time."""

    def __init__(
        self,
        name: str,
        stage: Stage,
        degree: int,
        settings: GangSettings,
        storage: StorageSettings,
        *,
        placement_seconds: float,
        patience: RetryPolicy,
        weights: str = "",
    ) -> None:
        """`weights`: the digest of the stage's weights, in each process's eyes; empty where it has none."""
        pace = AdaptiveTimeout(settings.watchdog_seconds, settings.watchdog_factor, settings.watchdog_floor_seconds)
        self._gangs = [Gang(name, stage, degree, settings, storage, placement_seconds, pace, weights) for _ in range(settings.gangs)]
        self._posts = Dispatcher(self._gangs, placement_seconds)
        self._patience = patience

    async def run(self, order: StageCall, on_part: OnPart) -> Any:
        return await self._patience.until_done(order, on_part, partial(self._posts.serve, order))

    def drain(self) -> None:
        self._posts.drain()

    async def close(self) -> None:
        self._posts.drain()
        for gang in self._gangs:
            gang.disband()


class RankWorker(RayWorker):
    """A worker that has peers."""

    def host(self) -> str:
        """Opens the store at which a gang's ranks meet, and says where. The kernel picks the port and it is never let go: no race for it."""
        from torch.distributed import TCPStore

        self._store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)  # lives as long as this process
        return f"tcp://{HOST}:{self._store.port}"

    def open(self, rank: Rank) -> Failure | None:
        """Opens the stage in the surroundings that torchrun would give it."""
        if rank.world_size > 1:
            port = rank.rendezvous.rpartition(":")[2]
            # With an agent's store, init_process_group makes clients only; rank 0 would else try to bind the port once more.
            os.environ.update(TORCHELASTIC_USE_AGENT_STORE="True", MASTER_ADDR=HOST, MASTER_PORT=port)
            os.environ.update(RANK=str(rank.index), WORLD_SIZE=str(rank.world_size), LOCAL_RANK="0")  # each sees its own GPU only
        return super().open(rank)


class Gang:
    """A place for one gang. It is lost as a whole and replaced as a whole; its place on the cluster is kept, and moved by Ray if a node dies."""

    def __init__(
        self,
        name: str,
        stage: Stage,
        degree: int,
        settings: GangSettings,
        storage: StorageSettings,
        placement_seconds: float,
        pace: AdaptiveTimeout,
        weights: str,
    ) -> None:
        self._name = name
        self._degree = degree
        self._settings = settings
        self._arguments = (stage, storage, settings.threads, weights)
        self._placement_seconds = placement_seconds
        self._room: PlacementGroup | None = None
        self._pace = pace
        self._ranks: list[Handle] = []
        self.stands = False
        self._places: list[Place] = []
        self._low_memory = False

    async def serve(self, order: StageCall, on_part: OnPart, low_memory: bool) -> Any:
        """RankWorker 0's record, or a `Failure`. All ranks get the same order.

        A gang whose call is broken off dies with it. One that gets by with less memory stays: it is hardly slower, and another call may need it.
        """
        try:
            if low_memory and not self._low_memory:
                self.dismiss()
            if not self._ranks and (fault := await self._muster(low_memory)) is not None:
                if fault.kind is FailureClass.CONFIG and fault.mark != NO_ROOM:  # perhaps it is the node: let Ray choose again
                    self.disband()
                self.dismiss()
                return _of_gang(fault.at_opening())
            kind = (order.pace, self._low_memory)
            watch = Watchdog(self._pace.patience(kind))

            def heard(part: Any) -> None:
                if isinstance(part, Chunk):
                    self._pace.heard(kind, watch.silence)
                    watch.seconds = self._pace.patience(kind)
                on_part(part)

            ended = await gather_ranks([replying(rank, order, heard, watch) for rank in self._ranks], watch, self._settings.settle_seconds)
            verdict = await with_crash_report(ended, self._places)
        except BaseException:
            self.dismiss()
            raise
        if not ended.intact:
            self.dismiss()
        return _of_gang(verdict)

    def dismiss(self) -> None:
        """Ends all ranks at once: one that waits in a collective for a lost one hears nothing else."""
        for rank in self._ranks:
            ray.kill(rank)
        self._ranks = []
        self.stands = False

    def disband(self) -> None:
        """Ends the gang and gives up its place on the cluster."""
        self.dismiss()
        if self._room is not None:
            remove_placement_group(self._room)
            self._room = None

    async def _muster(self, low_memory: bool) -> Failure | None:
        """Brings up all ranks: a place on one node, the processes, the store they meet at, the weights."""
        settings, degree = self._settings, self._degree
        each = {"CPU": settings.cpus_per_rank, "GPU": settings.gpus_per_rank, "memory": float(settings.memory_bytes_per_rank or 0)}
        if self._room is None:
            self._room = placement_group([{name: amount for name, amount in each.items() if amount}] * degree, strategy="STRICT_PACK")
        seats = [PlacementGroupSchedulingStrategy(self._room, placement_group_bundle_index=index) for index in range(degree)]
        wanted = {"num_cpus": settings.cpus_per_rank, "num_gpus": settings.gpus_per_rank, "memory": settings.memory_bytes_per_rank, **NO_SECOND_LIFE}
        rank: Any = ray.remote(RankWorker)
        self._ranks = [rank.options(scheduling_strategy=seat, **wanted).remote(*self._arguments) for seat in seats]
        self._low_memory = low_memory
        try:
            self._places = await placed(self._name, self._ranks, f"a gang of {degree} x ({words(each)})", self._placement_seconds)
            rendezvous = "" if degree == 1 else await self._ranks[0].host.remote()
        except ConfigError as error:
            return replace(failure_of(error), mark=NO_ROOM)
        except RayError as error:
            return loss(error)
        device = "cuda:0" if settings.gpus_per_rank else "cpu"
        calls = [opening(rank, Rank(index, degree, device, rendezvous, low_memory)) for index, rank in enumerate(self._ranks)]
        fault: Failure | None = await with_crash_report(
            await gather_ranks(calls, Watchdog(settings.open_seconds), settings.settle_seconds), self._places
        )
        self.stands = fault is None
        return fault


def _of_gang(answer: Any) -> Any:
    """A lost rank is a lost gang."""
    if isinstance(answer, Failure) and answer.kind is FailureClass.WORKER_LOST:
        return replace(answer, kind=FailureClass.GANG_LOST)
    return answer
