"""`dub rerun`: the same run again, for the films that are not there yet, or for those asked for."""

import argparse
from contextlib import ExitStack

from launch.compose import checked, compose
from launch.dispatch import dispatch
from launch.past import find_run
from pipeline.config import quoted
from pipeline.events import read_events, read_run


def main(argv: list[str]) -> int:
    """Exit code of the new run; 0 with a word where nothing is left to do."""
    parser = argparse.ArgumentParser(prog="dub rerun", description=__doc__)
    parser.add_argument("--run", help="which run (default: the latest)")
    parser.add_argument("--only", choices=("failed", "all"), default="failed", help="which films (default: those that failed or were not reached)")
    parser.add_argument("--ids", help="exactly these films, separated by commas")
    parser.add_argument("overrides", nargs="*", help="key=value, on top of the overrides of that run")
    asked = parser.parse_intermixed_args(argv)

    storage, run = find_run(asked.run, asked.overrides)
    before = read_run(storage, run)
    overrides = [*before["overrides"], f"catalogue={quoted(before['catalogue'])}", *asked.overrides]
    ids = set(asked.ids.split(",")) if asked.ids else None
    if ids is None and asked.only == "failed":
        done = {event["job"] for event in read_events(storage, run) if event["what"] == "job_done"}
        ids = ({*before["jobs"], *before["bad"]}) - done
        if not ids:
            print(f"run {run}: all {len(done)} films are there, nothing to rerun")
            return 0
    elif ids is None:
        ids = {*before["jobs"], *before["bad"]}
    with ExitStack() as session:
        return dispatch(checked(compose(overrides)), overrides, session, ids=frozenset(ids), parent=run)
