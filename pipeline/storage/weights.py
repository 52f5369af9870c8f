"""The files of the models: what they are, for keys, and how they come to a node."""

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

from infinitedub.pipeline.state.content_keys import weights_digest
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.pipeline.storage.uris import locate
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.weights.paths import BUNDLED, resolve_weights
from infinitedub.stages.settings import Place, Settings

S = TypeVar("S", bound=Settings)

DOWNLOADS_AT_ONCE = 8


def digest_of(storage: Storage, settings: Settings) -> str:
    """One digest of all files that the settings name; empty where they name none. Raises ConfigError for a place where nothing is."""
    places = list(_places(settings))  # in the order of the fields: which LoRA has which scale is told by its place alone
    if not places:
        return ""
    digests = [weights_digest(storage, str(resolve_weights(place)) if _is_local(place) else place) for place in places]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def check_weights(storage: Storage, settings: Settings, digest: str) -> None:
    """Raises ConfigError where the files that the settings name are not those of `digest`: what they made would bear another model's name."""
    if digest_of(storage, settings) != digest:
        raise ConfigError(
            f"on {platform.node()} the weights in {', '.join(_places(settings))} are not those that this run began with; lay the same files "
            f"on every node, and where they were replaced on purpose, run again: what the others make is another film"
        )


def on_this_node(storage: Storage, settings: S) -> S:
    """The same settings with every weight that lies elsewhere replaced by a copy on this node's disk, made once for all its processes."""
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
    """Where on a node the copies lie."""
    return Path(storage.settings.cache) / "weights"


def unused_copies(home: Path, before: float) -> Iterator[Path]:
    """Copies under `home`, whole or broken off, that were last used before that moment (seconds since 1970), each locked while the caller has it."""
    for lock in home.glob("*.lock"):
        with suppress(BlockingIOError), open(lock) as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for copy in (lock.with_suffix(""), lock.with_suffix(".part")):
                if copy.exists() and copy.stat().st_mtime < before:
                    yield copy


def remove_copy(copy: Path) -> None:
    """Takes a locked copy away. Processes that have its files open keep them; half a copy is never taken for a whole one."""
    part = copy.with_suffix(".part")
    if copy != part:
        rmtree(part, ignore_errors=True)
        copy.rename(part)
    rmtree(part, ignore_errors=True)


def _places(settings: Settings) -> Iterator[str]:
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if Place.WEIGHTS in field.metadata:
            yield value
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Settings):
                yield from _places(item)


def _is_local(place: str) -> bool:
    return place.startswith(BUNDLED) or locate(place)[0] == "file"


def _copy(storage: Storage, uri: str) -> Path:
    """A folder or file at `uri`, on this node. Named by what is there now, so that a changed model is another copy."""
    files = storage.walk(uri)
    name = hashlib.sha256(json.dumps([uri, {part: [stat.bytes, stat.version] for part, stat in sorted(files.items())}]).encode()).hexdigest()
    home = copies_folder(storage)
    home.mkdir(parents=True, exist_ok=True)
    whole, part = home / name, home / f"{name}.part"
    with _alone(home / f"{name}.lock"):  # the ranks of a gang ask at once
        if not whole.exists():
            rmtree(part, ignore_errors=True)
            part.mkdir()
            with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as threads:
                list(threads.map(lambda file: _download(storage, uri, file, part), files))
            part.rename(whole)
        os.utime(whole)  # used now: `dub gc` takes away what has long been unused
    return whole / Path(uri).name if "" in files else whole


def _download(storage: Storage, uri: str, file: str, folder: Path) -> None:
    target = folder / (file or Path(uri).name)
    target.parent.mkdir(parents=True, exist_ok=True)
    storage.download(f"{uri.rstrip('/')}/{file}" if file else uri, target)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
