"""LoRAs, merged permanently into the weights while these are loaded.

A LoRA holds low-rank updates, each the product of two matrices (`lora_down`/`lora_up`, or `lora_A`/`lora_B`), and full-weight updates: `diff` of a
weight, `diff_b` of a bias, `diff_m` of a block's modulation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.weights.checkpoint import Checkpoint, SafetensorsCheckpoint
from infinitedub.stages.model.weights.keymap import Translate
from infinitedub.stages.model.weights.load import describe_fault

PREFIXES = ("diffusion_model.", "transformer.")
LOW_RANK_SUFFIXES = ((".lora_down.weight", ".lora_up.weight"), (".lora_A.weight", ".lora_B.weight"))
FULL_WEIGHT_SUFFIXES = {".diff": ".weight", ".diff_b": ".bias", ".diff_m": ".modulation"}


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """scale * up @ down, in the shape of the weight to which it is added."""

    checkpoint: Checkpoint
    down: str
    up: str
    scale: float

    @property
    def shape(self) -> torch.Size:
        return torch.Size([self.checkpoint.shape(self.up)[0], *self.checkpoint.shape(self.down)[1:]])

    def add_to(self, weight: Tensor) -> Tensor:
        down, up = (self.checkpoint.read(name).to(weight).flatten(1) for name in (self.down, self.up))
        return weight + self.scale * (up @ down).view(weight.shape)


@dataclass(frozen=True, slots=True)
class FullWeightUpdate:
    """scale * difference."""

    checkpoint: Checkpoint
    name: str
    scale: float

    @property
    def shape(self) -> torch.Size:
        return self.checkpoint.shape(self.name)

    def add_to(self, weight: Tensor) -> Tensor:
        return weight + self.scale * self.checkpoint.read(self.name).to(weight)


@dataclass(frozen=True)
class Lora:
    """The updates of one LoRA, by the names of the network's parameters."""

    location: str
    updates: tuple[tuple[str, LowRankUpdate | FullWeightUpdate], ...]

    def merge(self, name: str, value: Tensor) -> Tensor:
        for updated, update in self.updates:
            if updated == name:
                value = update.add_to(value)
        return value

    def check_shapes(self, shapes: Mapping[str, torch.Size]) -> None:
        """Raises ConfigError if an update has no parameter of its name and shape."""
        unmatched = [f"{name} {tuple(update.shape)}" for name, update in self.updates if shapes.get(name) != update.shape]
        if unmatched:
            raise ConfigError(f"LoRA {self.location} does not fit the transformer: {describe_fault('without a parameter of that shape', unmatched)}")


def open_lora(path: Path, strength: float, translate: Translate, compat_upstream: bool) -> Lora:
    """The LoRA of the safetensors file `path`, times `strength`; `translate` maps upstream's names.

    If a module has an `alpha`, its low-rank update is scaled by alpha / rank; compat_upstream ignores alpha, as the release does. Raises ConfigError
    for tensors that are not understood.
    """
    checkpoint = SafetensorsCheckpoint([path])
    names = set(checkpoint)
    updates: list[tuple[str, LowRankUpdate | FullWeightUpdate]] = []
    understood: set[str] = set()

    for name in sorted(names):
        if low_rank := match_low_rank(name):
            module, down, up, alpha = low_rank
            if up not in names:
                continue
            scale = strength
            if alpha in names and not compat_upstream:
                scale *= float(checkpoint.read(alpha)) / checkpoint.shape(down)[0]
            updates.append((network_name(module, ".weight", translate), LowRankUpdate(checkpoint, down, up, scale)))
            understood |= {down, up, alpha}
        elif full_weight := match_full_weight(name):
            module, parameter = full_weight
            updates.append((network_name(module, parameter, translate), FullWeightUpdate(checkpoint, name, strength)))
            understood.add(name)

    if unknown := sorted(names - understood):
        raise ConfigError(f"LoRA {path}: {describe_fault('not understood', unknown)}")
    return Lora(str(path), tuple(updates))


def match_low_rank(name: str) -> tuple[str, str, str, str] | None:
    """The module, both matrices and alpha of the low-rank update whose first matrix is `name`; None if `name` is no such matrix."""
    for down, up in LOW_RANK_SUFFIXES:
        if name.endswith(down):
            module = name.removesuffix(down)
            return module, name, module + up, f"{module}.alpha"
    return None


def match_full_weight(name: str) -> tuple[str, str] | None:
    """The module and parameter of the full-weight update `name`; None if `name` is no such update."""
    for suffix, parameter in FULL_WEIGHT_SUFFIXES.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix), parameter
    return None


def network_name(module: str, parameter: str, translate: Translate) -> str:
    """The network's name of a parameter whose module has an upstream name or the network's own."""
    for prefix in PREFIXES:
        module = module.removeprefix(prefix)
    targets = translate(module + parameter)
    return targets[0] if targets else module + parameter
