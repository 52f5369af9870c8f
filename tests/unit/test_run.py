"""A whole run with scripted stages in the driver's process: what is reused, what its log says, and who goes first."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infinitedub.pipeline.flow import dub_job
from infinitedub.pipeline.pools.calls import StageCall, Started, Worked
from infinitedub.pipeline.pools.circuit_breaker import CircuitBreaker
from infinitedub.pipeline.run.batch import rerun_command
from infinitedub.pipeline.run.context import RunContext
from infinitedub.pipeline.run.job_stages import JobStages, StageFailed
from infinitedub.pipeline.state.ledger import Ledger
from infinitedub.pipeline.state.run_log import Event, read_events, read_run
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.errors import BadInput
from infinitedub.stages.records import (
    Artifact,
    Clip,
    Conditions,
    Film,
    Provenance,
    Receipt,
    Source,
    Speech,
)
from tests.unit.scripted import RESULTS, SEGMENTS, ScriptedRun

ONCE = Counter(ingest=1, segment=1, listen=1, condition=2, generate=2, assemble=1, publish=1)


# -- what is reused ---------------------------------------------------------------------------------------------------


def test_the_same_run_again_does_no_work_and_starts_no_cluster(scripted_run: ScriptedRun):
    """Though what is written into sidecars, such as the run's id, is another."""
    first = scripted_run.dub(scripted_run.job("a"))
    assert (first.worked, scripted_run.called(), scripted_run.clusters) == (9, ONCE, 1)
    assert Path(first.done["a"]).is_file()
    again = scripted_run.dub(scripted_run.job("a"))
    assert (again.worked, scripted_run.calls, scripted_run.clusters) == (0, [], 1)
    assert again.done == first.done
    assert again.run != first.run


def test_a_changed_setting_redoes_its_stage_and_what_follows(scripted_run: ScriptedRun):
    scripted_run.dub(scripted_run.job("a"))
    scripted_run.steps["generate"] = 8
    scripted_run.dub(scripted_run.job("a"))
    assert scripted_run.called() == Counter(generate=2, assemble=1, publish=1)


def test_a_retrained_model_of_the_same_size_is_another_model(scripted_run: ScriptedRun):
    scripted_run.dub(scripted_run.job("a"))
    scripted_run.weights.write_text("other training")
    scripted_run.dub(scripted_run.job("a"))
    assert scripted_run.called() == Counter(generate=2)  # it makes the same here, so that what follows is found


def test_a_film_that_was_taken_away_is_delivered_again(scripted_run: ScriptedRun):
    film = Path(scripted_run.dub(scripted_run.job("a")).done["a"])
    film.unlink()
    scripted_run.dub(scripted_run.job("a"))
    assert scripted_run.called() == Counter(publish=1)
    assert film.is_file()


def test_another_picture_is_another_film(scripted_run: ScriptedRun):
    job = scripted_run.job("a")
    scripted_run.dub(job)
    Path(job.material.picture).write_text("an older face of a")
    scripted_run.dub(job)
    assert scripted_run.called() == ONCE


def test_the_log_says_what_was_asked_and_every_window(scripted_run: ScriptedRun):
    outcome = scripted_run.dub(scripted_run.job("a"))
    asked = read_run(scripted_run.storage, outcome.run)
    assert (asked["jobs"], asked["overrides"], asked["parent"]) == (["a"], ["catalogue=rows.jsonl"], None)
    windows = [event for event in read_events(scripted_run.storage, outcome.run) if event["what"] == "window"]
    assert sorted((event["segment"], event["window"], event["detail"]) for event in windows) == [(0, 0, "1/1"), (1, 0, "1/2"), (1, 1, "2/2")]


def test_the_repro_command_finds_the_storage_and_asks_for_what_a_single_process_can_do(scripted_run: ScriptedRun):
    config = scripted_run.config
    words = ["catalogue=a.jsonl", "storage=s3", "storage.options.s3.addressing_style=path", "storage.root=s3://bucket/a", "rows.seed=3"]
    assert rerun_command("20261121-070512-3fa2", "a", config, words).startswith(
        "dub rerun --run 20261121-070512-3fa2 --ids a pools=inline storage=s3 storage.options.s3.addressing_style=path storage.root="
    )
    assert rerun_command("20261121-070512-3fa2", "-x", config, words).startswith(
        "dub rerun --run 20261121-070512-3fa2 --ids=-x pools=inline"
    )  # no flag
    beside = ["hydra.searchpath=[file:///mine]", "preset=b", "+storage.options.gs.project=films"] * 2
    said = rerun_command("20261121-070512-3fa2", "a", config, beside)
    assert " 'hydra.searchpath=[file:///mine]' +storage.options.gs.project=films storage.root=" in said
    gang = config.generate.model_copy(update={"parallel": config.generate.parallel.model_copy(update={"degree": 2})})
    assert "pools=" not in rerun_command("20261121-070512-3fa2", "a", config.model_copy(update={"generate": gang}), words)


def test_a_large_catalogue_does_not_lie_in_memory_as_tasks(scripted_run: ScriptedRun):
    tasks: list[int] = []
    scripted_run.error_for = lambda called: tasks.append(len(asyncio.all_tasks()))  # None: no error
    outcome = scripted_run.dub(*(replace(scripted_run.job("a"), id=f"job-{number}") for number in range(12)))
    assert len(outcome.done) == 12
    assert len(tasks) == 9 + 11 * 4  # noise, and so frames and film, depend on the job's id
    assert max(tasks) < 12


# -- who goes first ---------------------------------------------------------------------------------------------------


class NotedCalls:
    """A pool that notes its calls and answers from a list."""

    def __init__(self, calls: list[StageCall], answer: Callable[[StageCall], Any]) -> None:
        self.calls, self.answer = calls, answer

    async def run(self, call: StageCall, on_progress: Callable[[Any], None]) -> Any:
        self.calls.append(call)
        on_progress(Started(0.0, 0))
        on_progress(Worked(2.0))
        return self.answer(call)

    async def close(self) -> None:
        pass


def context_of(
    scripted_run: ScriptedRun, storage: Storage, pools: dict[str, Any], emit: Any = lambda event: None, provenance: Any = lambda seconds: None
) -> RunContext:
    """What the jobs of a run share, with these pools."""
    return RunContext(
        stages=scripted_run.verbs(),
        pools=lambda: pools,
        ledger=Ledger(storage),
        storage=storage,
        weights={},
        emit=emit,
        provenance=provenance,
        retry=scripted_run.config.pools.retry,
        breaker=CircuitBreaker(1000, print),
        window_work=lambda height, width: 1.0,
        stopping=lambda: False,
    )


def test_jobs_begun_earlier_go_first_and_in_a_job_the_longest_segment(scripted_run: ScriptedRun, storage: Storage):
    calls: list[StageCall] = []
    events: list[Event] = []
    provenances: list[dict[str, float]] = []
    nothing = Provenance("", {}, "", {}, {})

    def provenance(seconds: dict[str, float]) -> Provenance:
        provenances.append(seconds)
        return replace(nothing, seconds=seconds)

    artifact = Artifact(str(scripted_run.weights), "", len("first training"), "picture/png")
    answers: dict[str, Callable[[StageCall], Any]] = {
        "ingest": lambda call: Source(artifact, False, 64, 64, 25.0, 1, ()),
        "segment": lambda call: SEGMENTS,
        "listen": lambda call: Speech(artifact, 70, (None,)),
        "condition": lambda call: Conditions(artifact, 64, 64),
        "generate": lambda call: Clip(call.records[0].index, call.records[0].span, ()),
        "assemble": lambda call: Film(artifact, 70, 25.0, 0.0),
        "publish": lambda call: Receipt("films/b.mp4", "", 0, "films/b.json"),
    }
    pools = {name: NotedCalls(calls, answers[name]) for name in RESULTS}
    context = context_of(scripted_run, storage, pools, events.append, provenance)
    asyncio.run(dub_job(scripted_run.job("b"), JobStages(context, scripted_run.job("b"), position=5)))
    priorities = {(call.stage, call.label.segment): call.priority for call in calls}
    assert priorities["ingest", None] == (5, 0)
    assert priorities["generate", 1] == (5, -50) < priorities["generate", 0] == (5, -20) < (6, -1000)
    assert provenances[0]["generate"] == 4.0  # both segments' work, none of their waiting
    assert Counter(event.what for event in events) == Counter(started=9, finished=9)


def test_the_error_of_a_stage_names_the_stage(scripted_run: ScriptedRun, storage: Storage):
    class Broken:
        async def run(self, call: StageCall, on_progress: Callable[[Any], None]) -> Any:
            raise BadInput("no")

        async def close(self) -> None:
            pass

    context = context_of(scripted_run, storage, dict.fromkeys(RESULTS, Broken()))
    with pytest.raises(StageFailed, match="no") as failed:
        asyncio.run(dub_job(scripted_run.job("a"), JobStages(context, scripted_run.job("a"), position=0)))
    assert (failed.value.stage, failed.value.segment) == ("ingest", None)
    assert isinstance(failed.value.__cause__, BadInput)
