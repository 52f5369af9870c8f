"""`dub rerun`: the same run again, for the films that are not there yet, for those asked for, or for some of their windows."""

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
making anew what is there:
  dub rerun --ids a,b --segments 0,2 --windows 3: --reason "blinks"
puts aside windows 3 to the last of segments 0 and 2, in the films a and b, makes them again and delivers the films. Windows begin with the last
frames of the one before: that is why all later ones are made, too. Other segments and earlier windows stay as they are. Without --windows
segments are made from window 0. Where that is broken off, the same command, or `dub rerun` alone, goes on with it.

A remake draws the same noise, so on the same machine it gives the same frames again. That mends a damaged result, or one of a faulty machine. To get
other frames, change something: key=value such as rows.seed=8 (where the row of the catalogue has no seed), or the seed in the catalogue. But a
changed value that decides a result makes another one, all of it: of these films every segment, from window 0.
"""


def main(argv: list[str]) -> int:
    """Exit code of the new run; 0 with a word where nothing is left to do."""
    parser = argparse.ArgumentParser(
        prog="dub rerun", description=__doc__, epilog=EPILOG, formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=120)
    )
    parser.add_argument("--run", help="exactly this run (default: the latest, and all that is missing of the runs it was a rerun of)")
    parser.add_argument("--only", choices=("failed", "all"), default="failed", help="which films (default: those that failed or were not reached)")
    parser.add_argument("--ids", help="exactly these films, separated by commas")
    parser.add_argument("--segments", help="of these films: make these segments anew, separated by commas, or `all`")
    parser.add_argument("--windows", metavar="K:", help="of these segments: keep the windows before number K")
    parser.add_argument("--reason", help="why they are made anew; kept with what they replace")
    parser.add_argument("overrides", nargs="*", help="key=value, on top of the overrides of that run")
    asked = parser.parse_intermixed_args(argv)

    forced_rerun = forced_rerun_of(asked.ids, asked.segments, asked.windows, asked.reason)
    _, story = find_history(asked.run, asked.overrides)
    overrides = overrides_of(story.record, asked.overrides)
    if asked.ids is not None:
        ids = frozenset(asked.ids.split(","))
    elif asked.only == "failed":
        ids = story.missing
    else:
        ids = frozenset(story.asked)
    if not ids:
        print(f"run {story.run}: all {len(story.asked)} films are there, nothing to rerun")
        return 0
    if forced_rerun is not None:
        begun = story.forced_rerun if asked.run is None else find_history(None, asked.overrides)[1].forced_rerun
        forced_rerun = begun if begun == forced_rerun else replace(forced_rerun, id=uuid4().hex)
    elif story.forced_rerun is not None and (asked.ids is None or (asked.run is not None and story.forced_rerun.jobs & story.missing & ids)):
        forced_rerun = story.forced_rerun
        print(f"going on with what was begun: {forced_rerun}")
    with ExitStack() as session:
        return dispatch(checked(compose(overrides)), overrides, session, ids=ids, parent=story.run, forced_rerun=forced_rerun)


def forced_rerun_of(ids: str | None, segments: str | None, windows: str | None, reason: str | None) -> ForcedRerun | None:
    """What is to be made anew, by the words of the command line; None where they ask for nothing. Raises ConfigError where they do not fit."""
    if segments is None:
        if windows is not None:
            raise ConfigError(f"--windows {windows}: a window is one of a segment; say which, such as --segments 0 (or --segments all)")
        if reason is not None:
            raise ConfigError("--reason tells why segments are made anew; say which, such as --segments 0")
        return None
    if not ids:
        raise ConfigError(f"--segments {segments}: a segment is one of a film; say of which, such as --ids a,b")
    if not (reason or "").strip():
        raise ConfigError('what is there is made anew for a reason, which is kept: --reason "blinks"')
    if segments != "all" and not re.fullmatch(r"\d{1,6}(,\d{1,6})*", segments):
        raise ConfigError(f"--segments {segments}: wanted numbers from 0 with commas between, such as 0,2, or `all`")
    if windows is not None and not re.fullmatch(r"\d{1,6}:", windows):
        raise ConfigError(f"--windows {windows}: wanted K: such as 3: - window 3 and all behind it, since each begins with the end of the one before")
    chosen = None if segments == "all" else frozenset(map(int, segments.split(",")))
    return ForcedRerun(frozenset(ids.split(",")), chosen, 0 if windows is None else int(windows[:-1]), (reason or "").strip())
