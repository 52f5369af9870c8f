"""Folders on this node's disk that go away with the call they were made for, or with its process."""

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
    """A new folder under `parent`. A killed process cannot tidy up, so whoever comes next does: its lock has gone with it.

    Raises ConfigError where `parent` can be no folder.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{parent} cannot be made on this node ({error.strerror}); set storage.cache to a folder on its own disk") from error
    for left in abandoned(parent):
        remove(left)
    folder, held = _locked(parent)
    try:
        folder.mkdir()
        yield folder
    finally:
        remove(folder)
        os.close(held)


def abandoned(parent: Path) -> Iterator[Path]:
    """The folders under `parent` whose processes have gone, each locked while the caller has it."""
    for lock in parent.glob(f"*{LOCK}"):
        with suppress(FileNotFoundError, BlockingIOError, PermissionError), lock.open() as held:  # gone, in use, somebody else's
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield lock.with_suffix("")


def remove(folder: Path) -> None:
    """Takes a folder away that nobody works in any more. Its lock goes last, so that what could not be taken away is found again."""
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        folder.with_suffix(LOCK).unlink(missing_ok=True)


def _locked(parent: Path) -> tuple[Path, int]:
    """A name for a new folder, and its lock, held."""
    while True:
        folder = parent / uuid4().hex
        held = os.open(folder.with_suffix(LOCK), os.O_CREAT | os.O_RDWR, 0o666)
        fcntl.flock(held, fcntl.LOCK_EX)
        if folder.with_suffix(LOCK).exists():  # else somebody swept in the instant before it was locked
            return folder, held
        os.close(held)
