"""The run log: how a run was started, its events, its dead letters, how it ended. Only the driver writes it; `dub status` and `dub rerun` read it.

runs/<id>/run.json             how the run was started: configuration, overrides, jobs
runs/<id>/events/000000.parquet, ...   events, a page every few seconds; the pages are merged as they become many
runs/<id>/dead/<job>.json      a dead letter per failed job
runs/<id>/summary.json         how the run ended; does not exist while it goes on, or if the driver was killed
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from threading import Condition, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import quote

from infinitedub.pipeline.state import event_pages
from infinitedub.pipeline.state.event_pages import EventPage, UnreadablePage
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.errors import BadInput, ConfigError, Transient

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
FLUSH_EVENTS = 5000
REQUESTS_AT_ONCE = 16
RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a job."""

    time: float  # seconds since 1970
    job: str
    segment: int | None
    window: int | None
    stage: str  # empty for the job as a whole
    what: str  # started | finished | reused | failed | window | job_done | job_failed
    seconds: float | None
    detail: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", printable(self.detail))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Why a job has no film, and the command that repeats it alone."""

    job: str
    stage: str
    segment: int | None
    kind: str  # the failure class, such as input, transient or code
    reason: str
    attempts: int
    trace: str  # the end of the traceback
    repro: str  # a command that repeats the job

    def __post_init__(self) -> None:
        for name in ("reason", "trace"):
            object.__setattr__(self, name, printable(getattr(self, name)))


class RunLog:
    """Queues events and writes them in a background thread, so that a slow server does not slow the run down. Leaving its `with` block writes
    the remaining ones; if the storage fails then, that is only logged, since `finish` raises the error."""

    def __init__(self, storage: Storage, run: str) -> None:
        self.run = run
        self._folder = f"runs/{run}/events"
        self._storage = storage
        self._events: list[Event] = []
        self._letters: list[DeadLetter] = []  # not written yet
        self._pages: list[tuple[EventPage, int]] = []  # with their sizes in bytes
        self._merged: list[EventPage] = []  # into others, and to be deleted
        self._closed = self._discarded = False
        self._changed = Condition()
        self._writer = Thread(target=self._write_loop, name="run log", daemon=True)
        self._writer.start()

    @classmethod
    def begin(cls, storage: Storage, record: Mapping[str, Any]) -> Self:
        """Starts a run. Its id, such as 20261121-070512-3fa2, is the date, the UTC time and the fraction of the second in hex, so ids sort by age."""
        while True:
            now = datetime.now(UTC)
            run = f"{now:%Y%m%d-%H%M%S}-{now.microsecond * 65536 // 1_000_000:04x}"
            if storage.create(f"runs/{run}/run.json", _json({"run": run, "started": now.isoformat(), **record})):
                return cls(storage, run)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.close()
        except (Transient, ConfigError) as failure:
            log.warning("run %s: %d events and %d dead letters are not in its log: %s", self.run, len(self._events), len(self._letters), failure)

    def event(self, event: Event) -> None:
        """Queues an event; it is written a few seconds later."""
        with self._changed:
            self._events.append(event)
            if len(self._events) >= FLUSH_EVENTS:
                self._changed.notify()

    def dead_letter(self, letter: DeadLetter) -> None:
        """Writes a dead letter immediately; if the storage fails, it is written with the next events."""
        try:
            self._put_letter(letter)
        except (Transient, ConfigError) as error:
            log.warning("run %s: the dead letter of %s is not written yet: %s", self.run, letter.job, error)
            with self._changed:
                self._letters.append(letter)

    def dead_letters(self, letters: Iterable[DeadLetter]) -> None:
        """Writes dead letters with the next events."""
        with self._changed:
            self._letters += letters

    def _put_letter(self, letter: DeadLetter) -> None:
        self._storage.put(f"runs/{self.run}/dead/{_file_name(letter.job)}", _json(asdict(letter)))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes the remaining events and the summary. Raises Transient or ConfigError if the storage still fails."""
        self.close()
        self._storage.put(f"runs/{self.run}/summary.json", _json({"run": self.run, "ended": datetime.now(UTC).isoformat(), **summary}))
        try:
            self._merge_pages(ended=True)
        except Exception as error:  # noqa: BLE001 - the log is complete; readers read unmerged pages as well
            log.warning("run %s: its pages are not merged: %s", self.run, error)

    def discard(self) -> None:
        """Removes the run completely, for a run that was refused before it began. `run.json` goes last: until then the run can be listed.

        If the storage fails, that is only logged, since the run ends with the error that refused it.
        """
        self._discarded = True
        self._stop_writer()
        folder = f"runs/{self.run}"
        try:
            for name in [*(f"{part}/{file}" for part in ("events", "dead") for file in self._storage.list(f"{folder}/{part}")), "summary.json"]:
                self._storage.delete(f"{folder}/{name}")
            for part in ("events", "dead"):
                self._storage.remove_empty_folders(f"{folder}/{part}")
            self._storage.delete(f"{folder}/run.json")
            self._storage.remove_empty_folders(folder)
        except (Transient, ConfigError) as error:
            log.warning("run %s was refused, but its log could not be removed: %s", self.run, error)

    def close(self) -> None:
        """Writes the remaining events. Raises Transient or ConfigError if the storage still fails."""
        self._stop_writer()
        self._flush()

    def _stop_writer(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._writer.join()

    def _write_loop(self) -> None:
        while not self._closed:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or len(self._events) >= FLUSH_EVENTS, FLUSH_SECONDS)
            try:
                self._flush()
                self._merge_pages(ended=False)
            except Exception as error:  # noqa: BLE001 - the thread must live: events queued later are written by no one else
                log.warning("run %s: %d events are not written yet: %s: %s", self.run, len(self._events), type(error).__name__, error)
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, FLUSH_SECONDS)

    def _flush(self) -> None:
        if self._discarded:
            return
        with self._changed:
            events, letters = list(self._events), list(self._letters)
        if events:
            columns = {field.name: [getattr(event, field.name) for event in events] for field in fields(Event)}
            number = self._pages[-1][0].stop if self._pages else 0
            self._pages.append(event_pages.write_page(self._storage, self._folder, number, columns))
            with self._changed:
                del self._events[: len(events)]
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
            list(threads.map(self._put_letter, letters))
        with self._changed:
            del self._letters[: len(letters)]

    def _merge_pages(self, *, ended: bool) -> None:
        while pages := event_pages.pages_to_merge(self._pages, ended=ended):
            try:
                merged = event_pages.merge_pages(self._storage, self._folder, pages)
            except UnreadablePage as error:
                log.warning("run %s: %s; it is left as it is", self.run, error)
                # As a page of full size it is not merged again.
                self._pages = [(page, event_pages.MERGED_BYTES + 1 if page == error.page else size) for page, size in self._pages]
                continue
            self._merged += pages
            self._pages = sorted([*(kept for kept in self._pages if kept[0] not in pages), merged])
        while self._merged:
            self._storage.delete(f"{self._folder}/{self._merged[-1].name}")
            self._merged.pop()


def runs(storage: Storage) -> list[str]:
    """Ids of all runs, the latest last."""
    return [name for name in storage.list("runs") if RUN_ID.fullmatch(name)]


def latest_run(storage: Storage) -> str | None:
    """Id of the run that was started last; None if there is none. A folder without run.json is that of a driver killed while it started."""
    return next((run for run in reversed(runs(storage)) if storage.read(f"runs/{run}/run.json") is not None), None)


def read_run(storage: Storage, run: str) -> dict[str, Any]:
    """How the run was started. Raises BadInput for an unknown run."""
    data = storage.read(f"runs/{_checked_id(run)}/run.json")
    if data is None:
        raise BadInput(f"there is no run {run} under {storage.root}; the latest are: {', '.join(runs(storage)[-5:]) or 'none'}")
    return cast(dict[str, Any], json.loads(data))


def read_summary(storage: Storage, run: str) -> dict[str, Any] | None:
    """How the run ended; None while it goes on, or if its driver was killed."""
    data = storage.read(f"runs/{_checked_id(run)}/summary.json")
    return None if data is None else cast(dict[str, Any], json.loads(data))


def read_table(storage: Storage, run: str, columns: list[str] | None = None) -> "pa.Table":
    """The events so far, in order, as an Arrow table with the given columns, by default all of `Event`."""
    return event_pages.read_pages(storage, f"runs/{_checked_id(run)}/events", columns)


def read_events(storage: Storage, run: str) -> list[dict[str, Any]]:
    """The events so far, in order; keys as in `Event`. For runs of hundreds of thousands of segments use `read_table`."""
    return cast(list[dict[str, Any]], read_table(storage, run).to_pylist())


def read_dead_letters(storage: Storage, run: str) -> list[DeadLetter]:
    """The dead letters, sorted by job."""
    letters = []
    for data in _read_all(storage, f"runs/{_checked_id(run)}/dead"):
        try:
            letters.append(DeadLetter(**json.loads(data)))
        except (ValueError, TypeError) as error:
            log.warning("run %s: a dead letter cannot be read and is left out: %s", run, error)
    return letters


def _read_all(storage: Storage, folder: str) -> list[bytes]:
    names = storage.list(folder)
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
        found = threads.map(lambda name: storage.read(f"{folder}/{name}"), names)
        return [data for data in found if data is not None]


def printable(text: str) -> str:
    """Text that can be encoded as UTF-8: bytes of a file name or of a server's response that are not UTF-8 become backslash escapes."""
    return text.encode(errors="backslashreplace").decode()


def _json(record: Mapping[str, Any]) -> bytes:
    """Bytes of a command line that are not UTF-8 survive a round trip, since their backslash escapes are JSON escapes too."""
    return json.dumps(record, indent=1, ensure_ascii=False).encode(errors="backslashreplace")


def _file_name(job: str) -> str:
    """Safe for any job id, although the catalogue allows only safe ones."""
    return f"{quote(job, safe='')}.json"


def _checked_id(run: str) -> str:
    """The id, which may come from the command line. Raises BadInput unless it can be part of a path."""
    if not RUN_ID.fullmatch(run):
        raise BadInput(f"{run!r} is not the id of a run; wanted one such as 20261121-070512-3fa2")
    return run
