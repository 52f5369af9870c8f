"""What all jobs of a run share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from infinitedub.pipeline.pools.circuit_breaker import CircuitBreaker
from infinitedub.pipeline.pools.pool import Pool
from infinitedub.pipeline.pools.settings import RetrySettings
from infinitedub.pipeline.run.stage_registry import StageSpec
from infinitedub.pipeline.state.forced_rerun import ForcedRerun
from infinitedub.pipeline.state.ledger import Ledger
from infinitedub.pipeline.state.run_log import Event
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.records import Provenance


@dataclass(frozen=True)
class RunContext:
    """The stages, their pools, what is already committed, and where events go."""

    stages: Mapping[str, StageSpec]
    pools: Callable[[], Mapping[str, Pool]]  # opened by the first call: a run that finds everything committed needs no cluster
    ledger: Ledger
    storage: Storage
    weights: Mapping[str, str]  # digest of a stage's weights, for the stages that have any
    emit: Callable[[Event], None]
    provenance: Callable[[dict[str, float]], Provenance]
    window_work: Callable[[int, int], float]  # of a window of that height and width, with the run's sampler and guidance; see `window_work`
    retry: RetrySettings
    breaker: CircuitBreaker
    stopping: Callable[[], bool]
    forced_rerun: ForcedRerun | None = None
