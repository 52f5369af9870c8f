"""Content keys: equal keys mean equal results."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.records import Artifact


def key_of(stage: str, version: int, records: tuple[Any, ...], deciding: Mapping[str, Any], extra: Mapping[str, Any]) -> str:
    """Hex sha256 of everything that decides a stage's result: its input records, its deciding settings, and `extra` such as digests of weights.

    An artifact counts by its content, not by its URI: if a stage runs again and makes the same bytes, the results of all later stages are found.
    """
    parts = {"stage": stage, "version": version, "records": _plain(records), "settings": _plain(deciding), "extra": _plain(extra)}
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def source_fingerprint(storage: Storage, uri: str) -> str:
    """Identifies the content of a source without reading it: URI, size, and time of modification or ETag. Raises BadInput if it does not exist."""
    stat = storage.stat_input(uri)
    return f"{uri} {stat.bytes} {stat.version}"


def _plain(value: Any) -> Any:
    """A record as JSON values: fields by name, enums by value, tuples as lists. Raises TypeError for types without a unique representation."""
    if isinstance(value, Artifact):
        return {"sha256": value.sha256, "bytes": value.bytes, "kind": value.kind}
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _plain(item) for name, item in value.items()}
    raise TypeError(f"a content key cannot be made of {type(value).__name__}: {value!r}")
