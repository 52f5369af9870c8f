"""Content keys: equal keys, equal results."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

from infinitedub.pipeline.storage.storage import Storage
from infinitedub.pipeline.storage.stores.store import Stat
from infinitedub.stages.records import Artifact

WHOLE_BYTES = 64 << 20
SAMPLES = 64
SAMPLE_BYTES = 64 << 10
TENSOR_BYTES = 4 << 10
FILES_AT_ONCE = 8
READS_AT_ONCE = 8
MAX_HEADER_BYTES = 100_000_000  # of a safetensors file, by its format
NOT_WEIGHTS = (".md", ".py", ".pyc", ".part")


def key_of(stage: str, version: int, records: tuple[Any, ...], deciding: Mapping[str, Any], extra: Mapping[str, Any]) -> str:
    """Hex sha256 of all that decides a stage's result: what it is given, how it is set, and `extra` such as digests of weights.

    An artifact counts by what it holds, not by where it lies: when a stage is done again and makes the same bytes, all that follows is found.
    """
    parts = {"stage": stage, "version": version, "records": _plain(records), "settings": _plain(deciding), "extra": _plain(extra)}
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def identity(storage: Storage, uri: str) -> str:
    """What an input is, without reading it: place, size, and time of change or ETag. Raises BadInput where it is not there."""
    found = storage.stat_input(uri)
    return f"{uri} {found.bytes} {found.version}"


def weights_digest(storage: Storage, uri: str) -> str:
    """Hex sha256 of a model: every file of the folder by name and content; hidden ones, Markdown and Python do not count. Raises ConfigError.

    A file of up to 64 MiB is read whole. A larger one counts by its size, 64 samples of 64 KiB from the first bytes to the last, and where it is
    a safetensors file also by its header and the middle 4 KiB of each tensor: any training step shows, also one that moved few of the
    tensors; a few bytes changed on purpose between two samples do not.
    """
    files = {
        name: (f"{uri.rstrip('/')}/{name}" if name else uri, stat)
        for name, stat in sorted(storage.walk(uri).items())
        if not name.endswith(NOT_WEIGHTS) and not any(part.startswith(".") for part in name.split("/"))
    }
    with ThreadPoolExecutor(FILES_AT_ONCE) as threads:
        digests = threads.map(lambda file: _file_digest(storage, *file), files.values())
        return hashlib.sha256(json.dumps(dict(zip(files, digests, strict=True)), sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=4096)
def _file_digest(storage: Storage, uri: str, stat: Stat) -> str:
    digest = hashlib.sha256(str(stat.bytes).encode())
    with ThreadPoolExecutor(READS_AT_ONCE) as threads:
        for data in threads.map(lambda span: storage.read_range(uri, *span), _spans(storage, uri, stat.bytes)):
            digest.update(data)
    return digest.hexdigest()


def _spans(storage: Storage, uri: str, size: int) -> Iterator[tuple[int, int]]:
    """The bytes of a file of weights that stand for it."""
    if size <= WHOLE_BYTES:
        yield 0, size
        return
    if uri.endswith(".safetensors"):
        header = min(MAX_HEADER_BYTES, size, 8 + int.from_bytes(storage.read_range(uri, 0, 8), "little"))
        yield 0, header
        for begin, end in _tensors(storage.read_range(uri, 8, header)):
            start = header + max(begin, (begin + end - TENSOR_BYTES) // 2)
            if (stop := min(start + TENSOR_BYTES, header + end, size)) > start:
                yield start, stop
    for number in range(SAMPLES):
        start = (size - SAMPLE_BYTES) * number // (SAMPLES - 1)
        yield start, start + SAMPLE_BYTES


def _tensors(header: bytes) -> list[tuple[int, int]]:
    """Where the tensors of a safetensors file lie behind its header, by what it says; those that it tells wrongly are left out."""
    try:
        told = json.loads(header)
        places = [entry["data_offsets"] for name, entry in told.items() if name != "__metadata__"]
        return [(begin, end) for begin, end in places if isinstance(begin, int) and isinstance(end, int) and 0 <= begin < end]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []  # whoever loads it will complain


def _plain(value: Any) -> Any:
    """JSON of a record: fields by name, enums by value, tuples as lists. Raises TypeError for what has no one way to be written."""
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
