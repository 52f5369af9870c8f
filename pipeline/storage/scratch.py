"""Scratch folders on this node's disk, removed when their call ends, or by the next call if its process was killed."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from infinitedub.stages.errors import ConfigError

LOCK = ".lock"


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder under `parent`. Also removes the folders of killed processes, whose locks ended with them.

    Raises ConfigError if `parent` cannot be created.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{parent} cannot be created on this node ({error.strerror}); set storage.cache to a folder on its own disk") from error
    for orphan in orphaned_folders(parent):
        remove_scratch(orphan)
    folder, lock = _new_locked(parent)
    try:
        folder.mkdir()
        yield folder
    finally:
        remove_scratch(folder)
        os.close(lock)


def orphaned_folders(parent: Path) -> Iterator[Path]:
    """The folders under `parent` whose processes have ended, each locked while the caller handles it."""
    for lock in parent.glob(f"*{LOCK}"):
        with suppress(FileNotFoundError, BlockingIOError, PermissionError), lock.open() as file:  # removed, in use, of another user
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield lock.with_suffix("")


def remove_scratch(folder: Path) -> None:
    """Removes a folder that is not in use. The lock file goes last, so that what could not be removed is found again."""
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        folder.with_suffix(LOCK).unlink(missing_ok=True)


def _new_locked(parent: Path) -> tuple[Path, int]:
    """A name for a new folder, and the file descriptor of its lock, which is held."""
    while True:
        folder = parent / uuid4().hex
        lock = os.open(folder.with_suffix(LOCK), os.O_CREAT | os.O_RDWR, 0o666)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.with_suffix(LOCK).exists():  # otherwise another process has removed it before it was locked
            return folder, lock
        os.close(lock)
