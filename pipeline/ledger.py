"""What has been done, and by which attempt: the commits of stage results. Nothing else is believed."""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipeline.storage import Storage

log = logging.getLogger(__name__)

CHECKS_AT_ONCE = 16


def folder_of(stage: str, key: str) -> str:
    """Where everything about a result lies; 256 ways so that listing and load spread."""
    return f"cas/{stage}/{key[:2]}/{key}"


class Ledger:
    """Commits in create-only files: `_commit.json`, then `_commit.1.json` where the files behind it have gone, and so on. The first sound one holds.

    Files lie under the attempt that made them and are never overwritten, so it does not matter who wins: any commit is whole. A loser takes
    the winner's record and leaves its own files where they are, since on a server that does not create exclusively (Swift) a reader
    may have been told of them already.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def find(self, stage: str, key: str, type_: Any) -> Any | None:
        """The committed record of the given type; None where there is no sound one."""
        generation = 0
        while (data := self._storage.read(_name(stage, key, generation))) is not None:
            record = self._sound(data, type_, f"{stage} {key}")
            if record is not None:
                return record
            generation += 1
        return None

    def commit(self, stage: str, key: str, attempt: str, record: Any) -> Any:
        """The record that holds for this key from now on: the given one, or that of whoever was first."""
        type_ = _type_of(record)
        entry = {"attempt": attempt, "time": datetime.now(UTC).isoformat(), "record": TypeAdapter(type_).dump_python(record, mode="json")}
        data = json.dumps(entry, indent=1, allow_nan=False).encode()
        generation = 0
        while not self._storage.create(_name(stage, key, generation), data):
            found = self._storage.read(_name(stage, key, generation))
            if found is None:  # taken away by hand at this moment
                continue
            other = self._sound(found, type_, f"{stage} {key}")
            if other is not None:
                log.info("%s %s was committed by another attempt; its result is taken", stage, key)
                return other
            generation += 1
        return record

    def _sound(self, data: bytes, type_: Any, about: str) -> Any | None:
        """The record of a commit, if it still means what it says and its files are there."""
        adapter: TypeAdapter[Any] = TypeAdapter(type_)
        try:
            stored = json.loads(data)["record"]
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


def _name(stage: str, key: str, generation: int) -> str:
    return f"{folder_of(stage, key)}/_commit{f'.{generation}' if generation else ''}.json"


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
