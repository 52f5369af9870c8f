"""Folders on this node's disk that go away with the call they were made for, or with its process."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from stages.errors import ConfigError

LOCK = ".lock"


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder under `parent`. A killed process cannot tidy up, so whoever comes next does: its lock has gone with it.

    Raises ConfigError where `parent` can be no folder.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{parent} cannot be made on this node ({error.strerror}); set storage.cache to a folder on its own disk") from error
    _sweep(parent)
    folder = parent / uuid4().hex
    lock = folder.with_suffix(LOCK)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _sweep(parent: Path) -> None:
    for lock in parent.glob(f"*{LOCK}"):
        with suppress(FileNotFoundError, BlockingIOError), lock.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink()
