"""A run over a catalogue: the driver with a run log, a progress board and signals; each job ends as a film or as a dead letter."""

import asyncio
import shlex
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import monotonic, time
from typing import Any

from infinitedub.pipeline.catalogue.rows import IDENTIFIER, BadRow, Catalogue
from infinitedub.pipeline.config import RunConfig, quoted
from infinitedub.pipeline.pools.failures import FailureClass, RetriesExhausted, classify
from infinitedub.pipeline.pools.retry import retry_transient
from infinitedub.pipeline.run.driver import Driver
from infinitedub.pipeline.run.job_stages import StageFailed
from infinitedub.pipeline.run.progress import ProgressBoard
from infinitedub.pipeline.run.stop import StopSignal
from infinitedub.pipeline.state.forced_rerun import ForcedRerun
from infinitedub.pipeline.state.run_log import DeadLetter, Event, RunLog
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.pipeline.storage.uris import locate
from infinitedub.stages.errors import ConfigError, DubError
from infinitedub.stages.records import Job, Receipt

TRACE_LINES = 40


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    run: str
    done: dict[str, str]  # job id -> URI of its film
    failed: tuple[DeadLetter, ...]
    stopped: bool
    why: str  # it was stopped: the signal's name, or the error that tripped the circuit breaker
    worked: int  # stage calls that were made, not found
    seconds: float
    unlogged: str = ""  # why the end of its log could not be written


async def run_catalogue(
    config: RunConfig,
    catalogue: Catalogue,
    storage: Storage,
    start_cluster: Callable[[], None],
    *,
    overrides: Sequence[str],
    parent: str | None,
    forced_rerun: ForcedRerun | None = None,
) -> Outcome:
    """Dubs every job of the catalogue. SIGINT or SIGTERM stops the run: see `StopSignal`.

    `start_cluster` is called before the first call that has to be made. If it raises ConfigError the run leaves no trace in the log.
    """
    stop = StopSignal()
    stop.watch_signals()
    try:
        return await _run(config, catalogue, storage, start_cluster, stop, overrides, parent, forced_rerun)
    finally:
        stop.release_signals()


async def _run(
    config: RunConfig,
    catalogue: Catalogue,
    storage: Storage,
    start_cluster: Callable[[], None],
    stop: StopSignal,
    overrides: Sequence[str],
    parent: str | None,
    forced_rerun: ForcedRerun | None,
) -> Outcome:
    started = monotonic()
    done: dict[str, str] = {}
    failed: list[DeadLetter] = []
    worked = 0
    with RunLog.begin(storage, run_record(config, catalogue, overrides, parent, forced_rerun)) as log:
        log.dead_letters(_bad_row_letters(catalogue, command=shlex.join(["dub", "run", *overrides])))

        def count_calls(event: Event) -> None:
            nonlocal worked
            worked += event.what == "started"

        async def on_end(job: Job, result: Receipt | StageFailed) -> None:
            if isinstance(result, Receipt):
                done[job.id] = result.uri
                driver.emit(Event(time(), job.id, None, None, "", "job_done", None, result.uri))
                return
            letter = dead_letter(job, result, rerun_command(log.run, job.id, config, overrides))
            failed.append(letter)
            await asyncio.to_thread(log.dead_letter, letter)
            driver.emit(Event(time(), job.id, letter.segment, None, letter.stage, "job_failed", None, letter.reason))

        driver = Driver(
            config,
            storage,
            stop=stop,
            start_cluster=start_cluster,
            listeners=(log.event, count_calls),
            run=log.run,
            forced_rerun=forced_rerun,
        )
        with ProgressBoard(driver.stages, len(catalogue.jobs)) as board:
            driver.listeners.append(board)
            try:
                async with driver:
                    await driver.dub_all(catalogue.jobs, on_end)
            except DubError:  # weights, cluster or pools cannot be had, so no call was made: the latest run is still the one before
                await asyncio.to_thread(log.discard)
                raise
        stopped = stop.soft.is_set() and len(done) + len(failed) < len(catalogue.jobs)
        outcome = Outcome(log.run, done, tuple(failed), stopped, stop.reason if stopped else "", worked, monotonic() - started)
        names = sorted(letter.job for letter in failed)
        ended = {"done": done, "failed": names, "stopped": stopped, "why": outcome.why, "worked": worked, "seconds": outcome.seconds}
        try:
            await retry_transient(config.pools.retry, lambda: False, log.finish, ended)
        except (ConfigError, RetriesExhausted) as error:
            return replace(outcome, unlogged=str(error))
    return outcome


def run_record(
    config: RunConfig, catalogue: Catalogue, overrides: Sequence[str], parent: str | None, forced_rerun: ForcedRerun | None
) -> dict[str, Any]:
    """What the log keeps of how a run was started."""
    return {
        "config": config.model_dump(mode="json"),
        "overrides": list(overrides),
        "catalogue": locate(config.catalogue)[1],  # absolute: a rerun may be started from another folder
        "jobs": [job.id for job in catalogue.jobs],
        "bad": [row.id for row in catalogue.bad if _has_id(row)],
        "parent": parent,
        "forced_rerun": None if forced_rerun is None else forced_rerun.as_record(),
    }


def rerun_command(run: str, job: str, config: RunConfig, overrides: Sequence[str]) -> str:
    """The command that tries one job alone, from any folder; in one process if the run's device and number of ranks allow it."""
    storage = [word for word in overrides if word.lstrip("+").startswith(("storage=", "storage.", "hydra.searchpath="))]
    kept = [word for word in dict.fromkeys(storage) if not word.startswith("storage.root=")]  # those of a rerun may hold duplicates
    inline = ["pools=inline"] if config.generate.device == "cpu" and config.generate.parallel.degree == 1 else []
    ids = [f"--ids={job}"] if job.startswith("-") else ["--ids", job]
    return shlex.join(["dub", "rerun", "--run", run, *ids, *inline, *kept, f"storage.root={quoted(config.storage.root)}"])


def dead_letter(job: Job, failure: StageFailed, command: str) -> DeadLetter:
    """Why a job has no film, and the command that tries it alone."""
    error = failure.error
    if isinstance(error, RetriesExhausted):
        kind, attempts, trace = error.kind, error.attempts, error.trace
    else:
        kind, attempts, trace = classify(error), 1, "".join(traceback.format_exception(error))
    return DeadLetter(
        job=job.id,
        stage=failure.stage,
        segment=failure.segment,
        kind=str(kind),
        reason=str(error) or type(error).__name__,
        attempts=attempts,
        trace="\n".join(trace.splitlines()[-TRACE_LINES:]),
        repro=command,
    )


def _bad_row_letters(catalogue: Catalogue, command: str) -> list[DeadLetter]:
    """A dead letter for each bad row, under its id, or under its line if the id cannot name a film."""
    reasons: dict[str, list[str]] = {}
    for row in catalogue.bad:
        reasons.setdefault(str(row.id) if _has_id(row) else f"line {row.line}", []).append(str(row))
    return [DeadLetter(name, "catalogue", None, str(FailureClass.INPUT), " / ".join(rows), 1, "", command) for name, rows in reasons.items()]


def _has_id(row: BadRow) -> bool:
    return row.id is not None and IDENTIFIER.fullmatch(row.id) is not None
