"""What nobody will ever ask for again, and taking it away: files that no commit names, writes broken off, what dead processes left on this node.

Results themselves stay for ever. Nothing is taken that anybody may be using: a result's folder is left alone while anything in it is younger
than the grace period, since whoever works on it writes into it. What a commit has ceased to name is never named again, so sweeping beside
live runs, or several times at once, takes away the same things and no others.
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

from infinitedub.pipeline.storage.scratch import abandoned, remove
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.pipeline.storage.stores.store import Found
from infinitedub.pipeline.storage.weights import copies_folder, remove_copy, unused_copies

log = logging.getLogger(__name__)

AT_ONCE = 16
ENTRY = re.compile(r"(_commit|_window\.\d{5,})(?:\.(\d+))?\.json")  # of a chain in the ledger; the second group is its generation


class Kind(StrEnum):
    """Why something may go."""

    UNNAMED = "unnamed"  # kept by an attempt that was killed or came second, or of a result that was withdrawn or made anew
    CHECKPOINT = "checkpoint"  # what the next window of a segment would have started from, now that the segment is done
    UNFINISHED = "unfinished"  # half-written files, multipart uploads that nobody completed
    SCRATCH = "scratch"  # on this node's disk: of processes that were killed
    WEIGHTS = "weights"  # on this node's disk: copies that nobody has used for the grace period


@dataclass(frozen=True, slots=True)
class Garbage:
    """Something that was taken away, or would be."""

    kind: Kind
    place: str  # a name under the root, a URI, or a path on this node
    files: int
    bytes: int


def sweep(storage: Storage, grace_seconds: float, *, checkpoints: bool, dry_run: bool) -> Iterator[Garbage]:
    """Everything older than the grace period that nobody needs, taken away as it is given, unless it is a dry run.

    `checkpoints`: also what segments that are done would need to be made anew from one of their windows on. Memory does not grow with
    the number of files. Raises ConfigError or Transient where the storage fails; what is left is found the next time.
    """
    before = storage.now() - grace_seconds
    yield from _sweep_results(storage, before, checkpoints, dry_run)
    for write in storage.unfinished():
        if write.time < before:
            if not dry_run:
                storage.discard(write)
            yield Garbage(Kind.UNFINISHED, write.path, 1, write.bytes)
    yield from _sweep_node(storage, time.time() - grace_seconds, dry_run)


def _sweep_results(storage: Storage, before: float, checkpoints: bool, dry_run: bool) -> Iterator[Garbage]:
    places = (f"cas/{stage}/{fan}" for stage in storage.list("cas") for fan in storage.list(f"cas/{stage}"))
    with ThreadPoolExecutor(AT_ONCE) as threads:
        while some := list(islice(places, AT_ONCE)):
            for swept in threads.map(lambda place: list(_sweep_place(storage, place, before, checkpoints, dry_run)), some):
                yield from swept


def _sweep_place(storage: Storage, place: str, before: float, checkpoints: bool, dry_run: bool) -> Iterator[Garbage]:
    """One of the 256 folders of a stage."""
    for key, found in groupby(storage.scan(place), lambda file: file.name.partition("/")[0]):
        files = [Found(file.name.partition("/")[2], file.bytes, file.time) for file in found]
        if any(file.time >= before for file in files):
            continue
        home = f"{place}/{key}"
        for kind, attempt, surplus in _surplus(storage, home, files, checkpoints):
            if not dry_run:
                for file in surplus:
                    storage.delete(f"{home}/{file.name}")
                storage.tidy(f"{home}/{attempt}")
            yield Garbage(kind, f"{home}/{attempt}", len(surplus), sum(file.bytes for file in surplus))


def _surplus(storage: Storage, home: str, files: Sequence[Found], checkpoints: bool) -> Iterator[tuple[Kind, str, list[Found]]]:
    """What of the files of one result is not needed, by attempt."""
    attempts: dict[str, list[Found]] = defaultdict(list)
    entries: list[str] = []
    for file in files:
        attempt, _, rest = file.name.partition("/")
        if rest:
            attempts[attempt].append(file)
        else:
            entries.append(file.name)
    last = last_entries(entries)
    if len(attempts) == 1 and "_commit.json" in last and len(last) == len(entries) and not checkpoints:
        return  # the rule: one attempt made it, and nobody has had to come back; not worth a request per result
    if not attempts:
        return
    named = {name: _named(storage.read(f"{home}/{name}"), home) for name in last}
    if unread := [name for name, names in named.items() if names is None]:
        log.warning("%s: %s cannot be read, so nothing is known of the files there, and they are left", home, ", ".join(unread))
        return
    needed = {name for names in named.values() for name in names or ()}
    done = next((names for name, names in named.items() if name.startswith("_commit") and names), None)
    for attempt, kept in attempts.items():
        if unnamed := [file for file in kept if file.name not in needed]:
            yield Kind.UNNAMED, attempt, unnamed
        if checkpoints and done and (spent := [file for file in kept if file.name in needed - done]):
            yield Kind.CHECKPOINT, attempt, spent


def last_entries(names: Iterable[str]) -> list[str]:
    """Of each chain of the ledger the entry that holds, and whatever is no entry of a chain."""
    chains: dict[str, tuple[int, str]] = {}
    for name in names:
        match = ENTRY.fullmatch(name)
        chain, generation = (match[1], int(match[2] or 0)) if match else (name, 0)
        chains[chain] = max(chains.get(chain, (-1, "")), (generation, name))
    return [name for _, name in chains.values()]


def _named(entry: bytes | None, home: str) -> set[str] | None:
    """The files under `home` that an entry speaks of, whatever its record looks like; None where it makes no sense.

    Places are told by their end: the same root may be mounted elsewhere on another node.
    """
    try:
        told = json.loads(entry or b"")
    except ValueError:
        return None
    return {text.partition(f"{home}/")[2] for text in _texts(told) if f"{home}/" in text} if isinstance(told, dict) else None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _sweep_node(storage: Storage, before: float, dry_run: bool) -> Iterator[Garbage]:
    """Other nodes see to their scratch folders with their next call."""
    for folder in abandoned(Path(storage.settings.cache) / "calls"):
        yield _swept(Kind.SCRATCH, folder)
        if not dry_run:
            remove(folder)
    for copy in unused_copies(copies_folder(storage), before):
        yield _swept(Kind.WEIGHTS, copy)
        if not dry_run:
            remove_copy(copy)


def _swept(kind: Kind, folder: Path) -> Garbage:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return Garbage(kind, str(folder), len(sizes), sum(sizes))
