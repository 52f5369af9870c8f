"""`dub replay JOB[/SEGMENT]`: one segment of a run again, in this process, for a debugger.

What the segment is made from is taken from the run; it is made only where it is missing there. The frames are made anew, in this process, and lie
under a folder of their own: nothing of the run is changed, and no film is delivered. breakpoint() holds in any stage. A failure opens the debugger
where it happened, with --pdb or where the command is typed at a terminal.
"""

import argparse
import asyncio
import os
import pdb
import re
import signal
import sys
import traceback
from bdb import BdbQuit
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from infinitedub.launch.compose import checked, compose
from infinitedub.launch.dispatch import ALL_DONE, SOME_FAILED, STOPPED, chosen
from infinitedub.launch.run_history import find_run, overrides_of
from infinitedub.pipeline.catalogue.rows import read_catalogue
from infinitedub.pipeline.config import RunConfig
from infinitedub.pipeline.pools.pool import OnPart, Pool, StageCall
from infinitedub.pipeline.pools.settings import InlineSettings
from infinitedub.pipeline.pools.worker import with_local_weights
from infinitedub.pipeline.run.driver import weights_of
from infinitedub.pipeline.run.job_stages import JobStages, RunContext, StageFailed
from infinitedub.pipeline.run.stage_registry import stage_specs
from infinitedub.pipeline.state.ledger import Ledger
from infinitedub.pipeline.state.run_log import read_dead, read_run
from infinitedub.pipeline.state.stage_files import StageFiles
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.contract import Rank, Stage
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.records import Chunk, Clip, Job, Provenance, Seed, Segment, WindowCheckpoint


def main(argv: list[str]) -> int:
    """0 where the segment was made, 2 where it failed, 3 where the debugger or Ctrl-C ended it."""
    parser = argparse.ArgumentParser(prog="dub replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", metavar="JOB[/SEGMENT]", help="without a segment: the one that failed, or the only one")
    parser.add_argument("--run", help="which run (default: the latest)")
    parser.add_argument("--windows", metavar="K:", help="begin at window K, behind the windows that the run has kept")
    parser.add_argument("--to", type=Path, help="folder for the frames (default: a new one under outputs/replay)")
    parser.add_argument("--pdb", action="store_true", help="open the debugger at a failure even where standard input is no terminal")
    parser.add_argument("overrides", nargs="*", help="key=value, on top of the overrides of that run")
    asked = parser.parse_intermixed_args(argv)
    name, number = named(asked.what)
    if asked.windows is not None and not re.fullmatch(r"\d{1,6}:", asked.windows):
        raise ConfigError(f"--windows {asked.windows}: wanted K: such as 3:")
    shared, run = find_run(asked.run, asked.overrides)
    record = read_run(shared, run)
    config = alone(checked(compose(overrides_of(record, asked.overrides))))
    shared = Storage(config.storage)
    rows = chosen(read_catalogue(config.catalogue, shared.open_input, config.rows), frozenset([name]))
    if not rows.jobs:
        raise ConfigError(f"{config.catalogue}: {rows.bad[0]}")
    if number is None:
        number = next((letter.segment for letter in read_dead(shared, run) if letter.job == name), None)
    folder = asked.to or Path("outputs", "replay") / f"{name}.{datetime.now(UTC):%Y%m%d-%H%M%S}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--to {folder} is {'not empty' if folder.is_dir() else 'no folder'}; a replay begins in a folder of its own")
    own = Storage(config.storage.model_copy(update={"root": str(folder.absolute())}))
    bench = Bench(config, shared, own, int(asked.windows[:-1]) if asked.windows else 0, debug=asked.pdb or sys.stdin.isatty())
    try:
        clip = asyncio.run(bench.replay(rows.jobs[0], number))
    except StageFailed as failure:
        if isinstance(failure.error, BdbQuit):
            return STOPPED
        if isinstance(failure.error, ConfigError):
            raise failure.error from None
        where = failure.stage if failure.segment is None else f"{failure.stage} of segment {failure.segment}"
        print(f"{name}: {where} failed: {failure}", file=sys.stderr)
        return SOME_FAILED
    except KeyboardInterrupt:
        return STOPPED
    finally:
        asyncio.run(bench.close())
    print(f"{name}: segment {clip.segment}, {clip.span.frames} frames in {len(clip.chunks)} windows under {folder}")
    return ALL_DONE


def named(what: str) -> tuple[str, int | None]:
    """Job and segment of `JOB[/SEGMENT]`. Raises ConfigError."""
    match = re.fullmatch(r"([^/]+)(?:/(\d{1,6}))?", what)
    if match is None:
        raise ConfigError(f"{what!r}: wanted JOB or JOB/SEGMENT, such as a/3")
    return match[1], None if match[2] is None else int(match[2])


def alone(config: RunConfig) -> RunConfig:
    """The configuration for one process. Where a gang made the windows, the last bits of one process's frames are others."""
    parallel = config.generate.parallel
    if parallel.degree > 1:
        print(f"one process in place of {parallel.degree}: frames can differ in the last bits", file=sys.stderr)
    single = config.generate.model_copy(update={"parallel": parallel.model_copy(update={"degree": 1})})
    return config.model_copy(update={"generate": single})


class OverlayLedger(Ledger):
    """What a run has made, but for frames, and over it what a replay makes: written beside the run, not into it."""

    def __init__(self, own: Storage, shared: Storage) -> None:
        super().__init__(own)
        self._shared = Ledger(shared)

    def find(self, stage: str, key: str, type_: Any, part: int | None = None) -> Any | None:
        """The replay's own record, else the run's."""
        found = super().find(stage, key, type_, part)
        return self._shared.find(stage, key, type_, part) if found is None and stage != "generate" else found


class Bench:
    """All stages in this process and this thread; their errors are raised as they are, with the stack that a debugger wants to see."""

    def __init__(self, config: RunConfig, shared: Storage, own: Storage, first_window: int, *, debug: bool) -> None:
        self._shared, self._own, self._first_window, self._debug = shared, own, first_window, debug
        self._verbs = stage_specs(config)
        self._opened: dict[str, Stage] = {}
        # As many as in the run: another number adds up in another order, which changes the last bits.
        self._threads = config.pools.threads if isinstance(config.pools, InlineSettings) else config.pools.generate.threads
        os.environ["OMP_NUM_THREADS"] = str(self._threads)  # read when torch is first imported

    async def replay(self, job: Job, number: int | None) -> Clip:
        """The frames of a segment of the job. Raises StageFailed, or ConfigError where it is not told which segment."""
        signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio's own would wait for the stage to end
        pools: dict[str, Pool] = dict.fromkeys(self._verbs, self)
        nothing = Provenance("", {}, "", {}, {})
        digests = weights_of(self._verbs, self._shared)
        ledger = OverlayLedger(self._own, self._shared)
        works = RunContext(self._verbs, lambda: pools, ledger, self._shared, digests, lambda event: None, lambda seconds: nothing)
        crew = JobStages(works, job, place=0)
        source = await crew.ingest(job.material)
        segments = await crew.segment(source, job.length)
        speech = await crew.listen(source)
        segment = which(segments, job.id, number)
        if self._first_window >= len(segment.windows):
            raise ConfigError(f"--windows {self._first_window}: segment {segment.index} of {job.id} has windows 0 to {len(segment.windows) - 1}")
        conditions = await crew.condition(source, segment, job.prompt)
        return await crew.generate(segment, conditions, speech, Seed(job.seed, job.id))

    async def run(self, order: StageCall, on_part: OnPart) -> Any:
        """The record of a call, committed beside the run."""
        print(f"{order.label} {order.stage}", file=sys.stderr)
        with StageFiles(self._own, stage=order.stage, key=order.key) as files:
            if order.stage == "generate":
                self._take_over(order, files)
            try:
                record = self._made(order, files)
            except Exception as error:
                if not isinstance(error, BdbQuit):
                    traceback.print_exception(error)
                    if self._debug:
                        pdb.post_mortem(error.__traceback__)  # here, while the files of the call are still there
                raise
            return Ledger(self._own).commit(order.stage, order.key, files.attempt, record)

    def drain(self) -> None:
        """Nobody waits here."""

    async def close(self) -> None:
        """Lets the networks go."""
        for stage in self._opened.values():
            stage.close()

    def _made(self, order: StageCall, files: StageFiles) -> Any:
        record = self._stage(order.stage)(*order.records, files=files)
        if not isinstance(record, Iterator):
            return record
        parts, record, begun = record, None, monotonic()
        for record in parts:
            if isinstance(record, Chunk):
                print(f"{order.label} window {record.window} {monotonic() - begun:.1f} s {record.picture.uri}{self._likeness(order, record)}")
                begun = monotonic()
        return record

    def _stage(self, name: str) -> Stage:
        if name not in self._opened:
            stage = with_local_weights(self._verbs[name].stage, self._own)
            stage.open(Rank(device=getattr(stage.config, "device", "cpu")))
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(self._threads)
            self._opened[name] = stage
        return self._opened[name]

    def _take_over(self, order: StageCall, files: StageFiles) -> None:
        """Remembers what the run has kept of the windows before the first."""
        for number in range(self._first_window):
            take = Ledger(self._shared).find(order.stage, order.key, WindowCheckpoint, part=number)
            if take is None:
                raise ConfigError(f"--windows {self._first_window}: the run has kept no window {number} that was made with these settings")
            files.save_checkpoint(number, take)

    def _likeness(self, order: StageCall, chunk: Chunk) -> str:
        """Whether the run has made the same bytes."""
        take = Ledger(self._shared).find(order.stage, order.key, WindowCheckpoint, part=chunk.window)
        if take is None:
            return ""
        return " (as in the run)" if take.chunk.picture.sha256 == chunk.picture.sha256 else " (other bytes than in the run)"


def which(segments: tuple[Segment, ...], job: str, number: int | None) -> Segment:
    """The segment that is meant. Raises ConfigError."""
    if number is None and len(segments) > 1:
        raise ConfigError(f"{job} has segments 0 to {len(segments) - 1}; say which, such as {job}/0")
    if (number or 0) >= len(segments):
        raise ConfigError(f"{job} has no segment {number}; it has 0 to {len(segments) - 1}")
    return segments[number or 0]
