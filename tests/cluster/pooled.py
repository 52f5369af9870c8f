"""Pools as tests on Ray open and close them."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from infinitedub.pipeline.pools.pool import Pool
from infinitedub.pipeline.pools.ray_group import GroupShape, RayGroup
from infinitedub.pipeline.pools.ray_nodes import alive_nodes
from infinitedub.pipeline.pools.retry import RetryPolicy
from infinitedub.pipeline.pools.room import Room
from infinitedub.pipeline.pools.settings import ActorSettings, GangSettings
from infinitedub.pipeline.storage.storage import StorageSettings
from infinitedub.stages.contract import Stage

LONG_SECONDS = 120.0  # for what takes seconds where nothing else runs


def gang_settings(*, floor_seconds: float, settle_seconds: float) -> GangSettings:
    """One gang on a fraction of the machine, which is watched from `floor_seconds` on."""
    return GangSettings(
        gangs=1,
        cpus_per_rank=0.1,
        gpus_per_rank=0,
        memory_bytes_per_rank=None,
        threads=1,
        open_seconds=LONG_SECONDS,
        watchdog_seconds=LONG_SECONDS,
        watchdog_factor=2,
        watchdog_floor_seconds=floor_seconds,
        settle_seconds=settle_seconds,
    )


def closing(pool: Pool, work: Coroutine[Any, Any, Any]) -> Any:
    """Does the work, then closes the pool."""

    async def main() -> Any:
        try:
            return await work
        finally:
            await pool.close()

    return asyncio.run(main())


def actor_pool_of(
    stage: Stage, settings: ActorSettings, storage: StorageSettings, retry: RetryPolicy, placement_seconds: float = LONG_SECONDS
) -> Pool:
    """The pool of a stage whose calls run in one process each."""
    shape = GroupShape.of_actor(settings)
    return Pool(
        [RayGroup("ingest", stage, shape, storage, placement_seconds, "", Room(alive_nodes)) for _ in range(settings.actors)],
        retry,
        placement_seconds,
    )


def gang_pool_of(stage: Stage, degree: int, settings: GangSettings, storage: StorageSettings, retry: RetryPolicy) -> Pool:
    """The pool of a stage whose calls are shared by `degree` ranks."""
    shape = GroupShape.of_gang(settings, degree)
    return Pool(
        [RayGroup("generate", stage, shape, storage, LONG_SECONDS, "", Room(alive_nodes)) for _ in range(settings.gangs)], retry, LONG_SECONDS
    )
