"""Progress of a run for a person: a live table on a terminal, plain lines elsewhere."""

import sys
from collections import Counter
from collections.abc import Iterable
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from infinitedub.pipeline.state.run_log import Event

QUIET = ("started", "workers_started", "reused")
"""Events that are not printed where there is no terminal."""


def event_line(event: Event) -> str:
    """One event as a line of facts with ids, such as `job=a segment=3 generate window 2/5 12.4 s`."""
    window = event.what == "window"
    words = [f"job={event.job}"]
    if event.segment is not None:
        words.append(f"segment={event.segment}")
    words += [event.stage] if event.stage else []
    words.append(f"window {event.detail}" if window else event.what)
    if event.seconds is not None:
        words.append(f"{event.seconds:.1f} s")
    text = " ".join(words)
    return f"{text}: {event.detail}" if event.detail and not window else text


def literal_console(*, file: TextIO | None = None, width: int | None = None) -> Console:
    """A console that prints names, reasons and paths as they are: [b] and :a: in them are no markup."""
    return Console(file=file, width=width, highlight=False, markup=False, emoji=False)


class ProgressBoard:
    """Counts events and shows the counts. Use as a context manager; call it with every event."""

    def __init__(self, stages: Iterable[str], n_jobs: int, out: TextIO | None = None) -> None:
        """`stages`: in the order of the table. `out`: instead of standard error."""
        self.out = out or sys.stderr
        self.console = literal_console(file=self.out)
        self.n_jobs = n_jobs
        self.counts: dict[str, Counter[str]] = {stage: Counter() for stage in stages}
        self.jobs: Counter[str] = Counter()
        self.current: dict[tuple[str, int | None], str] = {}
        self.live = Live(console=self.console, get_renderable=self._table, refresh_per_second=4) if self.console.is_terminal else None

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, event: Event) -> None:
        self._count(event)
        if self.live is None:
            if event.what not in QUIET:
                self.out.write(f"{event_line(event)}\n")  # rich would take a third of the driver's time
                self.out.flush()
        elif event.what in ("failed", "job_failed", "retry"):
            self.console.print(event_line(event), soft_wrap=True)

    def _count(self, event: Event) -> None:
        if event.what in ("job_done", "job_failed"):
            self.jobs[event.what] += 1
        counts = self.counts.get(event.stage)
        if counts is None:
            return
        counts[event.what] += 1
        key = (event.job, event.segment)
        if event.what == "window":
            self.current[key] = f"{event.job} segment {event.segment}: window {event.detail}"
        elif event.what in ("finished", "failed") and event.stage == "generate":
            self.current.pop(key, None)

    def _table(self) -> Table:
        done, failed = self.jobs["job_done"], self.jobs["job_failed"]
        table = Table(title=f"{done} of {self.n_jobs} films, {failed} failed", title_justify="left", box=None, padding=(0, 2))
        for name in ("stage", "running", "done", "reused", "failed"):
            table.add_column(name, justify="left" if name == "stage" else "right")
        for stage, counts in self.counts.items():
            running = counts["started"] - counts["finished"] - counts["failed"]
            table.add_row(stage, str(running), str(counts["finished"]), str(counts["reused"]), str(counts["failed"]))
        for text in self.current.values():
            table.add_row(text)
        return table
