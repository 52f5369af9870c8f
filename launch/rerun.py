"""`dub rerun`: the same run again, for the films that are missing, for those named, or for some of their windows."""

import argparse
import re
from contextlib import ExitStack
from dataclasses import replace
from uuid import uuid4

from infinitedub.launch.compose import checked, compose
from infinitedub.launch.dispatch import dispatch
from infinitedub.launch.run_history import find_history, overrides_of
from infinitedub.pipeline.state.forced_rerun import ForcedRerun
from infinitedub.stages.errors import ConfigError

EPILOG = """
making again what exists (a forced rerun):
  dub rerun --ids a,b --segments 0,2 --windows 3: --reason "blinks"
withdraws windows 3 to the last of segments 0 and 2 of the films a and b, makes them again and delivers the films. A window begins with the last
frames of the one before, so all later windows are made as well. Other segments and earlier windows stay as they are. Without --windows
segments are made from window 0. After an interruption the same command, or `dub rerun` alone, continues it.

A forced rerun draws the same noise, so on the same machine it gives the same frames. That repairs a damaged result, or one of a faulty machine. For
other frames, change something: key=value such as rows.seed=8 (if the row of the catalogue has no seed), or the seed in the catalogue. But a
changed value that decides a result makes all of it again: every segment of these films, from window 0.
"""


def main(argv: list[str]) -> int:
    """The exit code of the new run; 0 if nothing is left to do."""
    parser = argparse.ArgumentParser(
        prog="dub rerun", description=__doc__, epilog=EPILOG, formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=120)
    )
    parser.add_argument("--run", help="this run only (default: the latest, and what is missing of the runs that it is a rerun of)")
    parser.add_argument("--only", choices=("failed", "all"), default="failed", help="which films (default: those that failed or were not reached)")
    parser.add_argument("--ids", help="exactly these films, separated by commas")
    parser.add_argument("--segments", help="of these films: make these segments again, separated by commas, or `all`")
    parser.add_argument("--windows", metavar="K:", help="of these segments: keep the windows before number K")
    parser.add_argument("--reason", help="why they are made again; stored with what they replace")
    parser.add_argument("overrides", nargs="*", help="key=value, on top of the overrides of that run")
    args = parser.parse_intermixed_args(argv)

    forced_rerun = forced_rerun_of(args.ids, args.segments, args.windows, args.reason)
    _, history = find_history(args.run, args.overrides)
    overrides = overrides_of(history.record, args.overrides)
    if args.ids is not None:
        ids = frozenset(args.ids.split(","))
    elif args.only == "failed":
        ids = history.missing
    else:
        ids = frozenset(history.asked)
    if not ids:
        print(f"run {history.run}: all {len(history.asked)} films exist, nothing to rerun")
        return 0
    if forced_rerun is not None:
        unfinished = history.forced_rerun if args.run is None else find_history(None, args.overrides)[1].forced_rerun
        forced_rerun = unfinished if unfinished == forced_rerun else replace(forced_rerun, id=uuid4().hex)
    elif history.forced_rerun is not None and (args.ids is None or (args.run is not None and history.forced_rerun.jobs & history.missing & ids)):
        forced_rerun = history.forced_rerun
        print(f"continuing the forced rerun: {forced_rerun}")
    with ExitStack() as session:
        return dispatch(checked(compose(overrides)), overrides, session, ids=ids, parent=history.run, forced_rerun=forced_rerun)


def forced_rerun_of(ids: str | None, segments: str | None, windows: str | None, reason: str | None) -> ForcedRerun | None:
    """The forced rerun that the flags ask for; None if they ask for none. Raises ConfigError for flags that do not go together."""
    if segments is None:
        if windows is not None:
            raise ConfigError(f"--windows {windows}: windows belong to a segment; name it, such as --segments 0 (or --segments all)")
        if reason is not None:
            raise ConfigError("--reason says why segments are made again; name them, such as --segments 0")
        return None
    if not ids:
        raise ConfigError(f"--segments {segments}: segments belong to a film; name it, such as --ids a,b")
    if not (reason or "").strip():
        raise ConfigError('a forced rerun needs a reason, which is stored: --reason "blinks"')
    if segments != "all" and not re.fullmatch(r"\d{1,6}(,\d{1,6})*", segments):
        raise ConfigError(f"--segments {segments}: wanted numbers from 0 with commas between, such as 0,2, or `all`")
    if windows is not None and not re.fullmatch(r"\d{1,6}:", windows):
        raise ConfigError(f"--windows {windows}: wanted K: such as 3: - window 3 and all later ones, which begin with frames of the one before")
    chosen = None if segments == "all" else frozenset(map(int, segments.split(",")))
    return ForcedRerun(frozenset(ids.split(",")), chosen, 0 if windows is None else int(windows[:-1]), (reason or "").strip())
