"""The pools of a run, by the name of their stage."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from infinitedub.pipeline.pools.circuit_breaker import CircuitBreaker
from infinitedub.pipeline.pools.inline import InlinePool, Turn
from infinitedub.pipeline.pools.pool import Pool
from infinitedub.pipeline.pools.retry import RetryPolicy
from infinitedub.pipeline.pools.settings import GangSettings, InlineSettings, PoolsSettings
from infinitedub.pipeline.pools.worker import Worker
from infinitedub.pipeline.storage.storage import StorageSettings
from infinitedub.stages.contract import Stage
from infinitedub.stages.errors import ConfigError


def open_pools(
    stages: Mapping[str, Stage],
    degree: int,
    settings: PoolsSettings,
    storage: StorageSettings,
    stop: Callable[[str], None],
    weights: Mapping[str, str],
) -> dict[str, Pool]:
    """One pool per stage, still without workers: those come with the first orders. `degree` processes make a gang.

    `weights` are the digests that each process has to find of its stage's weights, where it has any.
    `stop` is called, once and with the reason, when the same error keeps meeting order after order.
    """
    patience = RetryPolicy(settings.retry, CircuitBreaker(settings.same_error_limit, stop))
    if isinstance(settings, InlineSettings):
        if degree > 1:
            raise ConfigError(f"pools=inline runs everything in one process, generate.parallel asks for {degree}; take generate/parallel=single")
        turn = Turn([None])
        return {
            name: InlinePool(partial(Worker, stage, storage, settings.threads, weights.get(name, "")), turn, patience)
            for name, stage in stages.items()
        }

    from infinitedub.pipeline.pools.actors import ActorPool
    from infinitedub.pipeline.pools.gangs import GangPool

    pools: dict[str, Pool] = {}
    for name, stage in stages.items():
        shared: dict[str, Any] = dict(placement_seconds=settings.placement_seconds, patience=patience, weights=weights.get(name, ""))
        share = getattr(settings, name)
        if isinstance(share, GangSettings):
            pools[name] = GangPool(name, stage, degree, share, storage, **shared)
        else:
            pools[name] = ActorPool(name, stage, share, storage, **shared)
    return pools
