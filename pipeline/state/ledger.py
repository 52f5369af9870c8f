"""What has been done, and by which attempt: the commits of stage results. Nothing else is believed."""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from infinitedub.pipeline.storage.storage import Storage

log = logging.getLogger(__name__)

CHECKS_AT_ONCE = 16


def folder_of(stage: str, key: str) -> str:
    """Where everything about a result lies; 256 ways so that listing and load spread."""
    return f"cas/{stage}/{key[:2]}/{key}"


class Ledger:
    """Commits in create-only files: a chain `_commit.json`, `_commit.1.json`, ... per result, in which the last entry holds.

    An entry is a record, or the withdrawal of what was there. It is followed by another where it is withdrawn, cannot be read, or names files that
    have gone. Entries are never changed or deleted: without one of them what follows it would not be found.

    Files lie under the attempt that made them and are never overwritten, so it does not matter who wins: any commit is whole. A loser takes
    the winner's record and leaves its own files where they are, since on a server that does not create exclusively (Swift) a reader
    may have been told of them already.

    `part` is the number of a piece of the result, committed while the whole is still being made: `_window.00003.json` and its chain.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def find(self, stage: str, key: str, type_: Any, part: int | None = None) -> Any | None:
        """The committed record of the given type; None where there is no sound one."""
        last = self._last(stage, key, part, 0)[1]
        return None if last is None else self._sound(last, type_, _about(stage, key, part))

    def commit(self, stage: str, key: str, attempt: str, record: Any, part: int | None = None) -> Any:
        """The record that holds for this key from now on: the given one, or that of whoever was first."""
        type_ = _type_of(record)
        entry = {"attempt": attempt, **_now(), "record": TypeAdapter(type_).dump_python(record, mode="json")}
        generation = 0
        while True:
            generation, last = self._last(stage, key, part, generation)
            other = None if last is None else self._sound(last, type_, _about(stage, key, part))
            if other is not None:
                log.info("%s was committed by another attempt; its result is taken", _about(stage, key, part))
                return other
            if self._storage.create(_name(stage, key, part, generation), _json(entry)):
                return record

    def withdraw(self, stage: str, key: str, type_: Any, reason: str, part: int | None = None, *, once: str = "") -> bool:
        """Lets nobody find the record any more that is found now, so that it is made anew. False where there is none.

        `once`: a name under which this is done a single time, and noted also where there is nothing yet: what has been made since then stays,
        and it is False.
        """
        entry = {**_now(), "withdrawn": reason, **({"once": once} if once else {})}
        generation = 0
        while True:
            generation, last = self._last(stage, key, part, generation)
            if once and self.has_withdrawn(stage, key, part, once=once):
                return False
            if not once and (last is None or self._sound(last, type_, _about(stage, key, part)) is None):
                return False
            if self._storage.create(_name(stage, key, part, generation), _json(entry)):
                return True

    def has_withdrawn(self, stage: str, key: str, part: int | None = None, *, once: str) -> bool:
        """Whether something was withdrawn here under that name."""
        generation = self._last(stage, key, part, 0)[0]
        return any(self._once(_name(stage, key, part, earlier)) == once for earlier in range(generation))

    def _once(self, name: str) -> str | None:
        """The name under which an entry withdraws what was there, if it has one."""
        try:
            told = json.loads(self._storage.read(name) or b"")
        except ValueError:
            return None
        return told.get("once") if isinstance(told, dict) else None

    def _last(self, stage: str, key: str, part: int | None, generation: int) -> tuple[int, bytes | None]:
        """The number of the chain's next entry, and what the last one says; `generation`: one at or before the end."""
        last = None if generation == 0 else self._storage.read(_name(stage, key, part, generation - 1))
        while (data := self._storage.read(_name(stage, key, part, generation))) is not None:
            last = data
            generation += 1
        return generation, last

    def _sound(self, data: bytes, type_: Any, about: str) -> Any | None:
        """The record of an entry, if it still means what it says and its files are there."""
        adapter: TypeAdapter[Any] = TypeAdapter(type_)
        try:
            entry = json.loads(data)
            if "withdrawn" in entry:
                return None
            stored = entry["record"]
            record = adapter.validate_json(json.dumps(stored), strict=True)
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            log.warning("%s: the commit cannot be read and is passed over: %s", about, error)
            return None
        if adapter.dump_python(record, mode="json") != stored:
            log.warning("%s: the commit is of another version of its record and is passed over", about)
            return None
        for gone in self._gone(record):
            log.warning("%s: the commit is passed over: %s", about, gone)
            return None
        return record

    def _gone(self, record: Any) -> list[str]:
        files = sorted(set(_files(record)))
        with ThreadPoolExecutor(CHECKS_AT_ONCE) as threads:
            found = threads.map(lambda file: self._storage.stat(file[0]), files)
            return [
                f"{uri} is not there" if stat is None else f"{uri} has {stat.bytes} bytes where {size} were kept"
                for (uri, size), stat in zip(files, found, strict=True)
                if stat is None or stat.bytes != size
            ]


def _name(stage: str, key: str, part: int | None, generation: int) -> str:
    what = "_commit" if part is None else f"_window.{part:05d}"
    return f"{folder_of(stage, key)}/{what}{f'.{generation}' if generation else ''}.json"


def _about(stage: str, key: str, part: int | None) -> str:
    return f"{stage} {key}" if part is None else f"{stage} {key} window {part}"


def _now() -> dict[str, str]:
    return {"time": datetime.now(UTC).isoformat()}


def _json(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, indent=1, allow_nan=False).encode()


def _files(record: Any) -> Iterator[tuple[str, int]]:
    """Place and size of every file a record speaks of, however deep: whatever has a `uri` and `bytes`."""
    if isinstance(record, tuple | list):
        for item in record:
            yield from _files(item)
    elif isinstance(record, dict):
        yield from _files(tuple(record.values()))
    elif is_dataclass(record) and not isinstance(record, type):
        parts = {field.name: getattr(record, field.name) for field in fields(record)}
        if "uri" in parts and "bytes" in parts:
            yield parts["uri"], parts["bytes"]
        yield from _files(tuple(parts.values()))


def _type_of(record: Any) -> Any:
    """The type to read a record back with."""
    if isinstance(record, tuple):
        return tuple[type(record[0]), ...] if record else tuple[()]  # type: ignore[misc]
    return type(record)
