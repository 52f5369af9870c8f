"""The run log: what was asked, what happened, what failed, how it ended. The driver is its only writer; `dub status` and `dub rerun` read it.

runs/<id>/run.json             what was asked
runs/<id>/events/000000.parquet, ...   what happened, a page every few seconds, bound together as they become many
runs/<id>/dead/<job>.json      a dead letter per failed job
runs/<id>/summary.json         how it ended; not there while it goes on, or where the driver was killed
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
from infinitedub.pipeline.state.event_pages import Page
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.errors import BadInput, ConfigError, Transient

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
FLUSH_EVENTS = 5000
AT_ONCE = 16
RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job."""

    time: float  # seconds since 1970
    job: str
    segment: int | None
    window: int | None
    stage: str  # empty for the job as a whole
    what: str  # started | finished | reused | failed | window | job_done | job_failed
    seconds: float | None
    detail: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", legible(self.detail))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Why a job got no film, and how to try it alone."""

    job: str
    stage: str
    segment: int | None
    kind: str  # of failure: whether the input, the storage, a worker or the code is to blame
    reason: str
    attempts: int
    trace: str  # the end of the traceback
    repro: str  # a command

    def __post_init__(self) -> None:
        for name in ("reason", "trace"):
            object.__setattr__(self, name, legible(getattr(self, name)))


class RunLog:
    """Takes events at once and writes them in the background, so that a slow server does not slow the run. Leaving its `with` writes the rest, if
    the storage takes it: `finish` has told of it where it does not."""

    def __init__(self, storage: Storage, run: str) -> None:
        self.run = run
        self._folder = f"runs/{run}/events"
        self._storage = storage
        self._events: list[Event] = []
        self._letters: list[DeadLetter] = []  # that the storage has refused so far
        self._pages: list[tuple[Page, int]] = []  # with their bytes
        self._spent: list[Page] = []  # that are bound into others, and to be deleted
        self._closed = False
        self._changed = Condition()
        self._writer = Thread(target=self._write_on, name="run log", daemon=True)
        self._writer.start()

    @classmethod
    def begin(cls, storage: Storage, record: Mapping[str, Any]) -> Self:
        """A new run, such as 20261121-070512-3fa2: date, time in UTC, and the fraction of the second in hex, so that ids sort by age."""
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
        """Notes it down; it is in the storage a few seconds later."""
        with self._changed:
            self._events.append(event)
            if len(self._events) >= FLUSH_EVENTS:
                self._changed.notify()

    def dead_letter(self, letter: DeadLetter) -> None:
        """Writes it at once; where the storage fails it waits with the events."""
        try:
            self._send(letter)
        except (Transient, ConfigError) as error:
            log.warning("run %s: the dead letter of %s waits for the storage: %s", self.run, letter.job, error)
            with self._changed:
                self._letters.append(letter)

    def dead_letters(self, letters: Iterable[DeadLetter]) -> None:
        """Writes them with the events."""
        with self._changed:
            self._letters += letters

    def _send(self, letter: DeadLetter) -> None:
        self._storage.put(f"runs/{self.run}/dead/{_file_name(letter.job)}", _json(asdict(letter)))

    def discard(self) -> None:
        """Removes the run from the log, as if it had never begun: nothing was started. `run.json` goes last."""
        self.close()
        home = f"runs/{self.run}"
        for folder in (f"{home}/events", f"{home}/dead"):
            for name in self._storage.list(folder):
                self._storage.delete(f"{folder}/{name}")
            self._storage.tidy(folder)
        self._storage.delete(f"{home}/run.json")
        self._storage.tidy(home)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes what is left, and how it ended. Raises Transient or ConfigError where the storage fails to the last."""
        self.close()
        self._storage.put(f"runs/{self.run}/summary.json", _json({"run": self.run, "ended": datetime.now(UTC).isoformat(), **summary}))
        try:
            self._bind(ended=True)
        except (Transient, ConfigError) as error:  # they can be read as they are
            log.warning("run %s: its pages stay unbound: %s", self.run, error)

    def close(self) -> None:
        """Writes what is left. Raises Transient or ConfigError where the storage fails to the last."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._writer.join()
        self._flush()

    def _write_on(self) -> None:
        while not self._closed:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or len(self._events) >= FLUSH_EVENTS, FLUSH_SECONDS)
            try:
                self._flush()
                self._bind(ended=False)
            except (Transient, ConfigError) as error:
                log.warning("run %s: %d events and %d pages wait for the storage: %s", self.run, len(self._events), len(self._pages), error)
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, FLUSH_SECONDS)

    def _flush(self) -> None:
        with self._changed:
            events, letters = list(self._events), list(self._letters)
        if events:
            columns = {field.name: [getattr(event, field.name) for event in events] for field in fields(Event)}
            number = self._pages[-1][0].stop if self._pages else 0
            self._pages.append(event_pages.write(self._storage, self._folder, number, columns))
            with self._changed:
                del self._events[: len(events)]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(self._send, letters))
        with self._changed:
            del self._letters[: len(letters)]

    def _bind(self, *, ended: bool) -> None:
        while several := event_pages.to_bind(self._pages, ended=ended):
            bound = event_pages.bind(self._storage, self._folder, several)
            self._spent += several
            self._pages = sorted([*(kept for kept in self._pages if kept[0] not in several), bound])
        while self._spent:
            self._storage.delete(f"{self._folder}/{self._spent[-1].name}")
            self._spent.pop()


def runs(storage: Storage) -> list[str]:
    """Ids of all runs, the latest last."""
    return [name for name in storage.list("runs") if RUN_ID.fullmatch(name)]


def latest_run(storage: Storage) -> str | None:
    """Id of the run begun last, if there is one; a folder in which nothing was asked is that of a driver killed in its first instant."""
    return next((run for run in reversed(runs(storage)) if storage.read(f"runs/{run}/run.json") is not None), None)


def read_run(storage: Storage, run: str) -> dict[str, Any]:
    """What was asked. Raises BadInput for an unknown run."""
    data = storage.read(f"runs/{_known(run)}/run.json")
    if data is None:
        raise BadInput(f"there is no run {run} under {storage.root}; the latest are: {', '.join(runs(storage)[-5:]) or 'none'}")
    return cast(dict[str, Any], json.loads(data))


def read_summary(storage: Storage, run: str) -> dict[str, Any] | None:
    """How it ended; None while it goes on, or where its driver was killed."""
    data = storage.read(f"runs/{_known(run)}/summary.json")
    return None if data is None else cast(dict[str, Any], json.loads(data))


def read_table(storage: Storage, run: str, columns: list[str] | None = None) -> "pa.Table":
    """What happened so far, in order, without an object for each event: the columns asked for, by default all of `Event`."""
    return event_pages.read(storage, f"runs/{_known(run)}/events", columns)


def read_events(storage: Storage, run: str) -> list[dict[str, Any]]:
    """What happened so far, in order; keys as in `Event`. For runs of hundreds of thousands of segments rather `read_table`."""
    return cast(list[dict[str, Any]], read_table(storage, run).to_pylist())


def read_dead(storage: Storage, run: str) -> list[DeadLetter]:
    """The dead letters, by job."""
    return [DeadLetter(**json.loads(letter)) for letter in _read_all(storage, f"runs/{_known(run)}/dead")]


def _read_all(storage: Storage, folder: str) -> list[bytes]:
    names = storage.list(folder)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        found = threads.map(lambda name: storage.read(f"{folder}/{name}"), names)
        return [data for data in found if data is not None]


def legible(text: str) -> str:
    """Text that can be written and shown anywhere: bytes of a file name or a server's answer that are no UTF-8 are told by their escapes."""
    return text.encode(errors="backslashreplace").decode()


def _json(record: Mapping[str, Any]) -> bytes:
    """Bytes of a command line that are no UTF-8 come back as they were: their escapes are JSON's, too."""
    return json.dumps(record, indent=1, ensure_ascii=False).encode(errors="backslashreplace")


def _file_name(job: str) -> str:
    """Ids are checked when the catalogue is read; this holds whoever calls."""
    return f"{quote(job, safe='')}.json"


def _known(run: str) -> str:
    """The id, which may come from a command line, if it is safe as part of a name."""
    if not RUN_ID.fullmatch(run):
        raise BadInput(f"{run!r} is not the id of a run; they look like 20261121-070512-3fa2")
    return run
