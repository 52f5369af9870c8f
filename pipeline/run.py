"""The driver: every job of a run in flight at once, up to a bound; each ends as a film or as a dead letter."""

import asyncio
import shlex
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from time import monotonic, time
from typing import Any

from pipeline.catalogue import Catalogue
from pipeline.config import RunConfig, quoted
from pipeline.crew import Crew, StageFailed, Works
from pipeline.events import DeadLetter, Event, RunLog
from pipeline.flow import dub_job
from pipeline.ledger import Ledger
from pipeline.pools.opening import open_pools
from pipeline.pools.pool import Pool
from pipeline.pools.retry import Exhausted, classify
from pipeline.report import Board
from pipeline.roster import Verb, roster
from pipeline.storage import Storage, locate
from pipeline.weights import digest_of
from stages.records import Job, Provenance, Receipt

LIBRARIES = ("infinitedub", "torch", "diffusers", "transformers", "ray", "xfuser", "av", "scenedetect-headless", "pyloudnorm")


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    run: str
    done: dict[str, str]  # job id -> URI of its film
    failed: tuple[DeadLetter, ...]
    stopped: bool
    worked: int  # stage calls that were really made
    seconds: float


async def run_jobs(
    config: RunConfig, catalogue: Catalogue, storage: Storage, raise_cluster: Callable[[], None], *, overrides: Sequence[str], parent: str | None
) -> Outcome:
    """Dubs every job of the catalogue. One failing job never stops the others; SIGINT or SIGTERM stops them all.

    `raise_cluster` is called before the first piece of work, and not at all where everything is already done.
    """
    asked: dict[str, Any] = {
        "config": config.model_dump(mode="json"),
        "overrides": list(overrides),
        "catalogue": locate(config.catalogue)[1],  # absolute: a rerun may be started from another folder
        "jobs": [job.id for job in catalogue.jobs],
        "bad": [row.id for row in catalogue.bad if row.id],
        "parent": parent,
    }
    begun = monotonic()
    verbs = roster(config)
    digests = await asyncio.to_thread(_weights, verbs, storage)
    done: dict[str, str] = {}
    failed: list[DeadLetter] = []
    worked = 0
    opened: dict[str, Pool] = {}
    stop = asyncio.Event()
    _heed(stop)

    with RunLog.begin(storage, asked) as log, Board(verbs, len(catalogue.jobs)) as board:

        def tell(event: Event) -> None:
            nonlocal worked
            worked += event.what == "started"
            log.event(event)
            board(event)

        def pools() -> dict[str, Pool]:
            if not opened:
                raise_cluster()
                _heed(stop)  # once more: Ray sets a handler of its own, which ends the process
                stages = {name: verb.stage for name, verb in verbs.items()}
                opened.update(open_pools(stages, config.generate.parallel.degree, config.pools, config.storage))
            return opened

        def provenance(seconds: dict[str, float]) -> Provenance:
            return Provenance(log.run, asked["config"], digests["generate"], _versions(), seconds)

        works = Works(verbs, pools, Ledger(storage), storage, digests, tell, provenance)
        gate = asyncio.Semaphore(config.pools.jobs_in_flight)

        async def one(place: int, job: Job) -> None:
            async with gate:
                try:
                    receipt: Receipt = await dub_job(job, Crew(works, job, place))
                except StageFailed as failure:
                    letter = _letter(job, failure, again(log.run, job.id, config, overrides))
                    failed.append(letter)
                    await asyncio.to_thread(log.dead_letter, letter)
                    tell(Event(time(), job.id, letter.segment, None, letter.stage, "job_failed", None, letter.reason))
                else:
                    done[job.id] = receipt.uri
                    tell(Event(time(), job.id, None, None, "", "job_done", None, receipt.uri))

        tasks = [asyncio.create_task(one(place, job)) for place, job in enumerate(catalogue.jobs)]
        try:
            stopped = await _all_or_stopped(tasks, stop)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*(pool.close() for pool in opened.values()))
        outcome = Outcome(log.run, done, tuple(failed), stopped, worked, monotonic() - begun)
        names = sorted(letter.job for letter in failed)
        log.finish({"done": done, "failed": names, "stopped": stopped, "worked": worked, "seconds": outcome.seconds})
    return outcome


def _heed(stop: asyncio.Event) -> None:
    """Lets SIGINT and SIGTERM set `stop`."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError, RuntimeError, ValueError):  # no signals outside the main thread
            loop.add_signal_handler(number, stop.set)


async def _all_or_stopped(tasks: Sequence[asyncio.Task[None]], stop: asyncio.Event) -> bool:
    """Waits for every task; True when `stop` was set first. An error of ours in a task is raised here."""
    everything = asyncio.gather(*tasks)
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait((asyncio.ensure_future(everything), waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if stop.is_set():
        everything.cancel()
        with suppress(asyncio.CancelledError):
            await everything
        return True
    everything.result()
    return False


def again(run: str, job: str, config: RunConfig, overrides: Sequence[str]) -> str:
    """The command that tries one job alone, from any folder; in one process where the run's device and number of ranks allow it."""
    places = [word for word in overrides if word.startswith(("storage=", "storage.")) and not word.startswith("storage.root=")]
    where = dict.fromkeys(places)  # a rerun's overrides are those of its run and, once more, those it was found with
    alone = ["pools=inline"] if config.generate.device == "cpu" and config.generate.parallel.degree == 1 else []
    return shlex.join(["dub", "rerun", "--run", run, "--ids", job, *alone, *where, f"storage.root={quoted(config.storage.root)}"])


def _letter(job: Job, failure: StageFailed, repro: str) -> DeadLetter:
    error = failure.error
    kind = error.kind if isinstance(error, Exhausted) else classify(error)
    attempts = error.attempts if isinstance(error, Exhausted) else 1
    tail = error.trace if isinstance(error, Exhausted) else "".join(traceback.format_exception(error))
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


def _weights(verbs: Mapping[str, Verb], storage: Storage) -> dict[str, str]:
    """Digest of the weights behind each verb's result: a retrained model is another model, whatever its path."""
    return {name: digest for name, verb in verbs.items() if (digest := digest_of(storage, verb.stage.config))}


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
