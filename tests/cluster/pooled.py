"""Pools as tests on Ray open and close them."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from infinitedub.pipeline.pools.pool import Pool
from infinitedub.pipeline.pools.settings import GangSettings

PATIENCE_SECONDS = 120.0  # for what takes seconds where nothing else runs


def gang_settings(*, floor_seconds: float, settle_seconds: float) -> GangSettings:
    """One gang on a fraction of the machine, which is watched from `floor_seconds` on."""
    return GangSettings(
        gangs=1,
        cpus_per_rank=0.1,
        gpus_per_rank=0,
        memory_bytes_per_rank=None,
        threads=1,
        open_seconds=PATIENCE_SECONDS,
        watchdog_seconds=PATIENCE_SECONDS,
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
