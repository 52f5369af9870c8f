"""The driver: every job of a run in flight at once, up to a bound; each ends as a film or as a dead letter."""

import asyncio
import logging
import shlex
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from time import monotonic, time
from typing import Any

from infinitedub.pipeline.catalogue.rows import IDENTIFIER, BadRow, Catalogue
from infinitedub.pipeline.config import RunConfig, quoted
from infinitedub.pipeline.flow import dub_job
from infinitedub.pipeline.pools.circuit_breaker import CircuitBreaker
from infinitedub.pipeline.pools.opening import open_pools
from infinitedub.pipeline.pools.pool import Pool
from infinitedub.pipeline.pools.retry import FailureClass, RetriesExhausted, classify
from infinitedub.pipeline.run.job_stages import JobStages, RunContext, StageFailed, Stopped, retry_storage
from infinitedub.pipeline.run.progress import ProgressBoard
from infinitedub.pipeline.run.stage_registry import StageSpec, stage_specs
from infinitedub.pipeline.state.forced_rerun import ForcedRerun
from infinitedub.pipeline.state.ledger import Ledger
from infinitedub.pipeline.state.run_log import DeadLetter, Event, RunLog, legible
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.pipeline.storage.uris import locate
from infinitedub.pipeline.storage.weights import digest_of
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.records import Job, Provenance, Receipt

logger = logging.getLogger(__name__)

LIBRARIES = ("infinitedub", "torch", "diffusers", "transformers", "ray", "xfuser", "av", "scenedetect-headless", "pyloudnorm")


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    run: str
    done: dict[str, str]  # job id -> URI of its film
    failed: tuple[DeadLetter, ...]
    stopped: bool
    why: str  # it was stopped: the signal's name, or what kept failing
    worked: int  # stage calls that were really made
    seconds: float
    unlogged: str = ""  # why the end of its log could not be written


class Stop:
    """Whether the run is to end before all is done: softly, where what is going on comes to its next commit first, or at once."""

    def __init__(self) -> None:
        self.soft = asyncio.Event()
        self.hard = asyncio.Event()
        self.reason = ""

    def ask(self, reason: str) -> None:
        """The first time softly, the second time at once."""
        (self.hard if self.soft.is_set() else self.soft).set()
        self.reason = self.reason or legible(reason)

    def ask_softly(self, reason: str) -> None:
        """Softly, and no harder where somebody has asked before."""
        if not self.soft.is_set():
            self.ask(reason)

    def heed_signals(self) -> None:
        """Lets SIGINT and SIGTERM ask; a third one ends the process, whatever a thread of it still waits for."""
        loop = asyncio.get_running_loop()

        def heard(name: str) -> None:
            if self.soft.is_set():
                for number in (signal.SIGINT, signal.SIGTERM):
                    loop.remove_signal_handler(number)
                    signal.signal(number, signal.SIG_DFL)
            self.ask(name)

        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError, RuntimeError, ValueError):  # no signals outside the main thread
                loop.add_signal_handler(number, heard, signal.Signals(number).name)


async def run_jobs(
    config: RunConfig,
    catalogue: Catalogue,
    storage: Storage,
    raise_cluster: Callable[[], None],
    *,
    overrides: Sequence[str],
    parent: str | None,
    forced_rerun: ForcedRerun | None = None,
) -> Outcome:
    """Dubs every job of the catalogue. One failing job never stops the others; SIGINT or SIGTERM stops them all.

    The first signal ends dispatch: windows and calls that are worked at are finished and committed. A second one ends everything at once, but
    for a call to the storage that is under way; a third one does not wait for that either.
    `raise_cluster` is called before the first piece of work, and not at all where everything is already done.
    """
    asked: dict[str, Any] = {
        "config": config.model_dump(mode="json"),
        "overrides": list(overrides),
        "catalogue": locate(config.catalogue)[1],  # absolute: a rerun may be started from another folder
        "jobs": [job.id for job in catalogue.jobs],
        "bad": [row.id for row in catalogue.bad if _has_name(row)],
        "parent": parent,
        "forced_rerun": None if forced_rerun is None else forced_rerun.as_record(),
    }
    begun = monotonic()
    verbs = stage_specs(config)
    digests = await asyncio.to_thread(weights_of, verbs, storage)
    done: dict[str, str] = {}
    failed: list[DeadLetter] = []
    worked = 0
    opened: dict[str, Pool] = {}
    stop = Stop()
    stop.heed_signals()

    with RunLog.begin(storage, asked) as log, ProgressBoard(verbs, len(catalogue.jobs)) as board:
        log.dead_letters(_unread(catalogue, again=shlex.join(["dub", "run", *overrides])))

        def tell(event: Event) -> None:
            nonlocal worked
            worked += event.what == "started"
            log.event(event)
            board(event)

        def pools() -> dict[str, Pool]:
            if not opened:
                raise_cluster()
                stop.heed_signals()  # once more: Ray sets a handler of its own, which ends the process
                stages = {name: verb.stage for name, verb in verbs.items()}
                opened.update(open_pools(stages, config.generate.parallel.degree, config.pools, config.storage, stop.ask_softly, digests))
            return opened

        def provenance(seconds: dict[str, float]) -> Provenance:
            return Provenance(log.run, asked["config"], digests["generate"], _versions(), seconds)

        alarm = CircuitBreaker(config.pools.same_error_limit, stop.ask_softly)
        ledger = Ledger(storage)
        works = RunContext(verbs, pools, ledger, storage, digests, tell, provenance, stop.soft.is_set, forced_rerun, config.pools.retry, alarm)
        waiting = enumerate(catalogue.jobs)

        async def work_on() -> None:
            for place, job in waiting:  # shared: a task for each job in flight, not for each job of the catalogue
                if stop.soft.is_set():
                    return
                await one(place, job)

        async def one(place: int, job: Job) -> None:
            try:
                receipt: Receipt = await dub_job(job, JobStages(works, job, place))
            except Stopped:
                return
            except StageFailed as failure:
                letter = _letter(job, failure, again(log.run, job.id, config, overrides))
                failed.append(letter)
                await asyncio.to_thread(log.dead_letter, letter)
                tell(Event(time(), job.id, letter.segment, None, letter.stage, "job_failed", None, letter.reason))
            else:
                done[job.id] = receipt.uri
                tell(Event(time(), job.id, None, None, "", "job_done", None, receipt.uri))

        tasks = [asyncio.create_task(work_on()) for _ in range(min(config.pools.jobs_in_flight, len(catalogue.jobs)))]
        try:
            await _until_done(tasks, stop, opened)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*(pool.close() for pool in opened.values()))
        stopped = stop.soft.is_set() and len(done) + len(failed) < len(catalogue.jobs)
        outcome = Outcome(log.run, done, tuple(failed), stopped, stop.reason if stopped else "", worked, monotonic() - begun)
        names = sorted(letter.job for letter in failed)
        ended = {"done": done, "failed": names, "stopped": stopped, "why": outcome.why, "worked": worked, "seconds": outcome.seconds}
        try:
            await retry_storage(config.pools.retry, lambda: False, log.finish, ended)
        except (ConfigError, RetriesExhausted) as error:
            return replace(outcome, unlogged=str(error))
    return outcome


async def _until_done(tasks: Sequence[asyncio.Task[None]], stop: Stop, opened: Mapping[str, Pool]) -> None:
    """Waits until every task has ended, or the run was told to end at once. An error of ours in a task is raised here."""
    everything = asyncio.gather(*tasks)
    soft, hard = (asyncio.create_task(event.wait()) for event in (stop.soft, stop.hard))
    try:
        await asyncio.wait((everything, soft), return_when=asyncio.FIRST_COMPLETED)
        if not everything.done():
            logger.warning("stopping (%s): windows and calls in progress are finished first; once more to end at once", stop.reason)
            for pool in opened.values():
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


def again(run: str, job: str, config: RunConfig, overrides: Sequence[str]) -> str:
    """The command that tries one job alone, from any folder; in one process where the run's device and number of ranks allow it."""
    places = [word for word in overrides if word.lstrip("+").startswith(("storage=", "storage.", "hydra.searchpath="))]
    where = [word for word in dict.fromkeys(places) if not word.startswith("storage.root=")]  # a rerun's hold some of them twice
    alone = ["pools=inline"] if config.generate.device == "cpu" and config.generate.parallel.degree == 1 else []
    named = [f"--ids={job}"] if job.startswith("-") else ["--ids", job]
    return shlex.join(["dub", "rerun", "--run", run, *named, *alone, *where, f"storage.root={quoted(config.storage.root)}"])


def _unread(catalogue: Catalogue, again: str) -> list[DeadLetter]:
    """A dead letter for each bad row, under its id, or its line where it has none that could name a film."""
    told: dict[str, list[str]] = {}
    for row in catalogue.bad:
        told.setdefault(str(row.id) if _has_name(row) else f"line {row.line}", []).append(str(row))
    return [DeadLetter(name, "catalogue", None, str(FailureClass.INPUT), " / ".join(rows), 1, "", again) for name, rows in told.items()]


def _has_name(row: BadRow) -> bool:
    return row.id is not None and IDENTIFIER.fullmatch(row.id) is not None


def _letter(job: Job, failure: StageFailed, repro: str) -> DeadLetter:
    error = failure.error
    kind = error.kind if isinstance(error, RetriesExhausted) else classify(error)
    attempts = error.attempts if isinstance(error, RetriesExhausted) else 1
    tail = error.trace if isinstance(error, RetriesExhausted) else "".join(traceback.format_exception(error))
    return DeadLetter(
        job=job.id,
        stage=failure.stage,
        segment=failure.segment,
        kind=str(kind),
        reason=str(error) or type(error).__name__,
        attempts=attempts,
        trace="\n".join(tail.splitlines()[-40:]),
        repro=repro,
    )


def weights_of(verbs: Mapping[str, StageSpec], storage: Storage) -> dict[str, str]:
    """Digest of the weights behind each verb's result: a retrained model is another model, whatever its path."""
    return {name: digest for name, verb in verbs.items() if (digest := digest_of(storage, verb.stage.config))}


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
