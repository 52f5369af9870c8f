"""What tests of every kind may ask for."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml

# Read when torch is first imported. Tests that run ranks in threads would else start cores times ranks threads, which wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from infinitedub.pipeline.storage.sources import SourceSettings
from infinitedub.pipeline.storage.storage import Storage, StorageSettings

# The same examples on every machine, however slow it is; `pytest --hypothesis-profile=search` looks for new ones.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("search", max_examples=2000, deadline=None)
hypothesis.settings.load_profile("same")

CONF = Path(__file__).resolve().parents[1] / "conf"


@pytest.fixture
def storage_settings(tmp_path: Path) -> StorageSettings:
    """The shipped settings, with everything in a folder of the test."""
    values = yaml.safe_load((CONF / "storage" / "local.yaml").read_text())
    return StorageSettings(**{**values, "root": str(tmp_path / "root"), "cache": str(tmp_path / "node"), "attempts": 2})


@pytest.fixture
def storage(storage_settings: StorageSettings) -> Storage:
    """A storage in a folder of the test."""
    return Storage(storage_settings)


@pytest.fixture
def storage_with(storage_settings: StorageSettings) -> Callable[..., Storage]:
    """A storage with other rules for sources than the shipped ones."""

    def made(**rules: Any) -> Storage:
        sources = SourceSettings(**{**storage_settings.sources.model_dump(), **rules})
        return Storage(storage_settings.model_copy(update={"sources": sources}))

    return made
