"""Pools: who runs the stages. One queue and one retry policy for every kind of worker, in this process or on Ray."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

from infinitedub.pipeline.pools.circuit_breaker import CircuitBreaker
from infinitedub.pipeline.pools.inline_group import InlineGroup, Interruptible
from infinitedub.pipeline.pools.placement import check_placement, needs_low_memory, size_pools
from infinitedub.pipeline.pools.pool import Pool
from infinitedub.pipeline.pools.retry import RetryPolicy
from infinitedub.pipeline.pools.room import Room
from infinitedub.pipeline.pools.settings import GangSettings, InlineSettings, PoolsSettings
from infinitedub.pipeline.pools.worker import Worker
from infinitedub.pipeline.storage.storage import StorageSettings
from infinitedub.stages.contract import Stage
from infinitedub.stages.engines.device_bytes import DeviceBytes
from infinitedub.stages.errors import ConfigError


def open_pools(
    stages: Mapping[str, Stage],
    degree: int,
    settings: PoolsSettings,
    storage: StorageSettings,
    breaker: CircuitBreaker,
    weights: Mapping[str, str],
    interruptible: Interruptible = nullcontext,
    *,
    autoscaling: bool = False,
    peaks: DeviceBytes | None = None,
) -> dict[str, Pool]:
    """The pool of each stage, by the stage's name; processes start with the first calls. `degree` ranks make a gang.

    `weights`: the digest that each process must find of its stage's weights, for the stages that have any. `autoscaling`: nodes may still come.
    `peaks`: GPU memory of condition and generate, if known. Raises ConfigError if some stage fits on no node of the cluster.
    """
    retry = RetryPolicy(settings.retry, breaker)
    if isinstance(settings, InlineSettings):
        if degree > 1:
            raise ConfigError(f"pools=inline runs everything in one process, generate.parallel asks for {degree}; take generate/parallel=single")
        workers = {name: partial(Worker, stage, storage, settings.threads, weights.get(name, "")) for name, stage in stages.items()}
        return dict.fromkeys(stages, Pool([InlineGroup(workers, interruptible)], retry, rest_seconds=0))  # one group: one call at a time

    from infinitedub.pipeline.pools.ray_group import GroupShape, RayGroup
    from infinitedub.pipeline.pools.ray_nodes import alive_nodes, nodes_with_gpu_memory

    nodes = nodes_with_gpu_memory()
    settings = size_pools(settings, stages, degree, nodes, peaks)
    if not autoscaling:
        check_placement(settings, stages, degree, nodes)
    room = Room(alive_nodes)
    pools: dict[str, Pool] = {}
    for name, stage in stages.items():
        of_stage = getattr(settings, name)
        gang = isinstance(of_stage, GangSettings)
        shape = GroupShape.of_gang(of_stage, degree) if gang else GroupShape.of_actor(of_stage)
        shape = replace(shape, low_memory=needs_low_memory(getattr(peaks, name, None), nodes))
        size = of_stage.gangs if gang else of_stage.actors
        groups = [RayGroup(name, stage, shape, storage, settings.placement_seconds, weights.get(name, ""), room) for _ in range(size)]
        pools[name] = Pool(groups, retry, settings.placement_seconds)
    room.pools = pools
    return pools
