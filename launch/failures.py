"""`dub failures`: the dead letters of missing films: stage, failure class, attempts, the end of the log, and the command that tries the job alone."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from infinitedub.launch.run_history import find_history
from infinitedub.pipeline.run.progress import literal_console
from infinitedub.pipeline.state.run_log import DeadLetter, read_dead_letters

LINES = 8


def main(argv: list[str]) -> int:
    """Prints the dead letters of films that are still missing; 0 in any case."""
    parser = argparse.ArgumentParser(prog="dub failures", description=__doc__)
    parser.add_argument("--run", help="this run only (default: the latest, and the runs that it is a rerun of)")
    parser.add_argument("--lines", type=int, default=LINES, help=f"of each log, from its end (default: {LINES})")
    parser.add_argument("--json", action="store_true", help="all fields as a JSON list, for programs")
    parser.add_argument("overrides", nargs="*", help="key=value, such as storage.root=URI")
    args = parser.parse_intermixed_args(argv)
    storage, history = find_history(args.run, args.overrides)
    run_of = {job: history.asked[job] for job in history.missing}
    found = [(run, letter) for run in history.runs for letter in read_dead_letters(storage, run)]
    letters = [(run, letter) for run, letter in found if run_of.get(letter.job) == run or letter.job not in history.asked]  # or a row without an id
    unreached = len(history.missing) - sum(letter.job in history.missing for _, letter in letters)
    if args.json:
        print(json.dumps([{"run": run, **asdict(letter)} for run, letter in letters], indent=1, ensure_ascii=False))
        return 0
    console = literal_console()
    summary = f"run {history.run}: {len(letters)} failed" + (f", {unreached} more were not reached" if unreached else "")
    console.print(summary if history.missing or letters else f"run {history.run}: all {len(history.asked)} films exist", soft_wrap=True)
    if letters and sys.stdout.isatty():
        console.print(_table(letters))
    for _, letter in letters:
        for line in letter_lines(letter, max(args.lines, 0)):
            console.print(line, soft_wrap=True)
    return 0


def _table(letters: Sequence[tuple[str, DeadLetter]]) -> Table:
    table = Table(box=None, padding=(0, 2))
    for name in ("job", "stage", "segment", "class", "attempts", "run"):
        table.add_column(name, justify="right" if name in ("segment", "attempts") else "left")
    for run, letter in letters:
        table.add_row(letter.job, letter.stage, "" if letter.segment is None else str(letter.segment), letter.kind, str(letter.attempts), run)
    return table


def letter_lines(letter: DeadLetter, lines: int) -> list[str]:
    """A dead letter for a person: what failed, the last `lines` of its log, and the command to try it alone."""
    where = letter.stage if letter.segment is None else f"{letter.stage} of segment {letter.segment}"
    tail = letter.trace.splitlines()[-lines:] if lines else []
    tries = "1 attempt" if letter.attempts == 1 else f"{letter.attempts} attempts"
    return [f"{letter.job}: {where} failed ({letter.kind}, {tries}): {letter.reason}", *(f"  | {line}" for line in tail), f"  again: {letter.repro}"]
