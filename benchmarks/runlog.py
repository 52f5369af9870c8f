"""Whether a run of many segments costs the driver more than one of few: its memory, its time per segment, and its log.

    python -m benchmarks.runlog [--segments 100000] [--per-job 10] [--windows 3] [--workers 8] [--commit]

The driver is the product's own: `run_jobs` with the flow, the crew, content keys, the ledger, slots, budgets, the board and the run log, on a local
folder. Only who works is not: pools whose workers answer at once, so that all the time that passes is the driver's. With `--commit` they commit what
they answer, which a worker does in its own process, and the same run is made a second time to see what finding everything costs.
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
WARM = 2  # marks at the beginning that say how large things are, not how they grow


@dataclass
class Meter:
    """The driver's size and time, looked at every so many segments."""

    every: int
    seen: int = 0
    marks: list[tuple[int, float, int]] = field(default_factory=list)  # segments, seconds, resident bytes

    def count(self) -> None:
        if self.seen % self.every == 0:
            self.marks.append((self.seen, time.monotonic(), psutil.Process().memory_info().rss))
        self.seen += 1

    def growth(self) -> float:
        """Bytes per `every` segments, by least squares behind the first marks."""
        xs, ys = [mark[0] for mark in self.marks[WARM:]], [mark[2] for mark in self.marks[WARM:]]
        middle, mean = sum(xs) / len(xs), sum(ys) / len(ys)
        slope = sum((x - middle) * (y - mean) for x, y in zip(xs, ys, strict=True)) / sum((x - middle) ** 2 for x in xs)
        return slope * self.every


class FakeStages:
    """Records as the stages would make them, all of them about one small file."""

    def __init__(self, folder: Path, per_job: int, windows: int) -> None:
        self.folder, self.per_job, self.windows = folder, per_job, windows
        (folder / "anything").write_bytes(b"bytes of anything")
        self.file = Artifact(str(folder / "anything"), "0" * 64, 17, "any")

    def jobs(self, count: int) -> Iterator[Job]:
        for number in range(count):
            picture = self.folder / f"{number}.png"
            picture.write_bytes(b"a face")
            yield Job(f"job-{number:06d}", Material(str(picture), (Speaker(str(picture), None),), Turns.TOGETHER), None, Prompt("a person", ""), 7)

    def answer(self, order: StageCall, on_progress: OnProgress) -> Any:
        make: Callable[..., Any] = getattr(self, f"_{order.stage}")
        return make(order, on_progress)

    def _ingest(self, order: StageCall, on_progress: OnProgress) -> Source:
        own = Artifact(self.file.uri, order.key, 17, "picture/png")
        return Source(own, False, 64, 64, 25.0, 1, (Voice(self.file, 16000, 16000, 0, None),))

    def _segment(self, order: StageCall, on_progress: OnProgress) -> tuple[Segment, ...]:
        step = SEGMENT_FRAMES // self.windows
        windows = tuple(Window(Span(step * number, step * (number + 1)), 0, 0, 0) for number in range(self.windows))
        return tuple(Segment(index, Span(SEGMENT_FRAMES * index, SEGMENT_FRAMES * (index + 1)), windows) for index in range(self.per_job))

    def _listen(self, order: StageCall, on_progress: OnProgress) -> Speech:
        return Speech(self.file, SEGMENT_FRAMES * self.per_job, (-23.0,))

    def _condition(self, order: StageCall, on_progress: OnProgress) -> Conditions:
        return Conditions(self.file, 64, 64)

    def _generate(self, order: StageCall, on_progress: OnProgress) -> Clip:
        segment: Segment = order.records[0]
        chunks = tuple(Chunk(number, self.file, window.span.frames) for number, window in enumerate(segment.windows))
        for chunk in chunks:
            on_progress(Yielded(chunk, 0.0))
        return Clip(segment.index, segment.span, chunks)

    def _assemble(self, order: StageCall, on_progress: OnProgress) -> Film:
        return Film(Artifact(self.file.uri, order.key, 17, "film/mp4"), SEGMENT_FRAMES * self.per_job, 25.0, 0.0)

    def _publish(self, order: StageCall, on_progress: OnProgress) -> Receipt:
        return Receipt(self.file.uri, self.file.sha256, self.file.bytes, self.file.uri)


class ReadyGroup:
    """A worker group that answers at once."""

    ready = True

    def __init__(self, stages_answers: FakeStages, ledger: Ledger | None, meter: Meter) -> None:
        self._studio, self._ledger, self._meter = stages_answers, ledger, meter

    async def serve(self, call: StageCall, on_progress: OnProgress, low_memory: bool) -> Any:
        if call.stage == "generate":
            self._meter.count()
        record = self._studio.answer(call, on_progress)
        await asyncio.sleep(0)
        if self._ledger is not None:
            record = await asyncio.to_thread(self._ledger.commit, call.stage, call.key, "benchmark", record)
        on_progress(Worked(0.0))
        return record

    async def close(self) -> None: ...


def simulate(root: Path, jobs: tuple[Job, ...], stages_answers: FakeStages, options: argparse.Namespace) -> tuple[Meter, float, Outcome]:
    """One run; what it took of memory and, in seconds, of this process's CPU time."""
    words = ["catalogue=none", f"storage.root={root / 'out'}", f"storage.cache={root / 'node'}", f"pools.jobs_in_flight={2 * options.workers}"]
    config = checked(compose(words))
    storage = Storage(config.storage)
    meter = Meter(options.every)
    ledger = Ledger(storage) if options.commit else None

    def ready(stages: Mapping[str, Stage], degree: int, pools: object, storage: object, breaker: CircuitBreaker, *_: Any) -> dict[str, Pool]:
        retry = RetryPolicy(config.pools.retry, breaker)
        return {name: Pool([ReadyGroup(stages_answers, ledger, meter) for _ in range(options.workers)], retry, 0) for name in stages}

    spent = time.process_time()
    with patch.object(driver, "open_pools", ready), open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        outcome = asyncio.run(run_catalogue(config, Catalogue(jobs, ()), storage, lambda: None, overrides=words, parent=None))
    return meter, time.process_time() - spent, outcome


def tell_log(root: Path, outcome: Outcome, console: Console) -> None:
    """Prints what the log takes: its size, what binding its pages costs, and what asking for the state of the run does."""
    storage = Storage(checked(compose(["catalogue=none", f"storage.root={root / 'out'}"])).storage)
    folder = f"runs/{outcome.run}/events"
    names = storage.list(folder)
    size = sum((root / "out" / folder / name).stat().st_size for name in names)
    events = event_pages.read_pages(storage, folder, ["job"]).num_rows
    console.print(f"log: {events} events in {len(names)} pages, {size / MIB:.1f} MiB, {size / events:.1f} bytes an event")
    found, _ = event_pages.select_pages(names)
    begun = time.monotonic()
    _, bound = event_pages.merge_pages(storage, folder, found)
    console.print(f"binding all of them once more: {time.monotonic() - begun:.2f} s for {bound / MIB:.1f} MiB")
    begun = time.monotonic()
    told = job_statuses(storage, outcome.run, [])
    console.print(f"counting how {len(told)} jobs stand: {time.monotonic() - begun:.2f} s")
    begun = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        status(["--run", outcome.run, f"storage.root={root / 'out'}"])
    console.print(f"dub status: {time.monotonic() - begun:.2f} s, without starting Python")


def tell_run(meter: Meter, cpu: float, outcome: Outcome, jobs: int, segments: int, console: Console) -> None:
    """Prints memory and time of a run."""
    if len(meter.marks) > WARM + 1:
        table = Table("segments", "resident, MiB", "ms per segment since the last line")
        for before, mark in zip([None, *meter.marks], meter.marks, strict=False):
            table.add_row(
                str(mark[0]), f"{mark[2] / MIB:.1f}", "" if before is None else f"{(mark[1] - before[1]) * 1000 / (mark[0] - before[0]):.2f}"
            )
        console.print(table)
        console.print(f"memory grows by {meter.growth() / MIB:+.2f} MiB every {meter.every} segments behind the first {WARM * meter.every}")
    console.print(
        f"{jobs} jobs, {segments} segments, {outcome.worked} stage calls made, {len(outcome.failed)} failed, in {outcome.seconds:.0f} s: ", end=""
    )
    console.print(f"{outcome.seconds * 1000 / segments:.2f} ms per segment, {cpu * 1000 / segments:.2f} ms of them CPU time")


def main() -> None:
    """Simulates the run and prints what it cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--per-job", type=int, default=10, help="segments of a film")
    parser.add_argument("--windows", type=int, default=3, help="windows of a segment")
    parser.add_argument("--workers", type=int, default=8, help="workers per stage; twice as many jobs are in flight")
    parser.add_argument("--every", type=int, default=10_000, help="segments between two looks at the memory")
    parser.add_argument("--commit", action="store_true", help="commit every result, and run once more over them")
    parser.add_argument("--folder", type=Path, help="where to write; by default a temporary folder")
    options = parser.parse_args()
    console = Console(highlight=False)
    count = options.segments // options.per_job
    root = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        stages_answers = FakeStages(root, options.per_job, options.windows)
        jobs = tuple(stages_answers.jobs(count))
        gc.collect()
        for title in ("first run", "the same again") if options.commit else ("run",):
            console.rule(title)
            meter, cpu, outcome = simulate(root, jobs, stages_answers, options)
            tell_run(meter, cpu, outcome, count, options.segments, console)
        tell_log(root, outcome, console)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
