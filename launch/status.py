"""`dub status`: the state of a run, read from its log by `pipeline/state/run_status.py`. The run may be on another machine, or over."""

import argparse
import sys
from collections import Counter
from typing import Any

from rich.table import Table

from infinitedub.launch.failures import letter_lines
from infinitedub.launch.run_history import find_run
from infinitedub.pipeline.run.progress import literal_console
from infinitedub.pipeline.state.forced_rerun import ForcedRerun
from infinitedub.pipeline.state.run_log import read_dead_letters, read_run, read_summary
from infinitedub.pipeline.state.run_status import JobStatus, job_statuses

ROWS = 200
URGENT = ("failed", "waiting for room", "running", "waiting", "done")


def main(argv: list[str]) -> int:
    """Prints the table of a run."""
    parser = argparse.ArgumentParser(prog="dub status", description=__doc__)
    parser.add_argument("--run", help="which run (default: the latest)")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"jobs to show at most, failed and running ones first (default: {ROWS})")
    parser.add_argument("overrides", nargs="*", help="key=value, such as storage.root=URI")
    args = parser.parse_intermixed_args(argv)
    shown = max(args.rows, 0)
    storage, run = find_run(args.run, args.overrides)
    record, summary = read_run(storage, run), read_summary(storage, run)
    console = literal_console(width=None if sys.stdout.isatty() else 160)  # in a pipe nothing is cut off
    console.print(_table(run, record, summary, job_statuses(storage, run, record["jobs"]), shown))
    dead = read_dead_letters(storage, run)
    for letter in dead[:shown]:
        for line in letter_lines(letter, 0):
            console.print(line, soft_wrap=True)
    if len(dead) > shown:
        console.print(f"and {len(dead) - shown} dead letters more (--rows)")
    return 0


def _table(run: str, record: dict[str, Any], summary: dict[str, Any] | None, states: dict[str, JobStatus], rows: int) -> Table:
    if summary is None:
        ending = "no summary yet: still running, or its driver died (the same command continues it)"
    else:
        end = f"stopped ({summary['why']})" if summary["stopped"] else "ended"
        ending = f"{end} after {summary['seconds']:.0f} s"
    counts = Counter(state.state for state in states.values())
    counted = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    origin = f"\na rerun of {record['parent']}" if record.get("parent") else ""
    origin += f"\n{ForcedRerun.from_json(record['forced_rerun'])}" if record.get("forced_rerun") else ""
    hidden = f"\n{rows} of {len(states)} jobs (--rows)" if len(states) > rows else ""
    table = Table(title=f"run {run}: {counted}\n{record['catalogue']}; {ending}{origin}{hidden}", title_justify="left", box=None, padding=(0, 2))
    for name in ("job", "state", "stage", "segments", "windows", "made", "reused", "seconds"):
        table.add_column(name, justify="left" if name in ("job", "state", "stage") else "right")
    for job, state in _shown(states, rows):
        stage = "" if state.state == "done" else state.stage
        table.add_row(job, state.state, stage, str(state.segments), str(state.windows), str(state.made), str(state.reused), f"{state.seconds:.1f}")
    return table


def _shown(states: dict[str, JobStatus], rows: int) -> list[tuple[str, JobStatus]]:
    """All of them in the catalogue's order, or those that are worth a look."""
    if len(states) <= rows:
        return list(states.items())
    return sorted(states.items(), key=lambda item: URGENT.index(item[1].state))[:rows]
