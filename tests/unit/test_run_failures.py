"""What a failure costs, in a whole run with scripted stages."""

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infinitedub.launch.dispatch import summary
from infinitedub.pipeline.catalogue.rows import BadRow, Catalogue
from infinitedub.pipeline.config import RunConfig
from infinitedub.pipeline.run.batch import run_catalogue
from infinitedub.pipeline.state.run_log import latest_run, read_dead_letters, read_events, read_run, read_summary
from infinitedub.stages.errors import BadInput, ConfigError, Transient
from tests.unit.scripted import SEGMENTS, Called, ScriptedRun


def test_a_failing_segment_costs_its_film_and_nothing_else(scripted_run: ScriptedRun):
    scripted_run.error_for = lambda called: BadInput("nobody is to be seen") if called == ("generate", None, 0) else None
    failed = scripted_run.dub(scripted_run.job("a"))
    assert (failed.done, failed.stopped) == ({}, False)
    (letter,) = failed.failed
    assert (letter.job, letter.stage, letter.segment, letter.kind, letter.reason) == ("a", "generate", 0, "input", "nobody is to be seen")
    assert "nobody is to be seen" in letter.trace
    assert f"--run {failed.run} --ids a" in letter.repro
    assert ("generate", None, 1) in scripted_run.calls  # the other segment is finished, for the rerun
    assert read_dead_letters(scripted_run.storage, failed.run) == [letter]
    summary = read_summary(scripted_run.storage, failed.run)
    assert summary is not None
    assert (summary["failed"], summary["stopped"]) == (["a"], False)

    scripted_run.error_for = lambda called: None
    mended = scripted_run.dub(scripted_run.job("a"))
    assert list(mended.done) == ["a"]
    assert [call for call in scripted_run.calls if call[0] == "generate"] == [("generate", None, 0)]
    assert scripted_run.called() == Counter(generate=1, assemble=1, publish=1)


@pytest.mark.parametrize("error", [BadInput("bad"), ConfigError("bad"), RuntimeError("a bug")])
def test_one_job_fails_and_the_others_go_on(scripted_run: ScriptedRun, error: Exception):
    scripted_run.error_for = lambda called: error if called == ("publish", "b", None) else None
    outcome = scripted_run.dub(*(scripted_run.job(name) for name in "abc"))
    assert sorted(outcome.done) == ["a", "c"]
    assert [letter.job for letter in outcome.failed] == ["b"]
    ended = {event["job"]: event["what"] for event in read_events(scripted_run.storage, outcome.run) if event["what"].startswith("job_")}
    assert ended == {"a": "job_done", "b": "job_failed", "c": "job_done"}


def test_the_same_bug_in_every_job_stops_the_run(scripted_run: ScriptedRun):
    scripted_run.error_for = lambda called: KeyError("a bug") if called[0] == "listen" else None
    outcome = scripted_run.dub(*(scripted_run.job(name) for name in "abcdef"))
    assert outcome.stopped
    assert "listen failed for 3 calls with the same error" in outcome.why
    assert [(letter.job, letter.kind) for letter in outcome.failed] == [("a", "code"), ("b", "code"), ("c", "code")]


def test_an_unusual_first_job_does_not_stop_the_others(scripted_run: ScriptedRun):
    """It has as many segments as an error needs orders to be taken for everybody's, and nothing has worked before it."""
    scripted_run.config = scripted_run.config.model_copy(
        update={"pools": scripted_run.config.pools.model_copy(update={"same_error_limit": len(SEGMENTS)})}
    )
    odd = len(SEGMENTS)

    def error_for(called: Called) -> Exception | None:
        return KeyError("odd") if called[0] == "generate" and sum(call[0] == "generate" for call in scripted_run.calls) <= odd else None

    scripted_run.error_for = error_for
    outcome = scripted_run.dub(*(scripted_run.job(name) for name in "abc"))
    assert ([letter.job for letter in outcome.failed], sorted(outcome.done), outcome.stopped) == (["a"], ["b", "c"], False)


def test_a_file_that_is_not_there_costs_one_film(scripted_run: ScriptedRun):
    gone = scripted_run.job("gone")
    Path(gone.material.picture).unlink()
    outcome = scripted_run.dub(gone, scripted_run.job("a"))
    assert list(outcome.done) == ["a"]
    (letter,) = outcome.failed
    assert (letter.job, letter.stage, letter.kind) == ("gone", "ingest", "input")
    assert "gone.png" in letter.reason


def patient(config: RunConfig, tries: int) -> RunConfig:
    """With so many tries for a storage that fails."""
    retry = config.pools.retry.model_copy(update={"storage": tries, "backoff_seconds": 0.001})
    return config.model_copy(update={"pools": config.pools.model_copy(update={"retry": retry})})


@pytest.mark.parametrize("down", [1, 2, 3])
@pytest.mark.parametrize("call", ["read", "stat_input"])
def test_a_storage_that_fails_under_the_driver_has_the_budget_of_one_that_fails_under_a_stage(
    scripted_run: ScriptedRun, monkeypatch: pytest.MonkeyPatch, call: str, down: int
):
    scripted_run.config = patient(scripted_run.config, 3)
    real, failures = getattr(scripted_run.storage, call), []

    def failing(name: str) -> Any:
        if len(failures) < down and (call == "stat_input" or name.startswith("cas/listen")):
            failures.append(name)
            raise Transient("the bucket is on holiday")
        return real(name)

    monkeypatch.setattr(scripted_run.storage, call, failing)
    job = scripted_run.job("a")
    job = replace(job, material=replace(job.material, speakers=()))  # one source, so that its tries can be counted
    outcome = scripted_run.dub(job)
    assert [(letter.kind, letter.attempts) for letter in outcome.failed] == ([("storage", 3)] if down == 3 else [])
    assert ("on holiday" in outcome.failed[0].reason) if outcome.failed else outcome.done


def test_a_source_that_the_settings_do_not_open_costs_one_film(scripted_run: ScriptedRun, monkeypatch: pytest.MonkeyPatch):
    """Such as one in a bucket of another region."""
    stat = scripted_run.storage.stat_input

    def region(uri: str) -> Any:
        if Path(uri).stem in "bdfhijkl":
            raise ConfigError(f"{uri}: wrong region or endpoint")
        return stat(uri)

    monkeypatch.setattr(scripted_run.storage, "stat_input", region)
    outcome = scripted_run.dub(*(scripted_run.job(name) for name in "abcdefg"))
    assert (sorted(outcome.done), outcome.stopped) == (["a", "c", "e", "g"], False)
    assert [(letter.job, letter.stage, letter.kind) for letter in outcome.failed] == [(job, "ingest", "config") for job in "bdf"]
    outcome = scripted_run.dub(*(scripted_run.job(name) for name in "hijkl"))
    assert (len(outcome.failed), outcome.stopped) == (3, True)
    assert "ingest failed for 3 calls with the same error" in outcome.why


def test_every_bad_row_that_is_skipped_has_a_dead_letter(scripted_run: ScriptedRun):
    bad = (BadRow(2, "b", ("no speech",)), BadRow(3, None, ("no JSON",)), BadRow(4, "../x" * 999, ("no id",)), BadRow(5, "b", ("no picture",)))
    outcome = scripted_run.dub(scripted_run.job("a"), bad=bad)
    letters = read_dead_letters(scripted_run.storage, outcome.run)
    assert {letter.job: letter.reason for letter in letters}.keys() == {"b", "line 3", "line 4"}
    assert {(letter.stage, letter.kind, letter.repro) for letter in letters} == {("catalogue", "input", "dub run catalogue=rows.jsonl")}
    assert "line 2 (b): no speech / line 5 (b): no picture" in [letter.reason for letter in letters]
    assert read_run(scripted_run.storage, outcome.run)["bad"] == ["b", "b"]


def test_an_error_in_bytes_that_are_no_text_is_told_by_their_escapes(scripted_run: ScriptedRun):
    """Such as a header that a server sends, or a file name of another age."""
    scripted_run.error_for = lambda called: BadInput("the encoding \udcff") if called[0] == "listen" else None
    outcome = scripted_run.dub(scripted_run.job("a"))
    (letter,) = read_dead_letters(scripted_run.storage, outcome.run)
    assert letter.reason == "the encoding \\udcff"
    assert "\\udcff" in letter.trace
    assert [event["detail"] for event in read_events(scripted_run.storage, outcome.run) if event["what"] == "failed"] == [letter.reason]


def test_a_dead_letter_that_the_storage_refuses_is_written_later(scripted_run: ScriptedRun, monkeypatch: pytest.MonkeyPatch):
    scripted_run.error_for = lambda called: BadInput("bad") if called == ("publish", "a", None) else None
    put, refused = scripted_run.storage.put, []

    def failing(name: str, source: bytes | Path) -> str:
        if "/dead/" in name and not refused:
            refused.append(name)
            raise Transient("the bucket is on holiday")
        return put(name, source)

    monkeypatch.setattr(scripted_run.storage, "put", failing)
    outcome = scripted_run.dub(*(scripted_run.job(name) for name in "abc"))
    assert sorted(outcome.done) == ["b", "c"]
    assert read_dead_letters(scripted_run.storage, outcome.run) == list(outcome.failed)
    assert [letter.job for letter in outcome.failed] == ["a"]


def test_credentials_that_run_out_stop_the_run_with_what_it_has(scripted_run: ScriptedRun, monkeypatch: pytest.MonkeyPatch):
    """It is not refused: something was done."""
    read = scripted_run.storage.read

    def expired(name: str) -> bytes | None:
        if name.startswith("cas/") and ("publish", "a", None) in scripted_run.calls:
            raise ConfigError(f"{name}: ExpiredToken")
        return read(name)

    monkeypatch.setattr(scripted_run.storage, "read", expired)
    scripted_run.config = scripted_run.config.model_copy(update={"pools": scripted_run.config.pools.model_copy(update={"jobs_in_flight": 1})})
    outcome = scripted_run.dub(*(scripted_run.job(name) for name in "abcdef"))
    assert (list(outcome.done), [letter.kind for letter in outcome.failed], outcome.stopped) == (["a"], ["config"] * 3, True)
    assert "ExpiredToken" in outcome.why
    assert read_summary(scripted_run.storage, outcome.run)["done"] == outcome.done


def test_a_log_whose_end_cannot_be_written_is_reported(scripted_run: ScriptedRun, monkeypatch: pytest.MonkeyPatch):
    scripted_run.config = patient(scripted_run.config, 3)
    put, refused = scripted_run.storage.put, []

    def failing(name: str, source: bytes | Path) -> str:
        if name.endswith("/summary.json") and len(refused) < down:
            refused.append(name)
            raise Transient("the bucket is on holiday")
        return put(name, source)

    monkeypatch.setattr(scripted_run.storage, "put", failing)
    down = 2
    outcome = scripted_run.dub(scripted_run.job("a"))
    assert (list(outcome.done), outcome.unlogged, len(refused)) == (["a"], "", 2)
    down = 9
    outcome = scripted_run.dub(scripted_run.job("a"))
    assert list(outcome.done) == ["a"]
    assert "on holiday" in outcome.unlogged
    assert read_summary(scripted_run.storage, outcome.run) is None
    assert "the end of its log could not be written" in summary(outcome, scripted_run.storage)


def test_a_cluster_that_cannot_be_had_is_the_runs_failure(scripted_run: ScriptedRun):
    def unreachable() -> None:
        raise ConfigError("no Ray cluster could be had")

    with pytest.raises(ConfigError, match="no Ray cluster"):
        asyncio.run(
            run_catalogue(scripted_run.config, Catalogue((scripted_run.job("a"),), ()), scripted_run.storage, unreachable, overrides=[], parent=None)
        )
    assert scripted_run.calls == []


def test_a_run_whose_cluster_cannot_be_had_leaves_the_run_before_as_the_latest(scripted_run: ScriptedRun):
    before = scripted_run.dub(scripted_run.job("a")).run

    def unreachable() -> None:
        raise ConfigError("no Ray cluster could be had")

    with pytest.raises(ConfigError, match="no Ray cluster"):
        catalogue = Catalogue((scripted_run.job("b"),), (BadRow(2, "c", ("no speech",)),))
        asyncio.run(run_catalogue(scripted_run.config, catalogue, scripted_run.storage, unreachable, overrides=[], parent=None))
    assert latest_run(scripted_run.storage) == before
    assert scripted_run.storage.list("runs") == [before]


def test_a_run_whose_weights_are_missing_leaves_no_trace(scripted_run: ScriptedRun):
    scripted_run.weights.unlink()
    with pytest.raises(ConfigError, match=r"weights does not exist"):
        scripted_run.dub(scripted_run.job("a"))
    assert scripted_run.storage.list("runs") == []


def test_retries_and_restarts_are_events_of_the_run_log(scripted_run: ScriptedRun):
    scripted_run.config = patient(scripted_run.config, 3)
    errors = iter([Transient("503"), Transient("503")])
    scripted_run.error_for = lambda called: next(errors, None) if called[0] == "listen" else None
    outcome = scripted_run.dub(scripted_run.job("a"))
    events = read_events(scripted_run.storage, outcome.run)
    retries = [event["detail"] for event in events if event["what"] == "retry"]
    assert [detail.partition(",")[0] for detail in retries] == ["attempt 1 failed (storage)", "attempt 2 failed (storage)"]
    assert [event["what"] for event in events if event["stage"] == "listen"] == ["started", "workers_started", "retry", "retry", "finished"]
    assert outcome.worked == 9


def test_a_failure_that_may_have_harmed_the_worker_restarts_it(scripted_run: ScriptedRun):
    retry = scripted_run.config.pools.retry.model_copy(update={"numeric": 2})
    scripted_run.config = scripted_run.config.model_copy(update={"pools": scripted_run.config.pools.model_copy(update={"retry": retry})})
    errors = iter([FloatingPointError("NaN")])
    scripted_run.error_for = lambda called: next(errors, None) if called[0] == "listen" else None
    outcome = scripted_run.dub(scripted_run.job("a"))
    whats = [event["what"] for event in read_events(scripted_run.storage, outcome.run) if event["stage"] == "listen"]
    assert whats == ["started", "workers_started", "retry", "workers_restarted", "finished"]
