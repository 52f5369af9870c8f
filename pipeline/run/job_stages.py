"""The stages as one job calls them: looked up in the ledger, queued in their pools, and written into the run log."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from time import time
from typing import Any, TypeVar, cast

from infinitedub.pipeline.pools.calls import CallLabel, Progress, Retrying, StageCall, Started, WaitingForRoom, Worked, WorkersStarted, Yielded
from infinitedub.pipeline.pools.failures import RetriesExhausted
from infinitedub.pipeline.pools.retry import retry_transient
from infinitedub.pipeline.run.context import RunContext
from infinitedub.pipeline.run.stage_registry import StageSpec
from infinitedub.pipeline.state.content_keys import key_of, source_fingerprint
from infinitedub.pipeline.state.forced_rerun import ForcedRerun
from infinitedub.pipeline.state.run_log import Event
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

LEDGER = "ledger"
"""Counted by the circuit breaker as a stage of its own: a ledger that can be read says nothing about the stages."""


class Stopped(Exception):
    """The run is stopping: calls in progress have reached their next commit, the others have not started."""


class StageFailed(Exception):
    """A stage has failed for good for a job; `error` is the reason, also as `__cause__`."""

    def __init__(self, stage: str, segment: int | None, error: Exception) -> None:
        super().__init__(str(error))
        self.stage = stage
        self.segment = segment
        self.error = error


@dataclass
class JobStages:
    """One method per stage, for one job: the committed result, found or made. Raises StageFailed or Stopped."""

    context: RunContext
    job: Job
    position: int  # in the run; jobs started earlier go first, so that films are finished before more are started
    seconds: dict[str, float] = field(default_factory=dict)  # worked per stage for this job

    async def ingest(self, material: Material) -> Source:
        uris = [material.picture, *(speaker.speech for speaker in material.speakers)]
        try:
            seen = await all_of(self._retry_transient(source_fingerprint, self.context.storage, uri) for uri in uris)
        except (BadInput, ConfigError, RetriesExhausted) as error:
            if isinstance(error, ConfigError):  # a bucket in another region costs one film, missing credentials cost all
                call = StageCall("ingest", self.job.id, (), CallLabel(self.job.id), (self.position,))
                self.context.breaker.record_failure(call, _without(uris, str(error)), str(error))
            raise StageFailed("ingest", None, error) from error
        return await self._result("ingest", (material,), extra={"inputs": seen}, sources=tuple(zip(uris, seen, strict=True)))

    async def segment(self, source: Source, length: Length | None) -> tuple[Segment, ...]:
        segments: tuple[Segment, ...] = await self._result("segment", (source, length))
        if self.context.forced_rerun is not None:
            try:
                self.context.forced_rerun.check_segments(self.job.id, segments)
            except BadInput as error:
                raise StageFailed("segment", None, error) from error
        return segments

    async def listen(self, source: Source) -> Speech | None:
        """None if the engine needs no speech."""
        if "listen" not in self.context.stages:
            return None
        return await self._result("listen", (source,))

    async def condition(self, source: Source, segment: Segment, prompt: Prompt) -> Conditions:
        return await self._result("condition", (source, segment, prompt), segment)

    async def generate(self, segment: Segment, conditions: Conditions, speech: Speech | None, seed: Seed) -> Clip:
        window_kind = (conditions.height, conditions.width, len(speech.lufs) if speech else 0)
        work = self.context.window_work(conditions.height, conditions.width)
        return await self._result("generate", (segment, conditions, speech, seed), segment, window_kind=window_kind, window_work=work)

    async def assemble(self, source: Source, clips: tuple[Clip, ...]) -> Film:
        return await self._result("assemble", (source, clips))

    async def publish(self, job: Job, source: Source, film: Film) -> Receipt:
        provenance: Provenance = self.context.provenance(dict(self.seconds))
        # The provenance stays out of the key: run ids and timings do not make it another film.
        return await self._result("publish", (job, source, film, provenance), keyed=(job, film))

    async def _result(
        self,
        name: str,
        records: tuple[Any, ...],
        segment: Segment | None = None,
        *,
        keyed: tuple[Any, ...] | None = None,
        extra: dict[str, Any] | None = None,
        window_kind: tuple[Any, ...] = (),
        window_work: float = 1.0,
        sources: tuple[tuple[str, str], ...] = (),
    ) -> Any:
        """The committed result of a stage. `keyed`: the records that decide it, by default all; `extra`: what else decides it."""
        context, spec = self.context, self.context.stages[name]
        deciding = spec.stage.config.deciding()
        key = key_of(name, spec.version, records if keyed is None else keyed, deciding, {**(extra or {}), "weights": context.weights.get(name, "")})
        frames = 0 if segment is None else segment.span.frames
        label = CallLabel(self.job.id, None if segment is None else segment.index)
        call = StageCall(name, key, records, label, (self.position, -frames), window_kind, window_work, sources)
        found = await self._committed(call, spec, segment)
        if found is not None:
            self._emit("reused", call)
            return found
        if context.stopping():
            raise Stopped
        return await self._make(call, 0 if segment is None else len(segment.windows))

    async def _committed(self, call: StageCall, spec: StageSpec, segment: Segment | None) -> Any | None:
        """The result that the ledger holds, after a forced rerun has withdrawn what it must make again; None if there is none."""
        context = self.context
        forced = context.forced_rerun
        try:
            if call.stage == "generate" and segment is not None and forced is not None and forced.applies_to(self.job.id, segment):
                await self._retry_transient(self._withdraw, forced, spec, call.key, segment)
            found = await self._retry_transient(context.ledger.find, call.stage, call.key, spec.result)
        except (ConfigError, RetriesExhausted) as error:
            if isinstance(error, ConfigError):  # such as credentials that have expired
                context.breaker.record_failure(replace(call, stage=LEDGER), "the ledger cannot be read", str(error))
            raise StageFailed(call.stage, call.label.segment, error) from error
        context.breaker.record_success(replace(call, stage=LEDGER))
        if found is not None:
            context.breaker.record_success(call)
        return found

    async def _make(self, call: StageCall, windows: int) -> Any:
        """The result of a call that has to be made, by the stage's pool."""
        started, worked = False, 0.0

        def on_progress(progress: Progress) -> None:
            nonlocal started, worked
            match progress:
                case Started(waited, depth) if not started:  # a retry starts again, but is the same call
                    started = True
                    self._emit("started", call, seconds=waited, detail=f"{depth} waiting" if depth else "")
                case WaitingForRoom(reason):
                    self._emit("waiting_for_room", call, detail=reason)
                case WorkersStarted(seconds, restart):
                    self._emit("workers_restarted" if restart else "workers_started", call, seconds=seconds)
                case Retrying(attempt, failure_class, wait, reason):
                    self._emit("retry", call, detail=f"attempt {attempt} failed ({failure_class}), again in {wait:.1f} s: {reason}")
                case Yielded(Chunk() as chunk, seconds):
                    self._emit("window", call, window=chunk.window, seconds=seconds, detail=f"{chunk.window + 1}/{windows}")
                    if self.context.stopping():  # the window is committed: the next run continues after it
                        raise Stopped
                case Worked(seconds):
                    worked = seconds

        pool = self.context.pools()[call.stage]  # a cluster that cannot be had fails the run, not the job
        try:
            result = await pool.run(call, on_progress)
        except Stopped:
            raise
        except asyncio.CancelledError:
            if self.context.stopping():  # it was still in the queue when the pool was drained
                raise Stopped from None
            raise
        except Exception as error:
            self._emit("failed", call, detail=str(error))
            raise StageFailed(call.stage, call.label.segment, error) from error
        self.seconds[call.stage] = self.seconds.get(call.stage, 0.0) + worked
        self._emit("finished", call, seconds=worked)
        return result

    async def _retry_transient(self, call: Callable[..., T], *arguments: Any) -> T:
        try:
            return await retry_transient(self.context.retry, self.context.stopping, call, *arguments)
        except Transient as error:
            raise Stopped from error

    def _withdraw(self, forced: ForcedRerun, spec: StageSpec, key: str, segment: Segment) -> None:
        """Withdraws the segment's windows from the first one asked for, and then its clip, whose entry says that nothing older is left.

        Two drivers that do so at the same moment may make a window twice.
        """
        ledger = self.context.ledger
        if forced.id and ledger.has_withdrawn(spec.name, key, withdrawal=forced.id):
            return
        for window in range(forced.first_window, len(segment.windows)):
            ledger.withdraw(spec.name, key, WindowCheckpoint, forced.reason, part=window)
        ledger.withdraw(spec.name, key, spec.result, forced.reason, withdrawal=forced.id)

    def _emit(self, what: str, call: StageCall, *, window: int | None = None, seconds: float | None = None, detail: str = "") -> None:
        self.context.emit(Event(time(), self.job.id, call.label.segment, window, call.stage, what, seconds, detail))


def _without(uris: Iterable[str], message: str) -> str:
    """An error's message without the URIs in it: equal for the same error."""
    for uri in uris:
        message = message.replace(uri, "")
    return message


async def all_of(awaitables: Iterable[Awaitable[T]]) -> tuple[T, ...]:
    """All results, or the first error after every awaitable has ended: the other segments of a failing job are kept for its rerun."""
    done = await asyncio.gather(*awaitables, return_exceptions=True)
    errors = [result for result in done if isinstance(result, BaseException)]
    for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):  # a failure says more than a stop
        raise error
    return tuple(result for result in done if not isinstance(result, BaseException))


async def both(one: Awaitable[T], other: Awaitable[U]) -> tuple[T, U]:
    """Two results of different types, as `all_of`."""
    first, second = await all_of((cast(Awaitable[Any], one), cast(Awaitable[Any], other)))
    return first, second
