"""LoRAs, merged for good into the weights while these are read.

A LoRA changes weights by products of two thin matrices (`lora_down`/`lora_up`, or `lora_A`/`lora_B`), or by a difference: `diff` of a weight,
`diff_b` of a bias, `diff_m` of a block's modulation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.weights.checkpoint import Checkpoint, Safetensors
from infinitedub.stages.model.weights.keymap import Translate
from infinitedub.stages.model.weights.load import describe

PREFIXES = ("diffusion_model.", "transformer.")
PRODUCTS = ((".lora_down.weight", ".lora_up.weight"), (".lora_A.weight", ".lora_B.weight"))
DIFFERENCES = {".diff": ".weight", ".diff_b": ".bias", ".diff_m": ".modulation"}


@dataclass(frozen=True, slots=True)
class Product:
    """scale * up @ down, in the shape of the weight it is added to."""

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
class Difference:
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
    """What one LoRA adds, by the names of the network's parameters."""

    where: str
    changes: tuple[tuple[str, Product | Difference], ...]

    def merge(self, name: str, value: Tensor) -> Tensor:
        for changed, change in self.changes:
            if changed == name:
                value = change.add_to(value)
        return value

    def check(self, shapes: Mapping[str, torch.Size]) -> None:
        """Raises ConfigError where a change has no parameter of its shape."""
        strangers = [f"{name} {tuple(change.shape)}" for name, change in self.changes if shapes.get(name) != change.shape]
        if strangers:
            raise ConfigError(f"LoRA {self.where} does not fit the transformer: {describe('without a parameter of that shape', strangers)}")


def open_lora(path: Path, strength: float, translate: Translate, compat_upstream: bool) -> Lora:
    """The LoRA of the safetensors file `path`, times `strength`; `translate` tells upstream's names.

    Where a module has an `alpha`, its product is scaled by alpha / rank; compat_upstream ignores it, as the release does. Raises ConfigError for
    tensors that are not understood.
    """
    checkpoint = Safetensors([path])
    names = set(checkpoint)
    changes: list[tuple[str, Product | Difference]] = []
    understood: set[str] = set()

    for name in sorted(names):
        if pair := product_names(name):
            module, down, up, alpha = pair
            if up not in names:
                continue
            scale = strength
            if alpha in names and not compat_upstream:
                scale *= float(checkpoint.read(alpha)) / checkpoint.shape(down)[0]
            changes.append((target(module, ".weight", translate), Product(checkpoint, down, up, scale)))
            understood |= {down, up, alpha}
        elif difference := difference_names(name):
            module, end = difference
            changes.append((target(module, end, translate), Difference(checkpoint, name, strength)))
            understood.add(name)

    if strangers := sorted(names - understood):
        raise ConfigError(f"LoRA {path}: {describe('not understood', strangers)}")
    return Lora(str(path), tuple(changes))


def product_names(name: str) -> tuple[str, str, str, str] | None:
    """The module that the first matrix `name` of a product changes, both matrices, and the module's alpha."""
    for down, up in PRODUCTS:
        if name.endswith(down):
            module = name.removesuffix(down)
            return module, name, module + up, f"{module}.alpha"
    return None


def difference_names(name: str) -> tuple[str, str] | None:
    """The module that `name` is a difference of, and which of its parameters."""
    for end, parameter in DIFFERENCES.items():
        if name.endswith(end):
            return name.removesuffix(end), parameter
    return None


def target(module: str, end: str, translate: Translate) -> str:
    """The network's name for a parameter that the LoRA names by its upstream module, or by its own."""
    for prefix in PREFIXES:
        module = module.removeprefix(prefix)
    targets = translate(module + end)
    return targets[0] if targets else module + end
