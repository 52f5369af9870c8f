"""The weight files that settings name: their digest, which is part of content keys, and their copies on a node's disk."""

import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from typing import Any, TypeVar

from infinitedub.pipeline.storage.storage import Storage
from infinitedub.pipeline.storage.uris import parse_uri
from infinitedub.pipeline.storage.weights_digest import weights_digest
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.weights.paths import is_bundled, resolve_weights
from infinitedub.stages.settings import Place, Settings

S = TypeVar("S", bound=Settings)

DOWNLOADS_AT_ONCE = 8


def digest_of(storage: Storage, settings: Settings) -> str:
    """One digest of all weight files that the settings name; empty if they name none. Raises ConfigError if one of them does not exist."""
    uris = list(_weight_uris(settings))  # in the order of the fields, since only the position says which LoRA has which scale
    if not uris:
        return ""
    digests = [weights_digest(storage, str(resolve_weights(uri)) if _is_local(uri) else uri) for uri in uris]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def check_weights(storage: Storage, settings: Settings, digest: str) -> None:
    """Raises ConfigError unless the files that the settings name have this digest: results are stored under its content keys."""
    if digest_of(storage, settings) != digest:
        raise ConfigError(
            f"on {platform.node()} the weights in {', '.join(_weight_uris(settings))} differ from those that this run began with; put the same files "
            f"on every node; if they were replaced on purpose, start a new run, which makes its films with the new weights"
        )


def on_this_node(storage: Storage, settings: S) -> S:
    """The settings with every remote weight URI replaced by a copy on this node's disk, downloaded once for all its processes."""
    changed: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            changed[name] = on_this_node(storage, value)
        elif isinstance(value, tuple) and value and isinstance(value[0], Settings):
            changed[name] = tuple(on_this_node(storage, item) for item in value)
        elif Place.WEIGHTS in field.metadata and not _is_local(value):
            changed[name] = str(_copy(storage, value))
    return settings.model_copy(update=changed) if changed else settings


def copies_folder(storage: Storage) -> Path:
    """The folder of the copies on each node."""
    return Path(storage.settings.cache) / "weights"


def unused_copies(folder: Path, before: float) -> Iterator[Path]:
    """Complete and partial copies last used before that time (seconds since 1970), each locked while the caller handles it."""
    for lock in folder.glob("*.lock"):
        with suppress(BlockingIOError), open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for copy in (lock.with_suffix(""), lock.with_suffix(".part")):
                if copy.exists() and copy.stat().st_mtime < before:
                    yield copy


def remove_copy(copy: Path) -> None:
    """Removes a locked copy. Processes that have its files open keep them; a copy that is half removed is never used."""
    part = copy.with_suffix(".part")
    if copy != part:
        rmtree(part, ignore_errors=True)
        copy.rename(part)
    rmtree(part, ignore_errors=True)


def _weight_uris(settings: Settings) -> Iterator[str]:
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if Place.WEIGHTS in field.metadata:
            yield value
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Settings):
                yield from _weight_uris(item)


def _is_local(uri: str) -> bool:
    return is_bundled(uri) or parse_uri(uri)[0] == "file"


def _copy(storage: Storage, uri: str) -> Path:
    """The local copy of a folder or file. It is named by the sizes and versions of its files, so that a changed model becomes another copy."""
    files = storage.walk(uri)
    name = hashlib.sha256(json.dumps([uri, {part: [stat.bytes, stat.version] for part, stat in sorted(files.items())}]).encode()).hexdigest()
    folder = copies_folder(storage)
    folder.mkdir(parents=True, exist_ok=True)
    whole, part = folder / name, folder / f"{name}.part"
    with _locked(folder / f"{name}.lock"):  # the ranks of a gang call this at the same time
        if not whole.exists():
            rmtree(part, ignore_errors=True)
            part.mkdir()
            with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as threads:
                list(threads.map(lambda file: _download(storage, uri, file, part), files))
            part.rename(whole)
        os.utime(whole)  # `dub gc` removes copies that have not been used for its grace period
    return whole / Path(uri).name if "" in files else whole


def _download(storage: Storage, uri: str, file: str, folder: Path) -> None:
    target = folder / (file or Path(uri).name)
    target.parent.mkdir(parents=True, exist_ok=True)
    storage.download(f"{uri.rstrip('/')}/{file}" if file else uri, target)


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
