"""What pools can be told: how many workers each stage has, on what share of a machine, and how often work is tried again."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from infinitedub.stages.settings import Neutral, Settings

MIN_OBJECT_STORE_BYTES = 80 * 2**20  # Ray starts with no less than 75 MB


class RetrySettings(Settings):
    """How many tries an order has per class of failure (see `FailureClass`); bad input and impossible settings have one.

    Tries are counted anew whenever an order has got a window further than ever before: what they bound are failures at one and the same place.
    """

    storage: Neutral[PositiveInt]
    """Tries that may end in a storage or network hiccup, each after a longer wait."""
    worker_lost: Neutral[PositiveInt]
    """Worker processes that may die or fall silent over one order."""
    gang_lost: Neutral[PositiveInt]
    """Gangs that may break over one order."""
    node_lost: Neutral[PositiveInt]
    """Machines that may vanish under one order, which is hardly the order's fault."""
    host_oom: Neutral[PositiveInt]
    """Processes that may run out of their machine's memory over one order."""
    gpu_oom: Neutral[PositiveInt]
    """Tries that may run out of GPU memory; each next one gets a fresh process that gets by with less (see `Rank.low_memory`)."""
    numeric: Neutral[PositiveInt]
    """Tries that may end in NaN or another broken number."""
    code: Neutral[PositiveInt]
    """Tries that may end in an error nobody foresaw."""
    backoff_seconds: Neutral[PositiveFloat]
    """Wait before the second try after a failure of the storage, of a machine or of its memory; it doubles with every further one and is jittered."""
    backoff_limit_seconds: Neutral[PositiveFloat]
    """The longest such wait."""


class ActorSettings(Settings):
    """The workers of a stage that runs in one process."""

    actors: Neutral[PositiveInt]
    """Processes, started one by one as work comes in."""
    cpus: Neutral[float] = Field(ge=0)
    """Share of a node that Ray sets aside for each process; says how many fit, not how many threads they run."""
    gpus: Neutral[float] = Field(ge=0)
    """GPUs for each process; a fraction shares one."""
    memory_bytes: Neutral[PositiveInt | None]
    """Host memory that Ray sets aside for each process; null sets none aside."""
    threads: Neutral[PositiveInt]
    """Threads of a process for tensor work."""
    watchdog_seconds: Neutral[PositiveFloat]
    """A process that gives no sign for this long, neither a part nor a result, is killed and its order tried again."""


class GangSettings(Settings):
    """The gangs of a stage whose processes work on one order together. How many make a gang is the model's affair (generate.parallel)."""

    gangs: Neutral[PositiveInt]
    """Gangs, started one by one as work comes in."""
    cpus_per_rank: Neutral[float] = Field(gt=0)
    """Share of a node that Ray sets aside for each process."""
    gpus_per_rank: Neutral[float] = Field(ge=0)
    """GPUs for each process; 0 computes on the CPU."""
    memory_bytes_per_rank: Neutral[PositiveInt | None]
    """Host memory that Ray sets aside for each process; null sets none aside."""
    threads: Neutral[PositiveInt]
    """Threads of a process for tensor work on the CPU."""
    open_seconds: Neutral[PositiveFloat]
    """Time a gang has to load its weights and to meet; after that it counts as lost."""
    watchdog_seconds: Neutral[PositiveFloat]
    """A gang that gives no sign for this long, neither a window nor a result, is killed and its order tried again; the longest bound."""
    watchdog_factor: Neutral[float] = Field(gt=1)
    """Once windows of a kind have been seen, the watchdog waits this many times as long as the slowest of them took, and no longer."""
    watchdog_floor_seconds: Neutral[PositiveFloat]
    """But never less than this: storage may stutter between windows."""
    settle_seconds: Neutral[PositiveFloat]
    """Once a rank has failed, how long the others may take to end as well: a gang whose ranks all end in good order lives on."""


class InlineSettings(Settings):
    """Every stage in the driver's own process, one call at a time: for debuggers."""

    kind: Neutral[Literal["inline"]]
    """Says that these are the settings of pools without Ray."""
    jobs_in_flight: Neutral[PositiveInt]
    """Jobs begun and not yet ended."""
    threads: Neutral[PositiveInt]
    """Threads for tensor work."""
    same_error_limit: Neutral[PositiveInt]
    """Orders of a stage that may fail with one and the same error before the run is stopped (see `CircuitBreaker`)."""
    retry: Neutral[RetrySettings]


class RaySettings(Settings):
    """A pool of Ray actors per stage."""

    kind: Neutral[Literal["actors"]]
    """Says that these are the settings of pools on Ray."""
    jobs_in_flight: Neutral[PositiveInt]
    """Jobs begun and not yet ended; enough to keep the gangs busy, few enough that films are finished rather than begun."""
    placement_seconds: Neutral[PositiveFloat]
    """Time the cluster has to find room for a process or gang, new nodes included where it scales by itself."""
    same_error_limit: Neutral[PositiveInt]
    """Orders of a stage that may fail with one and the same error before the run is stopped (see `CircuitBreaker`)."""
    ingest: Neutral[ActorSettings]
    segment: Neutral[ActorSettings]
    listen: Neutral[ActorSettings]
    condition: Neutral[ActorSettings]
    generate: Neutral[GangSettings]
    assemble: Neutral[ActorSettings]
    publish: Neutral[ActorSettings]
    retry: Neutral[RetrySettings]


PoolsSettings = Annotated[InlineSettings | RaySettings, Field(discriminator="kind")]


class ClusterSettings(Settings):
    """The Ray cluster that a run's pools live on."""

    kind: Neutral[Literal["local", "existing"]]
    """local: a cluster of this machine alone, started with the run and ended with it; existing: one that somebody keeps."""
    address: Neutral[str | None]
    """existing only: "auto" on a machine of the cluster, or "host:port" of its head (6379 unless set otherwise)."""
    cpus: Neutral[PositiveInt | None]
    """local only: CPUs to count with; null takes those the machine has."""
    object_store_bytes: Neutral[int] = Field(ge=MIN_OBJECT_STORE_BYTES)
    """local only: memory for Ray's objects. Media never passes it, so little will do."""
    log_level: Neutral[Literal["debug", "info", "warning", "error"]]
    """Of Ray's own messages in the driver."""
    worker_output: Neutral[bool]
    """Whether what worker processes print appears in the driver; the errors of stages come through in any case."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.kind == "local":
            return self
        if self.address is None:
            raise ValueError('an existing cluster needs its address: "auto" on one of its machines, or "host:port" of its head')
        if "://" in self.address:
            raise ValueError(
                f"address is {self.address}; Ray's client protocol does not carry the windows of a film as they are made: "
                'start dub on a machine of the cluster (or with `ray job submit`) with address "auto", or give "host:port"'
            )
        return self
