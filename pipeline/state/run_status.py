"""`dub status`: the state of every job of a run, computed from the run log. Memory grows with the jobs, not with the events."""

from collections.abc import Iterable
from dataclasses import dataclass

from infinitedub.pipeline.state.run_log import read_table
from infinitedub.pipeline.storage.storage import Storage

STATES = {"waiting_for_room": "waiting for room"}  # of a job that has not ended, by its last event


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The state of one job."""

    state: str = "waiting"  # waiting | running | waiting for room | done | failed
    stage: str = ""  # of its last event
    segments: int = 0
    windows: int = 0
    made: int = 0  # stage calls that succeeded
    reused: int = 0  # stage results that were committed already
    seconds: float = 0.0  # sum over its stage calls


def job_statuses(storage: Storage, run: str, jobs: Iterable[str]) -> dict[str, JobStatus]:
    """The status of each of the jobs, in their order, followed by jobs that only the log knows."""
    import pyarrow.compute as pc

    table = read_table(storage, run, ["job", "segment", "stage", "what", "seconds"])
    what = table["what"]
    for name, kind in (("windows", "window"), ("made", "finished"), ("reused", "reused"), ("done", "job_done"), ("failed", "job_failed")):
        table = table.append_column(name, pc.equal(what, kind).cast("int64"))
    table = table.append_column("worked", pc.if_else(pc.equal(what, "finished"), table["seconds"], None))
    sums = [(name, "sum") for name in ("windows", "made", "reused", "done", "failed", "worked")]
    counted = table.group_by("job").aggregate([("segment", "count_distinct"), *sums])
    last_stages = table.filter(pc.not_equal(table["stage"], "")).group_by("job", use_threads=False).aggregate([("stage", "last")])
    stage = dict(zip(last_stages["job"].to_pylist(), last_stages["stage_last"].to_pylist(), strict=True))
    last_events = table.group_by("job", use_threads=False).aggregate([("what", "last")])
    last = dict(zip(last_events["job"].to_pylist(), last_events["what_last"].to_pylist(), strict=True))
    found = {
        row["job"]: JobStatus(
            state="failed" if row["failed_sum"] else "done" if row["done_sum"] else STATES.get(last[row["job"]], "running"),
            stage=stage.get(row["job"], ""),
            segments=row["segment_count_distinct"],
            windows=row["windows_sum"],
            made=row["made_sum"],
            reused=row["reused_sum"],
            seconds=row["worked_sum"] or 0.0,
        )
        for row in counted.to_pylist()
    }
    return {job: found.get(job, JobStatus()) for job in (*jobs, *found)}


def done_jobs(storage: Storage, run: str) -> set[str]:
    """Ids of the jobs whose films were delivered."""
    import pyarrow.compute as pc

    table = read_table(storage, run, ["job", "what"])
    return set(table.filter(pc.equal(table["what"], "job_done"))["job"].to_pylist())
