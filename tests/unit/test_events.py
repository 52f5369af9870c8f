"""The run log: one writer, and readers that may come at any time."""

import threading
from dataclasses import asdict
from pathlib import Path

import pytest

from infinitedub.pipeline.state import run_log
from infinitedub.pipeline.state.run_log import DeadLetter, Event, RunLog, latest_run, read_dead_letters, read_events, read_run, read_summary, runs
from infinitedub.pipeline.state.run_status import job_statuses
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.errors import BadInput, Transient

STARTED = Event(1.5, "a", None, None, "ingest", "started", None, "")
WINDOW = Event(2.5, "a", 3, 1, "generate", "window", 12.25, "2/5")
LETTER = DeadLetter("a", "ingest", None, "input", "a.mp4: Ünsinn", 1, "Traceback ...", "dub rerun --ids a")


def test_a_run_is_read_back_as_it_was_written(storage: Storage):
    with RunLog.begin(storage, {"catalogue": "a.jsonl", "jobs": ["a", "b"]}) as log:
        log.event(STARTED)
        log.event(WINDOW)
        log.dead_letter(LETTER)
        assert read_summary(storage, log.run) is None
        log.finish({"done": [], "seconds": 3.5})
    asked = read_run(storage, log.run)
    assert asked["jobs"] == ["a", "b"]
    assert asked["run"] == log.run
    assert asked["started"].endswith("+00:00")
    assert read_events(storage, log.run) == [asdict(STARTED), asdict(WINDOW)]
    assert read_dead_letters(storage, log.run) == [LETTER]
    summary = read_summary(storage, log.run)
    assert summary is not None
    assert summary["seconds"] == 3.5


def test_runs_are_in_the_order_of_their_beginning(storage: Storage):
    assert latest_run(storage) is None
    begun = []
    for _ in range(5):
        with RunLog.begin(storage, {}) as log:
            begun.append(log.run)
    assert runs(storage) == begun
    assert latest_run(storage) == begun[-1]


def test_what_is_no_run_is_not_the_latest(storage: Storage):
    """What somebody keeps there, and the folder of a driver that was killed before it said what was asked."""
    with RunLog.begin(storage, {}) as log:
        pass
    storage.put("runs/old/20261121-070512-3fa2/run.json", b"{}")
    (Path(storage.root) / "runs" / "29991231-235959-0000").mkdir()
    assert latest_run(storage) == log.run
    assert "old" not in runs(storage)


def test_events_of_a_run_going_on_can_be_read(storage: Storage, monkeypatch):
    monkeypatch.setattr(run_log, "FLUSH_EVENTS", 3)
    written = threading.Event()
    put = storage.put

    def telling(name: str, source: bytes | Path) -> str:
        uri = put(name, source)
        written.set()
        return uri

    monkeypatch.setattr(storage, "put", telling)
    with RunLog.begin(storage, {}) as log:
        for number in range(3):
            log.event(Event(float(number), "a", number, None, "generate", "finished", 1.0, ""))
        assert written.wait(30)
        assert [event["segment"] for event in read_events(storage, log.run)] == [0, 1, 2]
        log.event(WINDOW)
    assert [event["segment"] for event in read_events(storage, log.run)] == [0, 1, 2, 3]
    assert len(storage.list(f"runs/{log.run}/events")) == 2


def test_events_survive_a_storage_that_fails_for_a_while(storage: Storage, monkeypatch, caplog):
    monkeypatch.setattr(run_log, "FLUSH_EVENTS", 1)
    failed = threading.Event()
    put = storage.put

    def failing(name: str, source: bytes | Path) -> str:
        if not failed.is_set():
            failed.set()
            raise Transient("the bucket is on holiday")
        return put(name, source)

    monkeypatch.setattr(storage, "put", failing)
    with RunLog.begin(storage, {}) as log:
        log.event(STARTED)
        assert failed.wait(30)
        log.event(WINDOW)
    assert read_events(storage, log.run) == [asdict(STARTED), asdict(WINDOW)]
    assert "on holiday" in caplog.text


def test_a_driver_that_fails_still_writes_its_last_events(storage: Storage):
    with pytest.raises(RuntimeError), RunLog.begin(storage, {}) as log:
        log.event(STARTED)
        raise RuntimeError
    assert read_events(storage, log.run) == [asdict(STARTED)]
    assert read_summary(storage, log.run) is None


@pytest.mark.parametrize("job", ["../../escape", "a/b", "..", ".", "ümlaut ?#%"])
def test_no_job_id_leaves_the_folder_of_dead_letters(storage: Storage, job: str):
    letter = DeadLetter(job, "ingest", 2, "input", "", 1, "", "")
    with RunLog.begin(storage, {}) as log:
        log.dead_letter(letter)
    assert read_dead_letters(storage, log.run) == [letter]
    assert len(storage.list(f"runs/{log.run}/dead")) == 1


@pytest.mark.parametrize("read", [read_run, read_summary, read_events, read_dead_letters])
@pytest.mark.parametrize("run", ["..", "../cas", "latest", ""])
def test_a_run_id_is_checked(storage: Storage, read, run: str):
    with pytest.raises(BadInput, match="not the id of a run"):
        read(storage, run)


def test_an_unknown_run_is_told_with_the_latest_ones(storage: Storage):
    with RunLog.begin(storage, {}) as log:
        pass
    with pytest.raises(BadInput, match=log.run):
        read_run(storage, "20000101-000000-0000")


def test_the_log_writer_survives_a_page_that_cannot_be_read(storage: Storage, monkeypatch, caplog):
    """Its thread would end with Arrow's error, and every later event would wait in memory until the run ends in a traceback."""
    monkeypatch.setattr(run_log, "FLUSH_EVENTS", 1)
    monkeypatch.setattr(run_log.event_pages, "PAGES_PER_MERGE", 2)
    written = threading.Semaphore(0)
    put = storage.put

    def damage_the_first_page(name: str, source: bytes | Path) -> str:
        uri = put(name, b"no Parquet" if name.endswith("/000000.parquet") else source)
        written.release()
        return uri

    monkeypatch.setattr(storage, "put", damage_the_first_page)
    with RunLog.begin(storage, {}) as log:
        for number in range(6):
            log.event(Event(float(number), "a", number, None, "generate", "finished", 1.0, ""))
            assert written.acquire(timeout=30)
        assert log._writer.is_alive()
        log.finish({"stopped": False})
    assert read_summary(storage, log.run) is not None
    assert "is left as it is" in caplog.text


def test_an_unexpected_error_of_the_writer_is_logged_and_tried_again(storage: Storage, monkeypatch, caplog):
    monkeypatch.setattr(run_log, "FLUSH_EVENTS", 1)
    monkeypatch.setattr(run_log, "FLUSH_SECONDS", 0.05)
    failed = threading.Event()
    write_page = run_log.event_pages.write_page

    def failing(*arguments):
        if not failed.is_set():
            failed.set()
            raise KeyError("a bug in the writer")
        return write_page(*arguments)

    monkeypatch.setattr(run_log.event_pages, "write_page", failing)
    with RunLog.begin(storage, {}) as log:
        log.event(STARTED)
        assert failed.wait(30)
        log.event(WINDOW)
    assert read_events(storage, log.run) == [asdict(STARTED), asdict(WINDOW)]
    assert "a bug in the writer" in caplog.text


def test_a_discarded_run_leaves_nothing_and_the_run_before_is_the_latest(storage: Storage):
    with RunLog.begin(storage, {}) as before:
        before.event(STARTED)
    with RunLog.begin(storage, {}) as log:
        log.event(STARTED)
        log.dead_letters([DeadLetter("b", "catalogue", None, "input", "no speech", 1, "", "dub run")])
        log.discard()
    assert storage.list("runs") == [before.run]
    assert latest_run(storage) == before.run


def test_a_damaged_dead_letter_is_left_out_of_the_others(storage: Storage, caplog):
    with RunLog.begin(storage, {}) as log:
        log.dead_letters([DeadLetter("b", "listen", None, "input", "no speech", 1, "", "dub rerun --ids b")])
    storage.put(f"runs/{log.run}/dead/a.json", b"{half a letter")
    storage.put(f"runs/{log.run}/dead/c.json", b'{"job": "c"}')
    assert [letter.job for letter in read_dead_letters(storage, log.run)] == ["b"]
    assert caplog.text.count("cannot be read and is left out") == 2


def test_a_job_whose_last_event_waits_for_room_says_so(storage: Storage):
    with RunLog.begin(storage, {"jobs": ["one", "two"]}) as log:
        for job, what in (("one", "started"), ("one", "waiting_for_room"), ("two", "waiting_for_room"), ("two", "workers_started")):
            log.event(Event(1.0, job, 0, None, "generate", what, None, ""))
        log.finish({})
    states = job_statuses(storage, log.run, ["one", "two", "three"])
    assert [state.state for state in states.values()] == ["waiting for room", "running", "waiting"]
