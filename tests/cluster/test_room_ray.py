"""Stages take turns on a Ray cluster that has no room for all of them at once. Its GPUs are only declared, and nothing computes on them."""

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray
from omegaconf import OmegaConf
from pooled import LONG_SECONDS
from ray import cloudpickle

from infinitedub.pipeline.pools import open_pools
from infinitedub.pipeline.pools.calls import CallLabel, Progress, StageCall, WaitingForRoom, WorkersStarted
from infinitedub.pipeline.pools.circuit_breaker import CircuitBreaker
from infinitedub.pipeline.pools.pool import Pool
from infinitedub.pipeline.pools.settings import RaySettings
from infinitedub.pipeline.storage.storage import StorageSettings
from infinitedub.stages.contract import Files, Rank
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.records import Span
from infinitedub.stages.settings import Settings

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import a test module

CONF = Path(__file__).parents[2] / "conf"
GIB = 2**30
STAGES = ("ingest", "segment", "listen", "condition", "generate", "assemble", "publish")


@dataclass
class Sleeps:
    """A stage that takes a while."""

    seconds: float = 0.0
    config: Settings = field(default_factory=Settings)

    def open(self, rank: Rank) -> None:
        """Nothing to open."""

    def __call__(self, name: str, *, files: Files) -> Span:
        time.sleep(self.seconds)
        return Span(0, len(name))

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def one_gpu() -> Iterator[None]:
    """A cluster of one node: 8 CPUs, one GPU, 64 GiB, as far as Ray knows."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init("local", num_cpus=8, num_gpus=1, _memory=64 * GIB, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def cluster_pools(placement_seconds: float, **changes: Any) -> RaySettings:
    given = OmegaConf.to_container(OmegaConf.load(CONF / "pools/cluster.yaml"), resolve=True)
    assert isinstance(given, dict)
    return RaySettings.model_validate({**given, "placement_seconds": placement_seconds, **changes})


def opened(storage: StorageSettings, settings: RaySettings, seconds: float, degree: int = 1) -> dict[str, Pool]:
    stages = {name: Sleeps(seconds) for name in STAGES}
    return open_pools(stages, degree, settings, storage, CircuitBreaker(3, lambda reason: None), {})


def call(stage: str, name: str) -> StageCall:
    return StageCall(stage, f"{stage}{name}".encode().hex().ljust(64, "0"), (name,), CallLabel(name), (0,))


async def run_all(pools: dict[str, Pool], progress: list[tuple[str, Progress]]) -> list[Any]:
    """Two jobs at once through every stage, one after the other."""

    async def job(name: str) -> Any:
        result = None
        for stage in STAGES:
            result = await pools[stage].run(call(stage, name), lambda seen, stage=stage: progress.append((stage, seen)))  # type: ignore[misc]
        return result

    try:
        async with asyncio.timeout(4 * LONG_SECONDS):
            return await asyncio.gather(job("one"), job("three"))
    finally:
        for pool in pools.values():
            await pool.close()


def test_on_one_gpu_condition_and_generate_take_turns(one_gpu: None, storage_settings: StorageSettings) -> None:
    """Each needs the whole GPU, and a stage is at work for longer than placement_seconds while the other waits."""
    progress: list[tuple[str, Progress]] = []
    results = asyncio.run(run_all(opened(storage_settings, cluster_pools(placement_seconds=1), seconds=3), progress))
    assert results == [Span(0, 3), Span(0, 5)]
    waited = {stage for stage, seen in progress if isinstance(seen, WaitingForRoom)}
    assert "generate" in waited
    started = [stage for stage, seen in progress if isinstance(seen, WorkersStarted)]
    assert {"condition", "generate"} <= set(started)


def test_what_can_never_fit_is_refused_before_anything_starts(one_gpu: None, storage_settings: StorageSettings) -> None:
    with pytest.raises(ConfigError, match=r"generate asks for a gang of 4 x .* generate/parallel=single.*The cluster has .*: 8 CPU, 1 GPU"):
        opened(storage_settings, cluster_pools(placement_seconds=1), seconds=0, degree=4)
