"""Earlier runs: where they are looked up, which one is meant, and which of its films are still missing."""

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
    """A run and the runs that it is a rerun of, taken together."""

    runs: tuple[str, ...]  # their ids, the oldest first
    record: dict[str, Any]  # of the latest of them that asked for everything that was missing: its overrides and its catalogue apply
    asked: dict[str, str]  # job or bad row of any of them -> the last run that asked for it
    missing: frozenset[str]  # jobs without a film in the last run that asked for them
    forced_rerun: ForcedRerun | None  # the latest one, if some of its films are missing

    @property
    def run(self) -> str:
        """The latest."""
        return self.runs[-1]


def find_run(run: str | None, overrides: Sequence[str]) -> tuple[Storage, str]:
    """The storage that `overrides` name, and the run asked for, by default the latest. Raises ConfigError if there is none."""
    storage = Storage(checked(compose(["catalogue=none", *overrides])).storage)
    found = run or latest_run(storage)
    if found is None:
        raise ConfigError(f"no run under {storage.root} yet; name the root with storage.root=URI, or start a run with dub run")
    return storage, found


def overrides_of(record: dict[str, Any], added: Sequence[str]) -> list[str]:
    """The overrides that compose an earlier run again, with `added` on top. Its catalogue is named absolutely, for use from any folder."""
    kept = [word for word in record["overrides"] if word not in added]  # an override that begins with + may be given only once
    return [*kept, f"catalogue={quoted(record['catalogue'])}", *added]


def find_history(run: str | None, overrides: Sequence[str]) -> tuple[Storage, RunHistory]:
    """As `find_run`. A run that is named stands alone; the latest one comes with all the runs that it is a rerun of."""
    storage, found = find_run(run, overrides)
    records = [read_run(storage, found)]
    while run is None and (parent := records[0].get("parent")) and parent < records[0]["run"]:
        try:
            records.insert(0, read_run(storage, parent))
        except BadInput:  # deleted by hand: the history begins later
            break
    return storage, _combine(storage, records)


def _combine(storage: Storage, records: Sequence[dict[str, Any]]) -> RunHistory:
    """The history of runs, the oldest first."""
    asked: dict[str, str] = {}
    missing: set[str] = set()
    whole, forced_rerun = records[0], None
    for record in records:
        wanted = {*record["jobs"], *record["bad"]}
        if missing <= wanted:  # a rerun of a few films in another way (--ids, pools=inline) says nothing about the others
            whole = record
        if record.get("forced_rerun"):
            forced_rerun = ForcedRerun.from_json(record["forced_rerun"])
        asked |= dict.fromkeys(wanted, record["run"])
        missing = (missing | wanted) - done_jobs(storage, record["run"])
    runs = tuple(record["run"] for record in records)
    return RunHistory(runs, whole, asked, frozenset(missing), forced_rerun if forced_rerun and forced_rerun.jobs & missing else None)
