"""Runs of the past: where they are looked for, and which one is meant."""

from collections.abc import Sequence

from launch.compose import checked, compose
from pipeline.events import latest_run
from pipeline.storage import Storage
from stages.errors import ConfigError


def find_run(run: str | None, overrides: Sequence[str]) -> tuple[Storage, str]:
    """The storage that `overrides` name, and the run that is asked for there, by default the latest. Raises ConfigError where there is none."""
    storage = Storage(checked(compose(["catalogue=none", *overrides])).storage)
    found = run or latest_run(storage)
    if found is None:
        raise ConfigError(f"no run under {storage.root} yet; say where with storage.root=URI, or start one with dub run")
    return storage, found
