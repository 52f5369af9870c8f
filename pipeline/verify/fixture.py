"""A fixture on disk: named tensors, and a JSON file with sizes and settings beside them."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.weights.checkpoint import InMemoryCheckpoint


@dataclass(frozen=True)
class Fixture:
    """Inputs and outputs of the original code."""

    path: Path  # of the safetensors file

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path)

    @cached_property
    def about(self) -> dict[str, Any]:
        """The JSON file. Raises ConfigError if it is missing."""
        path = self.path.with_suffix(".json")
        if not path.is_file():
            raise ConfigError(f"{path}: missing; it holds the fixture's sizes and settings")
        return json.loads(path.read_text(encoding="utf-8"))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ConfigError(f"{self.path}: has no tensor {name}, which the format of the fixtures requires")
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def weights(self, prefix: str) -> InMemoryCheckpoint:
        """The tensors whose names begin with `prefix`, without it."""
        return InMemoryCheckpoint(
            f"{self.path} ({prefix}*)", {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}
        )


def find_fixtures(folder: Path) -> tuple[Fixture, ...]:
    """Every safetensors file of `folder`, by name. Raises ConfigError if there is no such folder."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; `dub verify` needs a folder with golden tensors")
    return tuple(Fixture(path) for path in sorted(folder.glob("*.safetensors")))
