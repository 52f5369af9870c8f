"""`dub gc`: finds and removes files that no commit names, unfinished writes, and what killed processes left on this node.

Results are never removed. Nothing in use is removed: the folder of a result is skipped while any file in it is younger than the grace period,
since a stage call writes into that folder. A file that no commit names any more is never named again, so garbage collection is safe beside
running drivers, and several at once remove the same files.
"""

import json
import logging
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from infinitedub.pipeline.storage.scratch import orphaned_folders, remove_scratch
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.pipeline.storage.stores.store import ListedFile
from infinitedub.pipeline.storage.weights import copies_folder, remove_copy, unused_copies

log = logging.getLogger(__name__)

FOLDERS_AT_ONCE = 16
ENTRY = re.compile(r"(_commit|_window\.\d{5,})(?:\.(\d+))?\.json")  # of a chain of the ledger; the second group is its generation


class GarbageKind(StrEnum):
    """Why something may be removed."""

    UNNAMED = "unnamed"  # of a result: stored by an attempt that was killed or committed second, or withdrawn
    CHECKPOINT = "checkpoint"  # motion frames, from which the next window of a segment would start, of finished segments
    UNFINISHED = "unfinished"  # partial files, and multipart uploads that were not completed
    SCRATCH = "scratch"  # scratch folders of killed processes on this node's disk
    WEIGHTS = "weights"  # copies of weights on this node's disk, not used for the grace period


@dataclass(frozen=True, slots=True)
class Garbage:
    """Files that were removed, or would be."""

    kind: GarbageKind
    location: str  # a name under the storage root, a URI, or a path on this node
    files: int
    bytes: int


def collect_garbage(storage: Storage, grace_seconds: float, *, checkpoints: bool, dry_run: bool) -> Iterator[Garbage]:
    """Yields all garbage older than the grace period, removing it unless it is a dry run.

    `checkpoints`: also the window checkpoints of finished segments, which only a forced rerun of some of their windows needs. Memory does not
    grow with the number of files. Raises ConfigError or Transient if the storage fails; the next collection finds what is left.
    """
    before = storage.now() - grace_seconds
    yield from _collect_results(storage, before, checkpoints, dry_run)
    for upload in storage.unfinished_uploads():
        if upload.time < before:
            if not dry_run:
                storage.abort_upload(upload)
            yield Garbage(GarbageKind.UNFINISHED, upload.path, 1, upload.bytes)
    yield from _collect_node(storage, time.time() - grace_seconds, dry_run)


def _collect_results(storage: Storage, before: float, checkpoints: bool, dry_run: bool) -> Iterator[Garbage]:
    folders = (f"cas/{stage}/{prefix}" for stage in storage.list("cas") for prefix in storage.list(f"cas/{stage}"))
    with ThreadPoolExecutor(FOLDERS_AT_ONCE) as threads:
        while batch := list(islice(folders, FOLDERS_AT_ONCE)):
            for found in threads.map(lambda folder: list(_collect_folder(storage, folder, before, checkpoints, dry_run)), batch):
                yield from found


def _collect_folder(storage: Storage, folder: str, before: float, checkpoints: bool, dry_run: bool) -> Iterator[Garbage]:
    """Garbage in one of the 256 folders of a stage."""
    for key, listed in groupby(storage.scan(folder), lambda file: file.name.partition("/")[0]):
        files = [ListedFile(file.name.partition("/")[2], file.bytes, file.time) for file in listed]
        if any(file.time >= before for file in files):
            continue
        result = f"{folder}/{key}"
        for kind, attempt, unneeded in _unneeded_files(storage, result, files, checkpoints):
            if not dry_run:
                for file in unneeded:
                    storage.delete(f"{result}/{file.name}")
                storage.remove_empty_folders(f"{result}/{attempt}")
            yield Garbage(kind, f"{result}/{attempt}", len(unneeded), sum(file.bytes for file in unneeded))


def _unneeded_files(
    storage: Storage, result: str, files: Sequence[ListedFile], checkpoints: bool
) -> Iterator[tuple[GarbageKind, str, list[ListedFile]]]:
    """Of the files of one result those that are not needed, by attempt."""
    attempts: dict[str, list[ListedFile]] = defaultdict(list)
    entries: list[str] = []
    for file in files:
        attempt, _, rest = file.name.partition("/")
        if rest:
            attempts[attempt].append(file)
        else:
            entries.append(file.name)
    last = last_entries(entries)
    if len(attempts) == 1 and "_commit.json" in last and len(last) == len(entries) and not checkpoints:
        return  # the usual case: one attempt and no withdrawal, so reading its commit is not worth a request
    if not attempts:
        return
    named = {name: _named_files(storage.read(f"{result}/{name}"), result) for name in last}
    if unreadable := [name for name, names in named.items() if names is None]:
        log.warning("%s: %s cannot be read, so it is unknown which files are needed; all are kept", result, ", ".join(unreadable))
        return
    needed = {name for names in named.values() for name in names or ()}
    committed = next((names for name, names in named.items() if name.startswith("_commit") and names), None)
    for attempt, stored in attempts.items():
        if unnamed := [file for file in stored if file.name not in needed]:
            yield GarbageKind.UNNAMED, attempt, unnamed
        if checkpoints and committed and (spent := [file for file in stored if file.name in needed - committed]):
            yield GarbageKind.CHECKPOINT, attempt, spent


def last_entries(names: Iterable[str]) -> list[str]:
    """The last entry of each chain of the ledger, and every file that is not an entry of a chain."""
    chains: dict[str, tuple[int, str]] = {}
    for name in names:
        match = ENTRY.fullmatch(name)
        chain, generation = (match[1], int(match[2] or 0)) if match else (name, 0)
        chains[chain] = max(chains.get(chain, (-1, "")), (generation, name))
    return [name for _, name in chains.values()]


def _named_files(entry: bytes | None, result: str) -> set[str] | None:
    """The files of the result that an entry names, whatever its record type; None if it cannot be read.

    Only the end of a URI counts, since the storage root may be mounted elsewhere on another node.
    """
    try:
        content = json.loads(entry or b"")
    except ValueError:
        return None
    return {text.partition(f"{result}/")[2] for text in _texts(content) if f"{result}/" in text} if isinstance(content, dict) else None


def _texts(value: Any) -> Iterator[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _collect_node(storage: Storage, before: float, dry_run: bool) -> Iterator[Garbage]:
    """Garbage on this node's disk. On other nodes the next stage call removes scratch folders."""
    for folder in orphaned_folders(Path(storage.settings.cache) / "calls"):
        yield _folder_garbage(GarbageKind.SCRATCH, folder)
        if not dry_run:
            remove_scratch(folder)
    for copy in unused_copies(copies_folder(storage), before):
        yield _folder_garbage(GarbageKind.WEIGHTS, copy)
        if not dry_run:
            remove_copy(copy)


def _folder_garbage(kind: GarbageKind, folder: Path) -> Garbage:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return Garbage(kind, str(folder), len(sizes), sum(sizes))
