"""From a checked configuration to an exit code: read the catalogue, start the cluster, run the jobs, print the summary."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from infinitedub.pipeline.catalogue.rows import Catalogue
from infinitedub.pipeline.config import RunConfig
from infinitedub.pipeline.run.batch import Outcome, run_catalogue
from infinitedub.pipeline.state.forced_rerun import ForcedRerun
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.errors import ConfigError

ALL_DONE, SOME_FAILED, STOPPED, REFUSED = 0, 2, 3, 4


def dispatch(
    config: RunConfig,
    overrides: Sequence[str],
    session: ExitStack,
    *,
    ids: frozenset[str] | None = None,
    parent: str | None = None,
    forced_rerun: ForcedRerun | None = None,
) -> int:
    """Runs the catalogue, or the rows named by `ids`. The cluster stays up until `session` ends, for the next point of a sweep."""
    storage = Storage(config.storage)
    catalogue = chosen(config.read_rows(storage.open_input), ids)
    for row in catalogue.bad:
        print(f"{config.catalogue}: {row}", file=sys.stderr)
    if catalogue.bad and config.on_bad_row == "stop":
        raise ConfigError(f"{len(catalogue.bad)} bad rows, nothing was started; correct them, or dub the other rows: on_bad_row=skip")
    if not catalogue.jobs:
        raise ConfigError(f"{config.catalogue} holds no row to dub")

    def start_cluster() -> None:
        if config.pools.kind == "actors":
            from infinitedub.launch.cluster import cluster

            session.enter_context(cluster(config.cluster))

    outcome = asyncio.run(run_catalogue(config, catalogue, storage, start_cluster, overrides=overrides, parent=parent, forced_rerun=forced_rerun))
    print(summary(outcome, storage), file=sys.stderr)
    if outcome.stopped or outcome.unlogged:
        return STOPPED
    return SOME_FAILED if outcome.failed or catalogue.bad else ALL_DONE


def chosen(catalogue: Catalogue, ids: frozenset[str] | None) -> Catalogue:
    """The rows named by `ids`, or all rows for None. Raises ConfigError for an id that no row has."""
    if ids is None:
        return catalogue
    known = {job.id for job in catalogue.jobs} | {row.id for row in catalogue.bad if row.id}
    if unknown := sorted(ids - known):
        raise ConfigError(f"the catalogue has no row {', '.join(unknown)}; it has {', '.join(sorted(known)[:20])}")
    return replace(catalogue, jobs=tuple(job for job in catalogue.jobs if job.id in ids), bad=tuple(row for row in catalogue.bad if row.id in ids))


def summary(outcome: Outcome, storage: Storage) -> str:
    """The end of a run for a person: films, failures, and the command to continue."""
    lines = []
    if outcome.done and not outcome.failed and not outcome.worked:
        lines.append(f"run {outcome.run}: nothing to do, all {len(outcome.done)} films exist already")
    else:
        lines.append(f"run {outcome.run}: {len(outcome.done)} films done, {len(outcome.failed)} failed, in {outcome.seconds:.0f} s")
    lines += [f"  {uri}" for uri in outcome.done.values()]
    for letter in outcome.failed:
        lines.append(f"  {letter.job}: {letter.stage} failed ({letter.kind}): {letter.reason}")
        lines.append(f"    again: {letter.repro}")
    if outcome.stopped:
        lines.append(f"  stopped before all was done ({outcome.why}); the same command continues from here")
    if outcome.unlogged:
        lines.append(f"  the end of its log could not be written ({outcome.unlogged}); the same command writes a new log")
    return "\n".join(lines)
