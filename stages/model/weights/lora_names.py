"""What a LoRA changes, from the names and shapes of its tensors alone.

A LoRA holds low-rank changes, each the product of two matrices, and full-weight changes: `diff` of a weight, `diff_b` of a bias, `diff_m` of a
block's modulation. Trainers name them in their own ways; FORMS lists those that are read.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.weights.faults import describe_fault
from infinitedub.stages.model.weights.keymap import TRANSFORMER, Translate, substitute

PREFIXES = ("base_model.model.", "diffusion_model.", "transformer.")  # of PEFT, of the release and ComfyUI, of diffusers
KOHYA = "lora_unet_"
LOW_RANK = (
    (re.compile(r"(?P<module>.+)\.lora_down\.weight"), "{module}.lora_up.weight"),
    (re.compile(r"(?P<module>.+)\.lora_A\.weight"), "{module}.lora_B.weight"),
    (re.compile(r"(?P<module>.+)\.lora_A\.(?P<adapter>\w+)\.weight"), "{module}.lora_B.{adapter}.weight"),
)
FULL_WEIGHT = {".diff": ".weight", ".diff_b": ".bias", ".diff_m": ".modulation"}
FORMS = (
    "known are MODULE.lora_down.weight with MODULE.lora_up.weight, MODULE.lora_A.weight with MODULE.lora_B.weight (also lora_A.default.weight, "
    "as PEFT has it), MODULE.alpha, and MODULE.diff, .diff_b and .diff_m; MODULE is a name of Wan2.1 or of diffusers, alone or after "
    "diffusion_model., transformer. or base_model.model., or as kohya writes it: lora_unet_blocks_0_self_attn_q"
)
PATCH_EMBEDDING = "patch_embedding.weight"


@dataclass(frozen=True, slots=True)
class LoraChange:
    """The change of one parameter of the network."""

    parameter: str
    tensors: tuple[str, ...]  # of the LoRA: the two matrices of a low-rank change, in the order in which they are applied; or the difference
    alpha: str | None  # the tensor that scales a low-rank change, if there is one
    shape: tuple[int, ...]


def read_changes(location: str, shapes: Mapping[str, Sequence[int]], translate: Translate) -> tuple[LoraChange, ...]:
    """The changes of a LoRA whose tensors have these `shapes`; `translate` maps upstream's names. Raises ConfigError for names not understood."""
    changes: list[LoraChange] = []
    understood: set[str] = set()
    for name in sorted(shapes):
        change = _low_rank(name, shapes, translate) or _full_weight(name, shapes, translate)
        if change is not None:
            changes.append(change)
            understood |= {*change.tensors, *([change.alpha] if change.alpha else [])}
    if unknown := sorted(set(shapes) - understood):
        raise ConfigError(f"LoRA {location}: {describe_fault('not understood', unknown)}; {FORMS}")
    return tuple(changes)


def fitting_changes(location: str, changes: Sequence[LoraChange], shapes: Mapping[str, Sequence[int]]) -> tuple[LoraChange, ...]:
    """The changes that fit parameters of these `shapes`: all of them, but for the patch embedding of a LoRA for text to video.

    Wan2.1's patch embedding has 16 input channels for text to video, the noisy latents, and 36 for image to video, which adds 4 of the mask and 16 of
    the reference. All other layers of the two have the same shapes, so such LoRAs are used for both. A change of 16 channels is left out, as ComfyUI
    does. Raises ConfigError for every other change without a parameter of its name and shape.
    """
    fitting = [change for change in changes if tuple(shapes.get(change.parameter, ())) == change.shape]
    unmatched = [change for change in changes if change not in fitting and not is_other_patch_embedding(change, shapes)]
    if unmatched:
        named = [f"{change.parameter} {change.shape}" for change in unmatched]
        raise ConfigError(f"LoRA {location} does not fit the transformer: {describe_fault('without a parameter of that shape', named)}")
    return tuple(fitting)


def is_other_patch_embedding(change: LoraChange, shapes: Mapping[str, Sequence[int]]) -> bool:
    """Whether the change is that of a patch embedding that differs from the network's in the number of input channels only."""
    wanted = tuple(shapes.get(change.parameter, ()))
    return change.parameter == PATCH_EMBEDDING and len(wanted) == 5 and (*change.shape[:1], *change.shape[2:]) == (*wanted[:1], *wanted[2:])


def _low_rank(name: str, shapes: Mapping[str, Sequence[int]], translate: Translate) -> LoraChange | None:
    """The change whose first matrix is `name`; None if it is no such matrix, or the second one is missing or of another rank."""
    match, up = next(((found, up) for pattern, up in LOW_RANK if (found := pattern.fullmatch(name))), (None, ""))
    if match is None:
        return None
    up, parameter = up.format(**match.groupdict()), _parameter(match["module"], ".weight", translate)
    if parameter is None or up not in shapes or min(len(shapes[name]), len(shapes[up])) < 2 or shapes[up][1] != shapes[name][0]:
        return None
    alpha = f"{match['module']}.alpha"
    return LoraChange(parameter, (name, up), alpha if alpha in shapes else None, (shapes[up][0], *shapes[name][1:]))


def _full_weight(name: str, shapes: Mapping[str, Sequence[int]], translate: Translate) -> LoraChange | None:
    """The change whose difference is `name`; None if it is no difference."""
    for suffix, ending in FULL_WEIGHT.items():
        if name.endswith(suffix) and (parameter := _parameter(name.removesuffix(suffix), ending, translate)):
            return LoraChange(parameter, (name,), None, tuple(shapes[name]))
    return None


def _parameter(module: str, ending: str, translate: Translate) -> str | None:
    """The network's name of a parameter whose module has a name of upstream, of kohya, or of the network; None for an unknown one of kohya."""
    for prefix in PREFIXES:
        module = module.removeprefix(prefix)
    if module.startswith(("lora_", "lycoris_")):
        found = _with_dots(module.removeprefix(KOHYA)) if module.startswith(KOHYA) else None
        if found is None:
            return None
        module = found
    targets = translate(module + ending)
    return targets[0] if targets else module + ending


def _with_dots(flat: str) -> str | None:
    """The dotted name of a module that kohya writes with underscores, by the names of upstream and of diffusers; None for another module."""
    for theirs, ours in TRANSFORMER.items():
        for name in (theirs, *([ours] if isinstance(ours, str) else ours)):
            module, _, last = name.rpartition(".")
            pattern = re.escape(module).replace(r"\.", "_").replace(r"\*", "(.+)").replace("blocks_(.+)", r"blocks_(\d+)")
            if last == "*" and (match := re.fullmatch(pattern, flat)):
                return substitute(module, match.groups())
    return None
