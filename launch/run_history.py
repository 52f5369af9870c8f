"""Runs of the past: where they are looked for, which one is meant, and what is still missing of what was asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infinitedub.launch.compose import checked, compose
from infinitedub.pipeline.config import quoted
from infinitedub.pipeline.state.forced_rerun import ForcedRerun
from infinitedub.pipeline.state.run_log import latest_run, read_run
from infinitedub.pipeline.state.run_status import done_jobs
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.errors import BadInput, ConfigError


@dataclass(frozen=True)
class RunHistory:
    """A run and the runs that it was a rerun of, told as one."""

    runs: tuple[str, ...]  # their ids, the oldest first
    record: dict[str, Any]  # what was asked by the latest of them that went for all that was missing: its overrides and its catalogue hold
    asked: dict[str, str]  # every job, and every bad row, of any of them -> the run it was last asked of
    missing: frozenset[str]  # those that got no film when they were last asked for
    forced_rerun: ForcedRerun | None  # the latest, where some of its films are missing

    @property
    def run(self) -> str:
        """The latest."""
        return self.runs[-1]


def find_run(run: str | None, overrides: Sequence[str]) -> tuple[Storage, str]:
    """The storage that `overrides` name, and the run that is asked for there, by default the latest. Raises ConfigError where there is none."""
    storage = Storage(checked(compose(["catalogue=none", *overrides])).storage)
    found = run or latest_run(storage)
    if found is None:
        raise ConfigError(f"no run under {storage.root} yet; say where with storage.root=URI, or start one with dub run")
    return storage, found


def overrides_of(record: dict[str, Any], added: Sequence[str]) -> list[str]:
    """What composes a run of the past again, with what is `added` on top; its catalogue is found from any folder."""
    kept = [word for word in record["overrides"] if word not in added]  # what begins with + may be said once only
    return [*kept, f"catalogue={quoted(record['catalogue'])}", *added]


def find_history(run: str | None, overrides: Sequence[str]) -> tuple[Storage, RunHistory]:
    """As `find_run`. A run that is named is a story of its own; the latest one is told with all those it goes back to."""
    storage, found = find_run(run, overrides)
    records = [read_run(storage, found)]
    while run is None and (parent := records[0].get("parent")) and parent < records[0]["run"]:
        try:
            records.insert(0, read_run(storage, parent))
        except BadInput:  # taken away by hand: the story begins later
            break
    return storage, _told(storage, records)


def _told(storage: Storage, records: Sequence[dict[str, Any]]) -> RunHistory:
    """The story of runs, the oldest first."""
    asked: dict[str, str] = {}
    missing: set[str] = set()
    whole, forced_rerun = records[0], None
    for record in records:
        wanted = {*record["jobs"], *record["bad"]}
        if missing <= wanted:  # a few films made again in another way (--ids, pools=inline) say nothing about the others
            whole = record
        if record.get("forced_rerun"):
            forced_rerun = ForcedRerun.from_json(record["forced_rerun"])
        asked |= dict.fromkeys(wanted, record["run"])
        missing = (missing | wanted) - done_jobs(storage, record["run"])
    runs = tuple(record["run"] for record in records)
    return RunHistory(runs, whole, asked, frozenset(missing), forced_rerun if forced_rerun and forced_rerun.jobs & missing else None)
