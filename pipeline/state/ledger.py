"""The ledger: which stage results are committed, and by which attempt. A result without a commit does not count."""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.errors import BadInput, ConfigError

log = logging.getLogger(__name__)

CHECKS_AT_ONCE = 16


def folder_of(stage: str, key: str) -> str:
    """The folder of a result, under the storage root. 256 parent folders per stage spread listings and load."""
    return f"cas/{stage}/{key[:2]}/{key}"


class Ledger:
    """Commits in create-only files: a chain `_commit.json`, `_commit.1.json`, ... per result. The last entry of a chain is valid.

    An entry holds a record, or withdraws the entry before. Another entry follows if it is withdrawn, cannot be read, or names files that no
    longer exist. Entries are never changed or deleted: a reader would not find the entries after a missing one.

    Files are stored under the attempt that made them and are never overwritten, so every commit is complete, whichever attempt is first. A later
    attempt adopts the record of the first one. It leaves its own files in place, since on a server that does not create exclusively (Swift) a
    reader may have got its record already.

    `part` is the number of a part of the result that is committed before the whole: `_window.00003.json` and its chain.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def find(self, stage: str, key: str, type_: Any, part: int | None = None) -> Any | None:
        """The committed record of the given type; None if there is none, or if it is invalid."""
        last = self._last_entry(stage, key, part, 0)[1]
        return None if last is None else self._valid_record(last, type_, _label(stage, key, part))

    def commit(self, stage: str, key: str, attempt: str, record: Any, part: int | None = None) -> Any:
        """Commits the record unless another attempt has committed one. Returns the record that is valid from now on."""
        type_ = _type_of(record)
        entry = {"attempt": attempt, **_timestamp(), "record": _adapter(type_).dump_python(record, mode="json")}
        generation = 0
        while True:
            generation, last = self._last_entry(stage, key, part, generation)
            other = None if last is None else self._valid_record(last, type_, _label(stage, key, part))
            if other is not None:
                log.info("%s was committed by another attempt; its record is adopted", _label(stage, key, part))
                return other
            if self._storage.create(_name(stage, key, part, generation), _json(entry)):
                return record

    def withdraw(self, stage: str, key: str, type_: Any, reason: str, part: int | None = None, *, withdrawal: str = "") -> bool:
        """Withdraws the committed record, so that the result is made again. Returns whether it did; False if there is no record.

        `withdrawal`: an id under which a result is withdrawn at most once. It is also noted if there is no record. If the chain holds it
        already, records committed since then stay, and the result is False.
        """
        entry = {**_timestamp(), "withdrawn": reason, **({"once": withdrawal} if withdrawal else {})}
        generation = 0
        while True:
            generation, last = self._last_entry(stage, key, part, generation)
            if withdrawal and self.has_withdrawn(stage, key, part, withdrawal=withdrawal):
                return False
            if not withdrawal and (last is None or self._valid_record(last, type_, _label(stage, key, part)) is None):
                return False
            if self._storage.create(_name(stage, key, part, generation), _json(entry)):
                return True

    def has_withdrawn(self, stage: str, key: str, part: int | None = None, *, withdrawal: str) -> bool:
        """Whether the chain holds a withdrawal with that id."""
        generation = self._last_entry(stage, key, part, 0)[0]
        return any(self._withdrawal_id(_name(stage, key, part, earlier)) == withdrawal for earlier in range(generation))

    def _withdrawal_id(self, name: str) -> str | None:
        """The id of the withdrawal in an entry, if it has one."""
        try:
            entry = json.loads(self._storage.read(name) or b"")
        except ValueError:
            return None
        return entry.get("once") if isinstance(entry, dict) else None

    def _last_entry(self, stage: str, key: str, part: int | None, generation: int) -> tuple[int, bytes | None]:
        """The number of the chain's next entry, and the bytes of its last. `generation`: where to begin, at most the number of entries."""
        last = None if generation == 0 else self._storage.read(_name(stage, key, part, generation - 1))
        while (data := self._storage.read(_name(stage, key, part, generation))) is not None:
            last = data
            generation += 1
        return generation, last

    def _valid_record(self, data: bytes, type_: Any, label: str) -> Any | None:
        """The record of an entry; None if it is withdrawn, cannot be read, or names files that do not exist as they were stored."""
        adapter = _adapter(type_)
        try:
            entry = json.loads(data)
            if "withdrawn" in entry:
                return None
            stored = entry["record"]
            record = adapter.validate_json(json.dumps(stored), strict=True)
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            log.warning("%s: the commit is ignored because it cannot be read: %s", label, error)
            return None
        if adapter.dump_python(record, mode="json") != stored:
            log.warning("%s: the commit is ignored because it holds another version of its record", label)
            return None
        with ThreadPoolExecutor(CHECKS_AT_ONCE) as threads:
            problems = [problem for problem in threads.map(self._file_problem, sorted(set(_files(record)))) if problem]
        if problems:
            log.warning("%s: the commit is ignored: %s", label, problems[0])
            return None
        return record

    def _file_problem(self, file: tuple[str, int]) -> str:
        """Why a file, given by URI and size, is not the one that was stored; empty if it is."""
        uri, size = file
        try:
            stat = self._storage.stat(uri)
        except BadInput as error:  # an empty or unprintable URI: the entry is damaged
            return str(error)
        except ConfigError as error:
            if uri.startswith(f"{self._storage.root}/"):
                self._storage.read("cas/_commit.json")  # raises if the storage cannot be used at all, and not just this file
            return str(error)  # an impossible name, an unknown scheme, or a location that this run was not configured for
        if stat is None:
            return f"{uri} does not exist"
        return "" if stat.bytes == size else f"{uri} has {stat.bytes} bytes; wanted {size}"


@lru_cache(maxsize=256)
def _adapter(type_: Any) -> TypeAdapter[Any]:
    """Built once per type: that takes up to a millisecond, and a large run looks up hundreds of thousands of results."""
    return TypeAdapter(type_)


def _name(stage: str, key: str, part: int | None, generation: int) -> str:
    chain = "_commit" if part is None else f"_window.{part:05d}"
    return f"{folder_of(stage, key)}/{chain}{f'.{generation}' if generation else ''}.json"


def _label(stage: str, key: str, part: int | None) -> str:
    return f"{stage} {key}" if part is None else f"{stage} {key} window {part}"


def _timestamp() -> dict[str, str]:
    return {"time": datetime.now(UTC).isoformat()}


def _json(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, indent=1, allow_nan=False).encode()


def _files(record: Any) -> Iterator[tuple[str, int]]:
    """URI and size of every file that a record names at any depth: of every dataclass with the fields `uri` and `bytes`."""
    if isinstance(record, tuple | list):
        for item in record:
            yield from _files(item)
    elif isinstance(record, dict):
        yield from _files(tuple(record.values()))
    elif is_dataclass(record) and not isinstance(record, type):
        values = {field.name: getattr(record, field.name) for field in fields(record)}
        if "uri" in values and "bytes" in values:
            yield values["uri"], values["bytes"]
        yield from _files(tuple(values.values()))


def _type_of(record: Any) -> Any:
    """The type with which a record is read back."""
    if isinstance(record, tuple):
        return tuple[type(record[0]), ...] if record else tuple[()]  # type: ignore[misc]
    return type(record)
