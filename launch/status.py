"""`dub status`: how a run stands, read from its log; the run itself may be anywhere, or over."""

import argparse
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from launch.past import find_run
from pipeline.events import read_dead, read_events, read_run, read_summary


@dataclass
class JobState:
    """What the log says of one job."""

    state: str = "waiting"
    where: str = ""
    windows: int = 0
    worked: int = 0
    reused: int = 0
    seconds: float = 0.0
    detail: str = ""
    segments: set[int] = field(default_factory=set)

    def see(self, event: dict[str, Any]) -> None:
        """Takes one event in."""
        what = event["what"]
        if self.state == "waiting":
            self.state = "running"
        if event["segment"] is not None:
            self.segments.add(event["segment"])
        if what == "window":
            self.windows += 1
        elif what == "finished":
            self.worked += 1
            self.seconds += event["seconds"] or 0.0
        elif what == "reused":
            self.reused += 1
        elif what in ("job_done", "job_failed"):
            self.state = what.removeprefix("job_")
            self.detail = event["detail"]
        if event["stage"]:
            self.where = event["stage"]


def main(argv: list[str]) -> int:
    """Prints the table of a run."""
    parser = argparse.ArgumentParser(prog="dub status", description=__doc__)
    parser.add_argument("--run", help="which run (default: the latest)")
    parser.add_argument("overrides", nargs="*", help="key=value, such as storage.root=URI")
    asked = parser.parse_intermixed_args(argv)
    storage, run = find_run(asked.run, asked.overrides)
    record, summary = read_run(storage, run), read_summary(storage, run)
    states: dict[str, JobState] = defaultdict(JobState)
    for job in record["jobs"]:
        _ = states[job]
    for event in read_events(storage, run):
        states[event["job"]].see(event)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)  # in a pipe nothing is cut off
    console.print(_table(run, record, summary, states))
    for letter in read_dead(storage, run):
        where = letter.stage if letter.segment is None else f"{letter.stage} of segment {letter.segment}"
        console.print(f"{letter.job}: {where} failed ({letter.kind}, {letter.attempts} attempts): {letter.reason}", markup=False, soft_wrap=True)
        console.print(f"  again: {letter.repro}", markup=False, soft_wrap=True)
    return 0


def _table(run: str, record: dict[str, Any], summary: dict[str, Any] | None, states: dict[str, JobState]) -> Table:
    if summary is None:
        ending = "no summary yet: still running, or its driver died (the same command goes on from there)"
    else:
        ending = f"{'stopped' if summary['stopped'] else 'ended'} after {summary['seconds']:.0f} s"
    counts = Counter(state.state for state in states.values())
    told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    table = Table(title=f"run {run}: {told}\n{record['catalogue']}; {ending}", title_justify="left", box=None, padding=(0, 2))
    for name in ("job", "state", "stage", "segments", "windows", "made", "reused", "seconds"):
        table.add_column(name, justify="left" if name in ("job", "state", "stage") else "right")
    for job, state in states.items():
        stage = "" if state.state == "done" else state.where
        table.add_row(
            job, state.state, stage, str(len(state.segments)), str(state.windows), str(state.worked), str(state.reused), f"{state.seconds:.1f}"
        )
    return table
