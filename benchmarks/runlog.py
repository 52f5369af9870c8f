"""Measures whether the driver's cost grows with the number of segments: its memory, its time per segment, and its run log.

    python -m benchmarks.runlog [--segments 100000] [--per-job 10] [--windows 3] [--workers 8] [--commit]

The driver is that of the product: `run_catalogue` with the flow, content keys, the ledger, retries, the run status and the run log, on a local
folder. Only the workers are replaced: they return records at once, so all the time is the driver's. With `--commit` they also commit their records,
which real workers do in their own processes, and the same run is made a second time to measure the cost of finding all results.
"""

import argparse
import asyncio
import contextlib
import gc
import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
from rich.console import Console
from rich.table import Table

from infinitedub.launch.compose import checked, compose
from infinitedub.launch.status import main as status
from infinitedub.pipeline.catalogue.rows import Catalogue
from infinitedub.pipeline.pools.calls import OnProgress, StageCall, Worked, Yielded
from infinitedub.pipeline.pools.circuit_breaker import CircuitBreaker
from infinitedub.pipeline.pools.pool import Pool
from infinitedub.pipeline.pools.retry import RetryPolicy
from infinitedub.pipeline.run import driver
from infinitedub.pipeline.run.batch import Outcome, run_catalogue
from infinitedub.pipeline.state import event_pages
from infinitedub.pipeline.state.ledger import Ledger
from infinitedub.pipeline.state.run_status import job_statuses
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.contract import Stage
from infinitedub.stages.records import (
    Artifact,
    Chunk,
    Clip,
    Conditions,
    Film,
    Job,
    Material,
    Prompt,
    Receipt,
    Segment,
    Source,
    Span,
    Speaker,
    Speech,
    Turns,
    Voice,
    Window,
)

MIB = 2**20
SEGMENT_FRAMES = 72
WARMUP_SAMPLES = 2  # first samples, which show the initial size and not the growth


@dataclass
class DriverSamples:
    """Samples of the driver's time and resident size, one for every `every` segments."""

    every: int
    segments: int = 0
    samples: list[tuple[int, float, int]] = field(default_factory=list)  # segments, seconds, resident bytes

    def count_segment(self) -> None:
        if self.segments % self.every == 0:
            self.samples.append((self.segments, time.monotonic(), psutil.Process().memory_info().rss))
        self.segments += 1

    def growth(self) -> float:
        """Bytes per `every` segments, by least squares over the samples after the first WARMUP_SAMPLES."""
        samples = self.samples[WARMUP_SAMPLES:]
        xs, ys = [sample[0] for sample in samples], [sample[2] for sample in samples]
        x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
        slope = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / sum((x - x_mean) ** 2 for x in xs)
        return slope * self.every


class FakeStages:
    """Returns records of the types that the stages return; all of them refer to one small file."""

    def __init__(self, folder: Path, per_job: int, windows: int) -> None:
        self.folder, self.per_job, self.windows = folder, per_job, windows
        (folder / "anything").write_bytes(b"bytes of anything")
        self.file = Artifact(str(folder / "anything"), "0" * 64, 17, "any")

    def jobs(self, count: int) -> Iterator[Job]:
        for number in range(count):
            picture = self.folder / f"{number}.png"
            picture.write_bytes(b"a face")
            yield Job(f"job-{number:06d}", Material(str(picture), (Speaker(str(picture), None),), Turns.TOGETHER), None, Prompt("a person", ""), 7)

    def make_record(self, call: StageCall, on_progress: OnProgress) -> Any:
        make: Callable[..., Any] = getattr(self, f"_{call.stage}")
        return make(call, on_progress)

    def _ingest(self, call: StageCall, on_progress: OnProgress) -> Source:
        own = Artifact(self.file.uri, call.key, 17, "picture/png")
        return Source(own, False, 64, 64, 25.0, 1, (Voice(self.file, 16000, 16000, 0, None),))

    def _segment(self, call: StageCall, on_progress: OnProgress) -> tuple[Segment, ...]:
        step = SEGMENT_FRAMES // self.windows
        windows = tuple(Window(Span(step * number, step * (number + 1)), 0, 0, 0) for number in range(self.windows))
        return tuple(Segment(index, Span(SEGMENT_FRAMES * index, SEGMENT_FRAMES * (index + 1)), windows) for index in range(self.per_job))

    def _listen(self, call: StageCall, on_progress: OnProgress) -> Speech:
        return Speech(self.file, SEGMENT_FRAMES * self.per_job, (-23.0,))

    def _condition(self, call: StageCall, on_progress: OnProgress) -> Conditions:
        return Conditions(self.file, 64, 64)

    def _generate(self, call: StageCall, on_progress: OnProgress) -> Clip:
        segment: Segment = call.records[0]
        chunks = tuple(Chunk(number, self.file, window.span.frames) for number, window in enumerate(segment.windows))
        for chunk in chunks:
            on_progress(Yielded(chunk, 0.0))
        return Clip(segment.index, segment.span, chunks)

    def _assemble(self, call: StageCall, on_progress: OnProgress) -> Film:
        return Film(Artifact(self.file.uri, call.key, 17, "film/mp4"), SEGMENT_FRAMES * self.per_job, 25.0, 0.0)

    def _publish(self, call: StageCall, on_progress: OnProgress) -> Receipt:
        return Receipt(self.file.uri, self.file.sha256, self.file.bytes, self.file.uri)


class ReadyGroup:
    """A worker group that returns a record at once."""

    ready = True

    def __init__(self, stages: FakeStages, ledger: Ledger | None, samples: DriverSamples) -> None:
        self._stages, self._ledger, self._samples = stages, ledger, samples

    async def serve(self, call: StageCall, on_progress: OnProgress, low_memory: bool) -> Any:
        if call.stage == "generate":
            self._samples.count_segment()
        record = self._stages.make_record(call, on_progress)
        await asyncio.sleep(0)
        if self._ledger is not None:
            record = await asyncio.to_thread(self._ledger.commit, call.stage, call.key, "benchmark", record)
        on_progress(Worked(0.0))
        return record

    async def close(self) -> None: ...


def simulate(root: Path, jobs: tuple[Job, ...], fake_stages: FakeStages, options: argparse.Namespace) -> tuple[DriverSamples, float, Outcome]:
    """Makes one run; returns its samples, the CPU seconds of this process, and its outcome."""
    overrides = ["catalogue=none", f"storage.root={root / 'out'}", f"storage.cache={root / 'node'}", f"pools.jobs_in_flight={2 * options.workers}"]
    config = checked(compose(overrides))
    storage = Storage(config.storage)
    samples = DriverSamples(options.every)
    ledger = Ledger(storage) if options.commit else None

    def open_ready_pools(
        stages: Mapping[str, Stage], degree: int, pools: object, storage: object, breaker: CircuitBreaker, *_: Any
    ) -> dict[str, Pool]:
        retry = RetryPolicy(config.pools.retry, breaker)
        return {name: Pool([ReadyGroup(fake_stages, ledger, samples) for _ in range(options.workers)], retry, 0) for name in stages}

    begun = time.process_time()
    with patch.object(driver, "open_pools", open_ready_pools), open(os.devnull, "w") as devnull, contextlib.redirect_stderr(devnull):
        outcome = asyncio.run(run_catalogue(config, Catalogue(jobs, ()), storage, lambda: None, overrides=overrides, parent=None))
    return samples, time.process_time() - begun, outcome


def print_log(root: Path, outcome: Outcome, console: Console) -> None:
    """Prints the size of the run log and the seconds of merging its pages and of reading the run's status."""
    storage = Storage(checked(compose(["catalogue=none", f"storage.root={root / 'out'}"])).storage)
    folder = f"runs/{outcome.run}/events"
    names = storage.list(folder)
    size = sum((root / "out" / folder / name).stat().st_size for name in names)
    events = event_pages.read_pages(storage, folder, ["job"]).num_rows
    console.print(f"log: {events} events in {len(names)} pages, {size / MIB:.1f} MiB, {size / events:.1f} bytes an event")
    pages, _ = event_pages.select_pages(names)
    begun = time.monotonic()
    _, merged_bytes = event_pages.merge_pages(storage, folder, pages)
    console.print(f"merging all pages once more: {time.monotonic() - begun:.2f} s for {merged_bytes / MIB:.1f} MiB")
    begun = time.monotonic()
    statuses = job_statuses(storage, outcome.run, [])
    console.print(f"reading the status of {len(statuses)} jobs: {time.monotonic() - begun:.2f} s")
    begun = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        status(["--run", outcome.run, f"storage.root={root / 'out'}"])
    console.print(f"dub status: {time.monotonic() - begun:.2f} s, without starting Python")


def print_run(samples: DriverSamples, cpu: float, outcome: Outcome, jobs: int, segments: int, console: Console) -> None:
    """Prints the memory and the time of a run."""
    if len(samples.samples) > WARMUP_SAMPLES + 1:
        table = Table("segments", "resident, MiB", "ms per segment since the last line")
        for before, now in zip([None, *samples.samples], samples.samples, strict=False):
            table.add_row(str(now[0]), f"{now[2] / MIB:.1f}", "" if before is None else f"{(now[1] - before[1]) * 1000 / (now[0] - before[0]):.2f}")
        console.print(table)
        growth, every = samples.growth() / MIB, samples.every
        console.print(f"memory grows by {growth:+.2f} MiB every {every} segments after the first {WARMUP_SAMPLES * every}")
    console.print(
        f"{jobs} jobs, {segments} segments, {outcome.worked} stage calls made, {len(outcome.failed)} failed, in {outcome.seconds:.0f} s: ", end=""
    )
    console.print(f"{outcome.seconds * 1000 / segments:.2f} ms per segment, {cpu * 1000 / segments:.2f} ms of them CPU time")


def main() -> None:
    """Simulates the run and prints its memory and time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--per-job", type=int, default=10, help="segments of a film")
    parser.add_argument("--windows", type=int, default=3, help="windows of a segment")
    parser.add_argument("--workers", type=int, default=8, help="workers per stage; twice as many jobs are in flight")
    parser.add_argument("--every", type=int, default=10_000, help="segments between two samples of the memory")
    parser.add_argument("--commit", action="store_true", help="commit every result, and run a second time over the committed results")
    parser.add_argument("--folder", type=Path, help="parent of the folder for results; the system's temporary folder by default")
    options = parser.parse_args()
    console = Console(highlight=False)
    count = options.segments // options.per_job
    root = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        fake_stages = FakeStages(root, options.per_job, options.windows)
        jobs = tuple(fake_stages.jobs(count))
        gc.collect()
        for title in ("first run", "second run") if options.commit else ("run",):
            console.rule(title)
            samples, cpu, outcome = simulate(root, jobs, fake_stages, options)
            print_run(samples, cpu, outcome, count, options.segments, console)
        print_log(root, outcome, console)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
