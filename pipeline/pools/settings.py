"""Settings of pools: how many workers each stage has, their share of a node, and how often a failing call is retried."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from infinitedub.stages.settings import Neutral, Settings

MIN_OBJECT_STORE_BYTES = 80 * 2**20  # Ray starts with no less than 75 MB


class RetrySettings(Settings):
    """Attempts that a call has per failure class (see `FailureClass`); bad input and impossible settings are never retried.

    The counts start at zero again when a call commits a window for the first time: they bound failures at one and the same window.
    """

    storage: Neutral[PositiveInt]
    """Attempts that may end in a storage or network error, each after a longer wait."""
    worker_lost: Neutral[PositiveInt]
    """Worker processes that may die, or be killed by the watchdog, during one call."""
    gang_lost: Neutral[PositiveInt]
    """Gangs that may break during one call."""
    node_lost: Neutral[PositiveInt]
    """Nodes that may be lost during one call, which is hardly the call's fault."""
    host_oom: Neutral[PositiveInt]
    """Attempts that may run out of the node's memory."""
    gpu_oom: Neutral[PositiveInt]
    """Attempts that may run out of GPU memory; the later ones run in a new process in low-memory mode (see `Rank.low_memory`)."""
    numeric: Neutral[PositiveInt]
    """Attempts that may end in NaN or infinity."""
    code: Neutral[PositiveInt]
    """Attempts that may end in any other exception."""
    backoff_seconds: Neutral[PositiveFloat]
    """Wait before the second attempt after a failure of the storage, of a node or of its memory; doubled for each further one, with jitter."""
    backoff_limit_seconds: Neutral[PositiveFloat]
    """The longest such wait."""


class ActorSettings(Settings):
    """The workers of a stage whose calls run in one process each."""

    actors: Neutral[PositiveInt | None]
    """Processes, started one by one as calls arrive; null: one per node of the cluster, for condition one per eight GPUs."""
    cpus: Neutral[float] = Field(gt=0)
    """CPUs that Ray reserves for each process: how many processes fit on a node, not how many threads they run."""
    gpus: Neutral[float | None] = Field(ge=0)
    """GPUs for each process; a fraction shares one. null: a quarter if a rank of generate fits beside it, else a whole one (see `size_pools`)."""
    memory_bytes: Neutral[PositiveInt | None]
    """Host memory that Ray reserves for each process; null reserves none."""
    threads: Neutral[PositiveInt]
    """Threads of a process for tensor work."""
    watchdog_seconds: Neutral[PositiveFloat]
    """A process that makes no progress for this long, neither a record nor a result, is killed and its call retried."""


class GangSettings(Settings):
    """The gangs of a stage whose calls are shared by several processes. Their number per gang is `generate.parallel.degree`."""

    gangs: Neutral[PositiveInt | None]
    """Gangs, started one by one as calls arrive; null: as many as the cluster holds. A larger number is lowered to that."""
    cpus_per_rank: Neutral[float] = Field(gt=0)
    """CPUs that Ray reserves for each process."""
    gpus_per_rank: Neutral[float | None] = Field(ge=0)
    """GPUs for each process; 0 computes on the CPU. null: three quarters if condition fits beside it, else a whole one (see `size_pools`)."""
    memory_bytes_per_rank: Neutral[PositiveInt | None]
    """Host memory that Ray reserves for each process; null reserves none."""
    threads: Neutral[PositiveInt]
    """Threads of a process for tensor work on the CPU."""
    open_seconds: Neutral[PositiveFloat]
    """Time that a gang has to connect its ranks and load the weights; after that it counts as lost."""
    watchdog_seconds: Neutral[PositiveFloat]
    """A gang that makes no progress for this long, neither a window nor a result, is killed and its call retried; the upper bound.
    For a window of 480p with 40 steps of 3 passes or less; for more pixels and evaluations in proportion (see `window_work`)."""
    watchdog_factor: Neutral[float] = Field(gt=1)
    """After the first window of a kind the watchdog's timeout is this many times the slowest window of that kind."""
    watchdog_floor_seconds: Neutral[PositiveFloat]
    """The shortest timeout: a slow storage call between two windows is not a hang."""
    settle_seconds: Neutral[PositiveFloat]
    """Time that the other ranks have to end after one has failed: if all end in good order the gang is kept."""


class InlineSettings(Settings):
    """Every stage in the driver's own process, one call at a time: for debuggers."""

    kind: Neutral[Literal["inline"]]
    """Marks settings of pools without Ray."""
    jobs_in_flight: Neutral[PositiveInt]
    """Jobs started and not yet ended."""
    threads: Neutral[PositiveInt]
    """Threads for tensor work."""
    same_error_limit: Neutral[PositiveInt]
    """Calls of a stage that may fail with the same error before the circuit breaker stops the run (see `CircuitBreaker`)."""
    retry: Neutral[RetrySettings]


class RaySettings(Settings):
    """A pool of Ray actors per stage."""

    kind: Neutral[Literal["actors"]]
    """Marks settings of pools on Ray."""
    jobs_in_flight: Neutral[PositiveInt]
    """Jobs started and not yet ended; enough to keep the gangs busy, few enough that films are finished before more are started."""
    placement_seconds: Neutral[PositiveFloat]
    """Time that the cluster has to place a process or gang, including new nodes from its autoscaler. It does not pass while stages of this run
    are at work that hold the room, and give it back when idle."""
    same_error_limit: Neutral[PositiveInt]
    """Calls of a stage that may fail with the same error before the circuit breaker stops the run (see `CircuitBreaker`)."""
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
    """local: a cluster on this machine, started and ended with the run; existing: a running cluster, which is joined and left."""
    address: Neutral[str | None]
    """existing only: "auto" on a machine of the cluster, or "host:port" of its head (6379 unless set otherwise)."""
    autoscaling: Neutral[bool]
    """existing only: nodes come when they are asked for, so what fits on no node now is asked for and waits `placement_seconds`."""
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
