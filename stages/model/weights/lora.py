"""LoRAs, merged permanently into the weights while these are loaded.

How much a low-rank change counts:

    strength * alpha / rank * up @ down      if the file has the module's `alpha`
    strength * up @ down                     if it has none

kohya, diffusers and ComfyUI train and apply it so (Hu et al., LoRA, 2021, section 4.1: the change is scaled by alpha / rank). A file without `alpha`
has alpha = rank, or its trainer has multiplied the factor into the matrices. PEFT stores alpha in adapter_config.json beside the file, which is not
read: give a strength of lora_alpha / r. The release of InfiniteTalk ignores `alpha` of every file; compat_upstream does so, too. Differences (`diff`,
`diff_b`, `diff_m`) are scaled by the strength alone, in every case.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from infinitedub.stages.model.weights.checkpoint import Checkpoint, SafetensorsCheckpoint
from infinitedub.stages.model.weights.keymap import Translate
from infinitedub.stages.model.weights.lora_names import LoraChange, fitting_changes, read_changes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lora:
    """The changes of one LoRA, and how much each counts."""

    checkpoint: Checkpoint
    changes: tuple[LoraChange, ...]
    strength: float
    ignores_alpha: bool

    def fitted(self, shapes: Mapping[str, Sequence[int]]) -> "Lora":
        """The LoRA for parameters of these `shapes`, by the rule of `fitting_changes`. Raises ConfigError."""
        return replace(self, changes=fitting_changes(self.checkpoint.location, self.changes, shapes))

    def merge(self, name: str, value: Tensor) -> Tensor:
        """The parameter `name` of that value, changed."""
        for change in self.changes:
            if change.parameter == name:
                value = value + self._factor(change) * self._difference(change, value)
        return value

    def _difference(self, change: LoraChange, weight: Tensor) -> Tensor:
        tensors = [self.checkpoint.read(name).to(weight) for name in change.tensors]
        if len(tensors) == 1:
            return tensors[0]
        down, up = (tensor.flatten(1) for tensor in tensors)
        return (up @ down).view(weight.shape)

    def _factor(self, change: LoraChange) -> float:
        if change.alpha is None or self.ignores_alpha:
            return self.strength
        return self.strength * float(self.checkpoint.read(change.alpha)) / self.checkpoint.shape(change.tensors[0])[0]

    def factors(self) -> list[float]:
        """The different factors of its low-rank changes, sorted."""
        return sorted({self._factor(change) for change in self.changes if len(change.tensors) == 2})


def open_lora(path: Path, strength: float, translate: Translate, compat_upstream: bool) -> Lora:
    """The LoRA of the safetensors file `path`, times `strength`; `translate` maps upstream's names.

    compat_upstream ignores alpha, as the release does. Raises ConfigError for tensors that are not understood.
    """
    checkpoint = SafetensorsCheckpoint([path])
    changes = read_changes(str(path), {name: checkpoint.shape(name) for name in checkpoint}, translate)
    lora = Lora(checkpoint, changes, strength, compat_upstream)
    logger.info("LoRA %s: %d changes, low-rank ones times %s", path, len(changes), ", ".join(f"{factor:g}" for factor in lora.factors()) or "-")
    return lora
