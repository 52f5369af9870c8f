"""Digest of a model's weight files, as part of content keys: a retrained model is another model, whatever its path."""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from infinitedub.pipeline.storage.storage import Storage
from infinitedub.pipeline.storage.stores.store import FileStat

WHOLE_BYTES = 64 << 20
SAMPLES = 64
SAMPLE_BYTES = 64 << 10
TENSOR_BYTES = 4 << 10
FILES_AT_ONCE = 8
READS_AT_ONCE = 8
MAX_HEADER_BYTES = 100_000_000  # of a safetensors file, by its specification
NOT_WEIGHTS = (".md", ".py", ".pyc", ".part")


def weights_digest(storage: Storage, uri: str) -> str:
    """Hex sha256 of a model: every file of the folder by name and content; hidden, Markdown and Python files do not count. Raises ConfigError.

    A file of up to 64 MiB is read whole. A larger one counts by its size and 64 samples of 64 KiB, evenly spaced from its first bytes to its
    last; a large safetensors file also by its header and the middle 4 KiB of each tensor. This detects every training step, also one that
    changed few tensors. It does not detect a few bytes changed on purpose between two samples.
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
def _file_digest(storage: Storage, uri: str, stat: FileStat) -> str:
    digest = hashlib.sha256(str(stat.bytes).encode())
    with ThreadPoolExecutor(READS_AT_ONCE) as threads:
        for data in threads.map(lambda span: storage.read_range(uri, *span), _spans(storage, uri, stat.bytes)):
            digest.update(data)
    return digest.hexdigest()


def _spans(storage: Storage, uri: str, size: int) -> Iterator[tuple[int, int]]:
    """The byte ranges of a weight file that its digest reads."""
    if size <= WHOLE_BYTES:
        yield 0, size
        return
    if uri.endswith(".safetensors"):
        header = min(MAX_HEADER_BYTES, size, 8 + int.from_bytes(storage.read_range(uri, 0, 8), "little"))
        yield 0, header
        for begin, end in _tensor_ranges(storage.read_range(uri, 8, header)):
            start = header + max(begin, (begin + end - TENSOR_BYTES) // 2)
            if (stop := min(start + TENSOR_BYTES, header + end, size)) > start:
                yield start, stop
    for number in range(SAMPLES):
        start = (size - SAMPLE_BYTES) * number // (SAMPLES - 1)
        yield start, start + SAMPLE_BYTES


def _tensor_ranges(header: bytes) -> list[tuple[int, int]]:
    """Byte ranges of the tensors of a safetensors file, relative to the end of its header; invalid entries are left out."""
    try:
        entries = json.loads(header)
        ranges = [entry["data_offsets"] for name, entry in entries.items() if name != "__metadata__"]
        return [(begin, end) for begin, end in ranges if isinstance(begin, int) and isinstance(end, int) and 0 <= begin < end]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []  # loading the weights raises a clear error
