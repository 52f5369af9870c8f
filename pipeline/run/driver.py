"""The driver: opened once, given jobs, closed. A catalogue, a replay and any later front end use the same one."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from types import TracebackType
from typing import Self, TypeVar

from infinitedub.pipeline.config import RunConfig
from infinitedub.pipeline.flow import dub_job
from infinitedub.pipeline.pools import open_pools
from infinitedub.pipeline.pools.circuit_breaker import CircuitBreaker
from infinitedub.pipeline.pools.inline_group import Interrupted
from infinitedub.pipeline.pools.pool import Pool
from infinitedub.pipeline.pools.window_work import window_work
from infinitedub.pipeline.run.context import RunContext
from infinitedub.pipeline.run.job_stages import JobStages, StageFailed, Stopped
from infinitedub.pipeline.run.stage_registry import StageSpec, stage_specs
from infinitedub.pipeline.run.start_check import check_before_start
from infinitedub.pipeline.run.stop import StopSignal
from infinitedub.pipeline.state.forced_rerun import ForcedRerun
from infinitedub.pipeline.state.ledger import Ledger
from infinitedub.pipeline.state.run_log import Event
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.pipeline.storage.weights import digest_of
from infinitedub.stages.records import Job, Provenance, Receipt

logger = logging.getLogger(__name__)

T = TypeVar("T")

Listener = Callable[[Event], None]
"""Called on the driver with each event: the run log, the progress board, metrics."""

Flow = Callable[[Job, JobStages], Awaitable[T]]
"""What to make of a job; `dub_job` unless said otherwise."""

OpenPools = Callable[[Mapping[str, StageSpec], CircuitBreaker, Mapping[str, str]], Mapping[str, Pool]]
"""The pools of the stages, given the circuit breaker and the digests of the weights."""

OnEnd = Callable[[Job, Receipt | StageFailed], Awaitable[None]]
"""Called when a job has ended, with its receipt or the failure."""

LIBRARIES = ("infinitedub", "torch", "diffusers", "transformers", "ray", "xfuser", "av", "scenedetect-headless", "pyloudnorm")


class Driver:
    """Makes jobs with the stages of a configuration. Use as an async context manager; jobs may be given from several tasks at once.

    The cluster and the pools start with the first call that has to be made: a run that finds everything committed needs neither.
    """

    def __init__(
        self,
        config: RunConfig,
        storage: Storage,
        *,
        stop: StopSignal,
        start_cluster: Callable[[], None],
        listeners: Sequence[Listener] = (),
        run: str = "",
        ledger: Ledger | None = None,
        pools: OpenPools | None = None,
        forced_rerun: ForcedRerun | None = None,
    ) -> None:
        """`run`: the id that sidecars name. `ledger` and `pools` replace those of the configuration."""
        self._config = config
        self._storage = storage
        self._stop = stop
        self._start_cluster = start_cluster
        self.stages = stage_specs(config)
        self.listeners = list(listeners)
        self._run = run
        self._ledger = ledger or Ledger(storage)
        self._open_pools = pools or self._configured_pools
        self._forced_rerun = forced_rerun
        self._pools: Mapping[str, Pool] = {}
        self._positions = count()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(check_before_start, self._config, self._storage)
        weights = await asyncio.to_thread(weights_of, self.stages, self._storage)
        settings, generate = self._config.pools, self._config.generate
        breaker = CircuitBreaker(settings.same_error_limit, self._stop.request)

        def pools() -> Mapping[str, Pool]:
            if not self._pools:
                try:
                    with self._stop.interruptible():
                        self._start_cluster()
                except Interrupted:
                    raise Stopped from None
                self._stop.watch_signals()  # again: Ray installs a handler of its own, which ends the process
                self._pools = self._open_pools(self.stages, breaker, weights)
            return self._pools

        def provenance(seconds: dict[str, float]) -> Provenance:
            return Provenance(self._run, self._config.model_dump(mode="json"), weights.get("generate", ""), library_versions(), seconds)

        self._context = RunContext(
            stages=self.stages,
            pools=pools,
            ledger=self._ledger,
            storage=self._storage,
            weights=weights,
            emit=self.emit,
            provenance=provenance,
            window_work=partial(window_work, steps=generate.sampler.steps, passes=len(generate.guidance.passes)),
            retry=settings.retry,
            breaker=breaker,
            stopping=self._stop.soft.is_set,
            forced_rerun=self._forced_rerun,
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.gather(*(pool.close() for pool in set(self._pools.values())))

    def emit(self, event: Event) -> None:
        """Passes an event to every listener."""
        for listener in self.listeners:
            listener(event)

    async def make(self, job: Job, flow: Flow[T]) -> T:
        """What `flow` makes of the job. Raises StageFailed or Stopped."""
        return await flow(job, JobStages(self._context, job, next(self._positions)))

    async def dub_all(self, jobs: Iterable[Job], on_end: OnEnd) -> None:
        """Dubs jobs in their order, at most `pools.jobs_in_flight` at a time. A failing job never stops the others.

        Returns when all have ended, or after a stop: a soft one lets calls in progress reach their next commit, a hard one cancels them.
        """
        waiting = iter(jobs)

        async def work() -> None:
            for job in waiting:  # shared by the tasks: there is one for each job in flight, not for each job
                if self._stop.soft.is_set():
                    return
                try:
                    result: Receipt | StageFailed = await self.make(job, dub_job)
                except Stopped:
                    return
                except StageFailed as failure:
                    result = failure
                await on_end(job, result)

        tasks = [asyncio.create_task(work()) for _ in range(self._config.pools.jobs_in_flight)]
        try:
            await self._until_done(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_done(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Waits until every task has ended, or for a hard stop. An unexpected error of a task is raised here."""
        everything = asyncio.gather(*tasks)
        soft, hard = (asyncio.create_task(event.wait()) for event in (self._stop.soft, self._stop.hard))
        try:
            await asyncio.wait((everything, soft), return_when=asyncio.FIRST_COMPLETED)
            if not everything.done():
                logger.warning("stopping (%s): windows and calls in progress are finished first; a second signal ends at once", self._stop.reason)
                for pool in self._pools.values():
                    pool.drain()
                await asyncio.wait((everything, hard), return_when=asyncio.FIRST_COMPLETED)
            if not everything.done():
                everything.cancel()
                with suppress(asyncio.CancelledError):
                    await everything
                return
            everything.result()
        finally:
            soft.cancel()
            hard.cancel()

    def _configured_pools(self, specs: Mapping[str, StageSpec], breaker: CircuitBreaker, weights: Mapping[str, str]) -> Mapping[str, Pool]:
        config = self._config
        stages = {name: spec.stage for name, spec in specs.items()}
        return open_pools(
            stages,
            config.generate.parallel.degree,
            config.pools,
            config.storage,
            breaker,
            weights,
            self._stop.interruptible,
            autoscaling=config.cluster.autoscaling,
            peaks=config.engine.device_bytes(config.generate) if config.generate.device == "cuda" else None,
        )


def weights_of(stages: Mapping[str, StageSpec], storage: Storage) -> dict[str, str]:
    """Digest of the weights that each stage's result depends on: a retrained model is another model, whatever its path."""
    return {name: digest for name, spec in stages.items() if (digest := digest_of(storage, spec.stage.config))}


@cache
def library_versions() -> dict[str, str]:
    """Of the libraries that can change a film, as far as they are installed."""
    found: dict[str, str] = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
