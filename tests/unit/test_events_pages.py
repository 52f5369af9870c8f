"""The pages of the run log: few, each event once, whoever dies at whatever moment and whoever reads meanwhile."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infinitedub.pipeline.state import event_pages, run_log
from infinitedub.pipeline.state.event_pages import EventPage, pages_to_merge, parse_page_name, select_pages
from infinitedub.pipeline.state.run_log import Event, RunLog, read_events, read_table
from infinitedub.pipeline.state.run_status import JobStatus, done_jobs, job_statuses
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.errors import Transient

FOLDER = "runs/20261121-070512-3fa2/events"


class Died(BaseException):
    """What a killed driver does not live to see: nothing of ours catches it."""


def column(number: int) -> dict[str, list[object]]:
    """A page of one event that tells the page's number."""
    event = Event(float(number), "a", number, None, "generate", "finished", 1.0, "")
    return {name: [getattr(event, name)] for name in ("time", "job", "segment", "window", "stage", "what", "seconds", "detail")}


def written(storage: Storage, numbers: range) -> list[tuple[EventPage, int]]:
    return [event_pages.write_page(storage, FOLDER, number, column(number)) for number in numbers]


def told(storage: Storage) -> list[int]:
    return event_pages.read_pages(storage, FOLDER, ["segment"])["segment"].to_pylist()


# -- which pages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [EventPage(0, 1), EventPage(7, 8), EventPage(0, 64), EventPage(999_999, 1_000_000), EventPage(1_000_000, 1_000_064)])
def test_a_page_is_known_by_its_name(page: EventPage):
    assert parse_page_name(page.name) == page


@pytest.mark.parametrize("name", ["index.html", "1.parquet", "000000.parquet.part", "000000-.parquet", "a000001.parquet"])
def test_what_is_no_page_is_left_alone(name: str):
    assert parse_page_name(name) is None
    assert select_pages([name]) == ((), True)


def test_pages_that_a_wider_one_holds_are_left_out():
    names = [page.name for page in (*(EventPage(n, n + 1) for n in range(5)), EventPage(0, 2), EventPage(0, 4))]
    assert select_pages(names) == ((EventPage(0, 4), EventPage(4, 5)), True)
    assert select_pages([EventPage(0, 4).name, EventPage(2, 3).name, EventPage(3, 4).name]) == ((EventPage(0, 4),), True)


def test_a_gap_is_noticed():
    assert select_pages([EventPage(64, 65).name]) == ((EventPage(64, 65),), False)
    assert select_pages([EventPage(0, 2).name, EventPage(3, 4).name])[1] is False


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5000))
def test_a_log_of_any_length_has_few_pages_and_all_of_them(count: int):
    shelf: list[tuple[EventPage, int]] = []
    for number in range(count):
        shelf.append((EventPage(number, number + 1), 100))
        while several := pages_to_merge(shelf, ended=False):
            assert len(several) == event_pages.PAGES_PER_MERGE
            assert shelf[-1][0] not in several
            bound = EventPage(several[0].start, several[-1].stop)
            shelf = sorted([*((page, size) for page, size in shelf if page not in several), (bound, 100 * len(several))])
    assert len(shelf) <= 3 * event_pages.PAGES_PER_MERGE
    found, whole = select_pages(page.name for page, _ in shelf)
    assert whole
    assert (found[0].start, found[-1].stop) == (0, count)
    assert sum(page.stop - page.start for page in found) == count


def test_at_the_end_all_but_the_last_become_one_and_large_ones_are_left_alone():
    few = [(EventPage(0, 64), 6400), (EventPage(64, 65), 100), (EventPage(65, 66), 100)]
    assert pages_to_merge(few, ended=True) == (EventPage(0, 64), EventPage(64, 65))
    assert pages_to_merge(few[:1], ended=True) == pages_to_merge(few[1:], ended=True) == pages_to_merge([], ended=True) == ()
    large = [(EventPage(0, 64), event_pages.MERGED_BYTES), *((EventPage(n, n + 1), 100) for n in range(64, 70))]
    assert pages_to_merge(large, ended=True) == tuple(EventPage(n, n + 1) for n in range(64, 69))


# -- whoever dies, whoever reads --------------------------------------------------------------------------------------


def dying(storage: Storage, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """Lets the driver die at its so-many-th change of the storage, before it is made."""
    left = calls

    def counted(change: Callable[..., object]) -> Callable[..., object]:
        def call(*words: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Died
            return change(*words)

        return call

    for name in ("put", "create", "delete"):
        monkeypatch.setattr(storage, name, counted(getattr(storage, name)))


@pytest.mark.parametrize("calls", range(9))
def test_a_driver_that_dies_while_it_binds_loses_nothing_and_doubles_nothing(storage: Storage, monkeypatch, calls: int):
    """Seven changes: the bound page, and six deletions."""
    shelf = written(storage, range(7))
    reader = Storage(storage.settings)
    dying(storage, monkeypatch, calls)
    several = pages_to_merge(shelf, ended=True)
    try:
        event_pages.merge_pages(storage, FOLDER, several)
        for page in several:
            storage.delete(f"{FOLDER}/{page.name}")
    except Died:
        assert calls < 7
    else:
        assert calls >= 7
        assert len(reader.list(FOLDER)) == 2
    assert told(reader) == list(range(7))


def test_a_reader_whose_page_is_bound_before_it_reads_it_looks_again(storage: Storage, monkeypatch):
    shelf = written(storage, range(5))
    read, bound = storage.read, []

    def late(name: str) -> bytes | None:
        if not bound:  # between this reader's listing and its first page
            bound.append(True)
            event_pages.merge_pages(Storage(storage.settings), FOLDER, pages_to_merge(shelf, ended=True))
            for number in range(4):
                storage.delete(f"{FOLDER}/{EventPage(number, number + 1).name}")
        return read(name)

    monkeypatch.setattr(storage, "read", late)
    assert told(storage) == list(range(5))


def test_a_listing_that_saw_neither_the_pages_nor_what_they_became_is_made_again(storage: Storage, monkeypatch):
    shelf = written(storage, range(5))
    event_pages.merge_pages(storage, FOLDER, pages_to_merge(shelf, ended=True))
    listings = iter([[EventPage(4, 5).name], [EventPage(0, 4).name, EventPage(4, 5).name]])
    monkeypatch.setattr(storage, "list", lambda folder: next(listings))
    assert told(storage) == list(range(5))


def test_a_page_that_somebody_took_away_costs_its_events_only(storage: Storage, caplog):
    written(storage, range(3))
    storage.delete(f"{FOLDER}/{EventPage(1, 2).name}")
    with caplog.at_level(logging.WARNING):
        assert told(storage) == [0, 2]
    assert "missing" in caplog.text


def test_a_page_is_not_bound_without_its_neighbours(storage: Storage):
    shelf = written(storage, range(3))
    storage.delete(f"{FOLDER}/{shelf[0][0].name}")
    with pytest.raises(Transient, match="does not exist, so it cannot be merged"):
        event_pages.merge_pages(storage, FOLDER, [shelf[0][0], shelf[1][0]])
    assert told(storage) == [1, 2]


# -- the run log ------------------------------------------------------------------------------------------------------


def event(number: int, what: str = "finished", job: str = "a") -> Event:
    return Event(float(number), job, number, None, "generate", what, 1.0, "")


def test_a_finished_run_lies_in_two_pages(storage: Storage, monkeypatch):
    monkeypatch.setattr(run_log, "FLUSH_EVENTS", 1)
    monkeypatch.setattr(event_pages, "PAGES_PER_MERGE", 4)
    with RunLog.begin(storage, {}) as log:
        folder = f"runs/{log.run}/events"
        for number in range(30):
            log.event(event(number))
            while len(read_events(storage, log.run)) <= number:
                pass  # each event gets a page of its own
            assert [row["segment"] for row in read_events(storage, log.run)] == list(range(number + 1))
            assert len(storage.list(folder)) <= 9 + 4  # bound pages, and a few that are not deleted yet
        log.finish({})
        assert storage.list(folder) == ["000000-000029.parquet", "000029.parquet"]
    assert [row["segment"] for row in read_events(storage, log.run)] == list(range(30))


def test_pages_that_could_not_be_deleted_are_deleted_later(storage: Storage, monkeypatch, caplog):
    monkeypatch.setattr(run_log, "FLUSH_EVENTS", 1)
    delete, refused = storage.delete, []

    def once(name: str) -> None:
        if not refused:
            refused.append(name)
            raise Transient("the bucket is on holiday")
        delete(name)

    monkeypatch.setattr(storage, "delete", once)
    log = RunLog.begin(storage, {})
    folder = f"runs/{log.run}/events"
    for number in range(3):
        log.event(event(number))
        while len(storage.list(folder)) <= number:
            pass
    with caplog.at_level(logging.WARNING):
        log.finish({"done": {}})  # the run has ended well whatever becomes of its pages
    assert "on holiday" in caplog.text
    assert len(refused) == 1
    assert set(storage.list(folder)) == {"000000-000002.parquet", "000000.parquet", "000001.parquet", "000002.parquet"}
    assert len(read_events(storage, log.run)) == 3


def test_an_empty_log_has_its_columns(storage: Storage):
    with RunLog.begin(storage, {}) as log:
        assert read_events(storage, log.run) == []
        assert read_table(storage, log.run, ["what", "job"]).column_names == ["what", "job"]


# -- how jobs stand ---------------------------------------------------------------------------------------------------


def test_jobs_are_counted(storage: Storage):
    told = [
        Event(1, "a", None, None, "ingest", "reused", None, ""),
        Event(2, "a", 0, None, "generate", "started", None, ""),
        Event(3, "a", 0, 0, "generate", "window", 2.0, "1/2"),
        Event(4, "a", 0, 1, "generate", "window", 2.0, "2/2"),
        Event(5, "a", 0, None, "generate", "finished", 4.5, ""),
        Event(5, "b", None, None, "ingest", "started", None, ""),
        Event(6, "a", 1, None, "generate", "finished", 1.0, ""),
        Event(7, "a", None, None, "", "job_done", None, "films/a.mp4"),
        Event(8, "c", None, None, "ingest", "failed", None, "no"),
        Event(8, "c", None, None, "ingest", "job_failed", None, "no"),
    ]
    with RunLog.begin(storage, {}) as log:
        for one in told:
            log.event(one)
    assert job_statuses(storage, log.run, ["waits", "c", "b", "a"]) == {
        "waits": JobStatus(),
        "c": JobStatus("failed", "ingest"),
        "b": JobStatus("running", "ingest"),
        "a": JobStatus("done", "generate", segments=2, windows=2, made=2, reused=1, seconds=5.5),
    }
    assert list(job_statuses(storage, log.run, ["b"])) == ["b", "a", "c"]
    assert done_jobs(storage, log.run) == {"a"}


def test_a_run_without_events_has_jobs_that_wait(storage: Storage, tmp_path: Path):
    with RunLog.begin(storage, {}) as log:
        pass
    assert job_statuses(storage, log.run, ["a"]) == {"a": JobStatus()}
    assert done_jobs(storage, log.run) == set()
