"""`dub replay JOB[/SEGMENT]`: one segment of a run again, in this process, for a debugger.

What the segment is made from is taken from the run, and made only where it is missing there. The frames are made again, in this process, and lie
under a folder of their own: the run is not changed, and no film is delivered. breakpoint() holds in any stage. A failure opens the debugger
where it happened, with --pdb or if the command is typed at a terminal.
"""

import argparse
import asyncio
import pdb
import re
import signal
import sys
import traceback
from bdb import BdbQuit
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from infinitedub.launch.compose import checked, compose
from infinitedub.launch.dispatch import ALL_DONE, SOME_FAILED, STOPPED, chosen
from infinitedub.launch.run_history import find_run, overrides_of
from infinitedub.pipeline.config import RunConfig
from infinitedub.pipeline.flow import dub_segment, prepare_job
from infinitedub.pipeline.pools.calls import StageCall
from infinitedub.pipeline.pools.circuit_breaker import CircuitBreaker
from infinitedub.pipeline.pools.failures import Failure
from infinitedub.pipeline.pools.inline_group import InlineGroup
from infinitedub.pipeline.pools.pool import Pool
from infinitedub.pipeline.pools.retry import RetryPolicy
from infinitedub.pipeline.pools.settings import InlineSettings, RetrySettings
from infinitedub.pipeline.pools.worker import Worker
from infinitedub.pipeline.run.driver import Driver
from infinitedub.pipeline.run.job_stages import JobStages, StageFailed
from infinitedub.pipeline.run.stage_registry import StageSpec
from infinitedub.pipeline.run.stop import StopSignal
from infinitedub.pipeline.state.ledger import Ledger
from infinitedub.pipeline.state.run_log import Event, read_dead_letters, read_run
from infinitedub.pipeline.state.stage_files import StageFiles
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.contract import Rank
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.records import Chunk, Clip, Job, Segment, WindowCheckpoint


def main(argv: list[str]) -> int:
    """0 if the segment was made, 2 if it failed, 3 if the debugger or Ctrl-C ended it."""
    parser = argparse.ArgumentParser(prog="dub replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", metavar="JOB[/SEGMENT]", help="without a segment: the one that failed, or the only one")
    parser.add_argument("--run", help="which run (default: the latest)")
    parser.add_argument("--windows", metavar="K:", help="begin at window K, behind the windows that the run has kept")
    parser.add_argument("--to", type=Path, help="folder for the frames (default: a new one under outputs/replay)")
    parser.add_argument("--pdb", action="store_true", help="open the debugger at a failure even where standard input is no terminal")
    parser.add_argument("overrides", nargs="*", help="key=value, on top of the overrides of that run")
    args = parser.parse_intermixed_args(argv)
    name, number = parse_target(args.what)
    if args.windows is not None and not re.fullmatch(r"\d{1,6}:", args.windows):
        raise ConfigError(f"--windows {args.windows}: wanted K: such as 3:")
    shared, run = find_run(args.run, args.overrides)
    record = read_run(shared, run)
    config = inline_config(checked(compose(overrides_of(record, args.overrides))))
    shared = Storage(config.storage)
    rows = chosen(config.read_rows(shared.open_input), frozenset([name]))
    if not rows.jobs:
        raise ConfigError(f"{config.catalogue}: {rows.bad[0]}")
    if number is None:
        number = next((letter.segment for letter in read_dead_letters(shared, run) if letter.job == name), None)
    folder = args.to or Path("outputs", "replay") / f"{name}.{datetime.now(UTC):%Y%m%d-%H%M%S}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--to {folder} is {'not empty' if folder.is_dir() else 'no folder'}; a replay begins in a folder of its own")
    own = Storage(config.storage.model_copy(update={"root": str(folder.absolute())}))
    replay = Replay(config, shared, own, int(args.windows[:-1]) if args.windows else 0, debug=args.pdb or sys.stdin.isatty())
    try:
        clip = asyncio.run(replay.make(rows.jobs[0], number))
    except StageFailed as failure:
        if replay.quit:
            return STOPPED
        if isinstance(failure.error, ConfigError):
            raise failure.error from None
        stage = failure.stage if failure.segment is None else f"{failure.stage} of segment {failure.segment}"
        print(f"{name}: {stage} failed: {failure}", file=sys.stderr)
        return SOME_FAILED
    except KeyboardInterrupt:
        return STOPPED
    print(f"{name}: segment {clip.segment}, {clip.span.frames} frames in {len(clip.chunks)} windows under {folder}")
    return ALL_DONE


def parse_target(what: str) -> tuple[str, int | None]:
    """Job and segment of `JOB[/SEGMENT]`. Raises ConfigError."""
    match = re.fullmatch(r"([^/]+)(?:/(\d{1,6}))?", what)
    if match is None:
        raise ConfigError(f"{what!r}: wanted JOB or JOB/SEGMENT, such as a/3")
    return match[1], None if match[2] is None else int(match[2])


def inline_config(config: RunConfig) -> RunConfig:
    """The configuration for one process, without retries. Where a gang made the windows, the last bits of one process's frames differ."""
    parallel, pools = config.generate.parallel, config.pools
    if parallel.degree > 1:
        print(f"one process instead of {parallel.degree}: frames can differ in the last bits", file=sys.stderr)
    single = config.generate.model_copy(update={"parallel": parallel.model_copy(update={"degree": 1})})
    # As many threads as in the run: another number adds up in another order, which changes the last bits.
    threads = pools.threads if isinstance(pools, InlineSettings) else pools.generate.threads
    once = pools.retry.model_copy(update={name: 1 for name in RetrySettings.model_fields if not name.startswith("backoff")})
    inline = InlineSettings(kind="inline", jobs_in_flight=1, threads=threads, same_error_limit=pools.same_error_limit, retry=once)
    return config.model_copy(update={"generate": single, "pools": inline})


class OverlayLedger(Ledger):
    """The results of a run, except frames, and over them those of a replay, which are written beside the run."""

    def __init__(self, own: Storage, shared: Storage) -> None:
        super().__init__(own)
        self._shared = Ledger(shared)

    def find(self, stage: str, key: str, type_: Any, part: int | None = None) -> Any | None:
        """The replay's own record, otherwise the run's."""
        found = super().find(stage, key, type_, part)
        return self._shared.find(stage, key, type_, part) if found is None and stage != "generate" else found


class Replay:
    """A driver for one segment: every stage in this process, results in a folder of their own."""

    def __init__(self, config: RunConfig, shared: Storage, own: Storage, first_window: int, *, debug: bool) -> None:
        self.config, self.shared, self.own, self.first_window, self.debug = config, shared, own, first_window, debug
        self.quit = False  # whether the user has left the debugger with `quit`

    async def make(self, job: Job, number: int | None) -> Clip:
        """The frames of a segment of the job. Raises StageFailed, or ConfigError if `number` is needed or wrong."""
        signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio's own would wait for the stage to end

        async def replay_segment(job: Job, stages: JobStages) -> Clip:
            source, segments, speech = await prepare_job(job, stages)
            segment = choose_segment(segments, job.id, number)
            if self.first_window >= len(segment.windows):
                raise ConfigError(f"--windows {self.first_window}: segment {segment.index} of {job.id} has windows 0 to {len(segment.windows) - 1}")
            return await dub_segment(job, segment, source, speech, stages)

        driver = Driver(
            self.config,
            self.shared,
            stop=StopSignal(),
            start_cluster=lambda: None,
            listeners=[print_call],
            ledger=OverlayLedger(self.own, self.shared),
            pools=self._pools,
        )
        async with driver:
            return await driver.make(job, replay_segment)

    def _pools(self, specs: Mapping[str, StageSpec], breaker: CircuitBreaker, weights: Mapping[str, str]) -> Mapping[str, Pool]:
        workers = {name: partial(ReplayWorker, self, spec, weights.get(name, "")) for name, spec in specs.items()}
        return dict.fromkeys(specs, Pool([InlineGroup(workers)], RetryPolicy(self.config.pools.retry, breaker), rest_seconds=0))


class ReplayWorker(Worker):
    """A worker that prints each window, compares it with the run's, and opens the debugger where a stage fails."""

    def __init__(self, replay: Replay, spec: StageSpec, weights: str) -> None:
        config = replay.config
        threads = config.pools.threads if isinstance(config.pools, InlineSettings) else None
        super().__init__(spec.stage, replay.own.settings, threads, weights)
        self._replay = replay

    def open(self, rank: Rank) -> Failure | None:
        """Opens the stage on the device of its settings."""
        return super().open(replace(rank, device=getattr(self._stage.config, "device", rank.device)))

    def _records(self, call: StageCall, files: StageFiles) -> Iterator[tuple[Any, float | None]]:
        if call.stage == "generate":
            self._copy_checkpoints(call, files)
        try:
            for record, seconds in super()._records(call, files):
                if isinstance(record, Chunk):
                    print(f"{call.label} window {record.window} {seconds:.1f} s {record.picture.uri}{self._comparison(call, record)}")
                yield record, seconds
        except BdbQuit:
            self._replay.quit = True
            raise
        except Exception as error:
            traceback.print_exception(error)
            if self._replay.debug:
                pdb.post_mortem(error.__traceback__)  # here, while the files of the call still exist
            raise

    def _copy_checkpoints(self, call: StageCall, files: StageFiles) -> None:
        """Takes over the run's windows before the first one to make."""
        first = self._replay.first_window
        for number in range(first):
            checkpoint = self._run_checkpoint(call, number)
            if checkpoint is None:
                raise ConfigError(f"--windows {first}: the run has kept no window {number} that was made with these settings")
            files.save_checkpoint(number, checkpoint)

    def _comparison(self, call: StageCall, chunk: Chunk) -> str:
        """Whether the run has made the same bytes; empty if it has not kept the window."""
        checkpoint = self._run_checkpoint(call, chunk.window)
        if checkpoint is None:
            return ""
        return " (as in the run)" if checkpoint.chunk.picture.sha256 == chunk.picture.sha256 else " (other bytes than in the run)"

    def _run_checkpoint(self, call: StageCall, window: int) -> WindowCheckpoint | None:
        found: WindowCheckpoint | None = Ledger(self._replay.shared).find(call.stage, call.key, WindowCheckpoint, part=window)
        return found


def print_call(event: Event) -> None:
    """One line per stage call that is made."""
    if event.what == "started":
        segment = "" if event.segment is None else f" segment={event.segment}"
        print(f"job={event.job}{segment} {event.stage}", file=sys.stderr)


def choose_segment(segments: tuple[Segment, ...], job: str, number: int | None) -> Segment:
    """The segment with that number, or the only one. Raises ConfigError."""
    if number is None and len(segments) > 1:
        raise ConfigError(f"{job} has segments 0 to {len(segments) - 1}; say which, such as {job}/0")
    if (number or 0) >= len(segments):
        raise ConfigError(f"{job} has no segment {number}; it has 0 to {len(segments) - 1}")
    return segments[number or 0]
