"""The stages as one job sees them: looked up before they are done, labelled, ordered, and written into the run log."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from time import monotonic, time
from typing import Any, TypeVar, cast

from infinitedub.pipeline.pools.circuit_breaker import CircuitBreaker
from infinitedub.pipeline.pools.pool import CallLabel, Pool, StageCall, WorkSeconds
from infinitedub.pipeline.pools.retry import FailureClass, RetriesExhausted, backoff_seconds, failure_of, retries_exhausted
from infinitedub.pipeline.pools.settings import RetrySettings
from infinitedub.pipeline.run.stage_registry import StageSpec
from infinitedub.pipeline.state.content_keys import identity, key_of
from infinitedub.pipeline.state.forced_rerun import ForcedRerun
from infinitedub.pipeline.state.ledger import Ledger
from infinitedub.pipeline.state.run_log import Event
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.errors import BadInput, ConfigError, Transient
from infinitedub.stages.records import (
    Chunk,
    Clip,
    Conditions,
    Film,
    Job,
    Length,
    Material,
    Prompt,
    Provenance,
    Receipt,
    Seed,
    Segment,
    Source,
    Speech,
    WindowCheckpoint,
)

T = TypeVar("T")
U = TypeVar("U")

Log = Callable[[Event], None]


class Stopped(Exception):
    """The run was told to stop: what was going on has come to its next commit, what had not begun has not."""


class StageFailed(Exception):
    """A stage gave up on a job; the error itself is the `__cause__`."""

    def __init__(self, stage: str, segment: int | None, error: Exception) -> None:
        super().__init__(str(error))
        self.stage = stage
        self.segment = segment
        self.error = error


@dataclass(frozen=True)
class RunContext:
    """What all jobs of a run share: who works, what is already done, and who keeps the log."""

    verbs: dict[str, StageSpec]
    pools: Callable[[], dict[str, Pool]]  # opened by the first order: a run that finds everything done needs neither cluster nor process
    ledger: Ledger
    storage: Storage
    weights: dict[str, str]  # per verb: digest of the weights its result depends on, where it does
    log: Log
    provenance: Callable[[dict[str, float]], Provenance]
    stopping: Callable[[], bool] = lambda: False
    forced_rerun: ForcedRerun | None = None
    retry: RetrySettings | None = None  # how often a storage that fails under the driver is asked; None: once
    alarm: CircuitBreaker | None = None  # told of sources and results that the settings do not open


@dataclass
class JobStages:
    """One job's view of the works."""

    works: RunContext
    job: Job
    place: int  # in the run; jobs begun earlier go first, so that films are finished rather than begun
    seconds: dict[str, float] = field(default_factory=dict)  # spent per stage for this job

    async def ingest(self, material: Material) -> Source:
        uris = [material.picture, *(speaker.speech for speaker in material.speakers)]
        alarm, order = self.works.alarm, StageCall("ingest", self.job.id, (), CallLabel(self.job.id), (self.place,))
        try:
            seen = await all_of(self._retry_storage(identity, self.works.storage, uri) for uri in uris)
        except (BadInput, ConfigError, RetriesExhausted) as error:
            if isinstance(error, ConfigError) and alarm is not None:  # a bucket in another region costs a film, missing credentials cost all
                alarm.failed(order, _without(uris, str(error)), str(error))
            raise StageFailed("ingest", None, error) from error
        return await self._ask("ingest", (material,), extra={"inputs": seen})

    async def segment(self, source: Source, length: Length | None) -> tuple[Segment, ...]:
        segments: tuple[Segment, ...] = await self._ask("segment", (source, length))
        if self.works.forced_rerun is not None:
            try:
                self.works.forced_rerun.check(self.job.id, segments)
            except BadInput as error:
                raise StageFailed("segment", None, error) from error
        return segments

    async def listen(self, source: Source) -> Speech:
        return await self._ask("listen", (source,))

    async def condition(self, source: Source, segment: Segment, prompt: Prompt) -> Conditions:
        return await self._ask("condition", (source, segment, prompt), segment)

    async def generate(self, segment: Segment, conditions: Conditions, speech: Speech, seed: Seed) -> Clip:
        pace = (conditions.height, conditions.width, len(speech.lufs))
        return await self._ask("generate", (segment, conditions, speech, seed), segment, pace=pace)

    async def assemble(self, source: Source, clips: tuple[Clip, ...]) -> Film:
        return await self._ask("assemble", (source, clips))

    async def publish(self, job: Job, source: Source, film: Film) -> Receipt:
        provenance = self.works.provenance(dict(self.seconds))
        # What made the film does not make it another film: run ids and timings stay out of the key.
        return await self._ask("publish", (job, source, film, provenance), keyed=(job, film))

    async def _ask(
        self,
        name: str,
        records: tuple[Any, ...],
        segment: Segment | None = None,
        *,
        keyed: tuple[Any, ...] | None = None,
        extra: dict[str, Any] | None = None,
        pace: tuple[Any, ...] = (),
    ) -> Any:
        """The committed result of a stage: found, or else made."""
        works, verb = self.works, self.works.verbs[name]
        key = key_of(
            name,
            verb.version,
            records if keyed is None else keyed,
            verb.stage.config.deciding(),
            {**(extra or {}), "weights": works.weights.get(name, "")},
        )
        length = 0 if segment is None else segment.span.frames
        order = StageCall(name, key, records, CallLabel(self.job.id, None if segment is None else segment.index), (self.place, -length), pace)
        try:
            if name == "generate" and segment is not None and works.forced_rerun is not None and works.forced_rerun.concerns(self.job.id, segment):
                await self._retry_storage(self._put_aside, works.forced_rerun, verb, key, segment)
            found = await self._retry_storage(works.ledger.find, name, key, verb.result)
        except (ConfigError, RetriesExhausted) as error:
            if isinstance(error, ConfigError) and works.alarm is not None:  # credentials that have run out, say
                works.alarm.failed(order, "the ledger cannot be read", str(error))
            raise StageFailed(name, order.label.segment, error) from error
        if works.alarm is not None:
            works.alarm.ended_well(order)
        if found is not None:
            self._tell("reused", name, segment)
            return found
        if works.stopping():
            raise Stopped
        last, spent = monotonic(), 0.0

        def on_part(part: Any) -> None:
            nonlocal last, spent
            if isinstance(part, WorkSeconds):
                spent = part.seconds
            elif isinstance(part, Chunk) and segment is not None:
                now = monotonic()
                self._tell("window", name, segment, window=part.window, seconds=now - last, detail=f"{part.window + 1}/{len(segment.windows)}")
                last = now
                if works.stopping():  # the window is committed; whoever goes on begins behind it
                    raise Stopped

        pool = works.pools()[name]  # a cluster that cannot be had is the run's failure, not the job's
        self._tell("started", name, segment)
        try:
            result = await pool.run(order, on_part)
        except Stopped:
            raise
        except asyncio.CancelledError:
            if works.stopping():  # it waited for a place, and the pool takes no more
                raise Stopped from None
            raise
        except Exception as error:
            self._tell("failed", name, segment, detail=str(error))
            raise StageFailed(name, order.label.segment, error) from error
        self.seconds[name] = self.seconds.get(name, 0.0) + spent
        self._tell("finished", name, segment, seconds=spent)
        return result

    async def _retry_storage(self, call: Callable[..., T], *words: Any) -> T:
        return await retry_storage(self.works.retry, self.works.stopping, call, *words)

    def _put_aside(self, forced_rerun: ForcedRerun, verb: StageSpec, key: str, segment: Segment) -> None:
        """Withdraws the segment's windows from the first one asked for, and then its clip, whose entry tells that nothing older is left.

        Two drivers that do so in the same moment may make a window twice.
        """
        ledger = self.works.ledger
        if forced_rerun.name and ledger.has_withdrawn(verb.name, key, once=forced_rerun.name):
            return
        for window in range(forced_rerun.first_window, len(segment.windows)):
            ledger.withdraw(verb.name, key, WindowCheckpoint, forced_rerun.reason, part=window)
        ledger.withdraw(verb.name, key, verb.result, forced_rerun.reason, once=forced_rerun.name)

    def _tell(
        self, what: str, stage: str, segment: Segment | None, *, window: int | None = None, seconds: float | None = None, detail: str = ""
    ) -> None:
        index = None if segment is None else segment.index
        self.works.log(Event(time(), self.job.id, index, window, stage, what, seconds, detail))


async def retry_storage(retry: RetrySettings | None, stopping: Callable[[], bool], call: Callable[..., T], *words: Any) -> T:
    """What the storage says to the driver, asked as often and with the same waits as by a stage. Raises RetriesExhausted, or Stopped."""
    failures = 0
    while True:
        try:
            return await asyncio.to_thread(call, *words)
        except Transient as error:
            failures += 1
            if retry is None or failures >= retry.storage:
                raise retries_exhausted(failure_of(error), failures) from error
            if stopping():
                raise Stopped from error
            await asyncio.sleep(backoff_seconds(FailureClass.STORAGE, failures, retry))


def _without(uris: Iterable[str], said: str) -> str:
    """An error's words without the place it was met at: the same for the same error."""
    for uri in uris:
        said = said.replace(uri, "")
    return said


async def all_of(pieces: Iterable[Awaitable[T]]) -> tuple[T, ...]:
    """All results, or the first error once every piece has ended: what a failing job's other segments made is kept for its rerun."""
    done = await asyncio.gather(*pieces, return_exceptions=True)
    errors = [result for result in done if isinstance(result, BaseException)]
    for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):  # a failure says more
        raise error
    return tuple(result for result in done if not isinstance(result, BaseException))


async def both(one: Awaitable[T], other: Awaitable[U]) -> tuple[T, U]:
    """Two results of different kinds, as `all_of`."""
    first, second = await all_of((cast(Awaitable[Any], one), cast(Awaitable[Any], other)))
    return first, second
