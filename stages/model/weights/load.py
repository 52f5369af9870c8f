"""Filling a network from checkpoints: strictly, and one tensor at a time."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.weights.checkpoint import Checkpoint
from infinitedub.stages.model.weights.keymap import Translate

Alter = Callable[[str, Tensor], Tensor]
"""Gives a parameter's value, in float32, a last change; told by its name."""

LISTED = 20

build_empty = init_empty_weights
"""Within this context networks are built without memory for their parameters; `fill` gives them one."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a parameter comes from: a tensor of a checkpoint, or one of several equal pieces along its first axis."""

    checkpoint: Checkpoint
    name: str
    piece: int
    pieces: int

    @property
    def shape(self) -> torch.Size:
        whole = self.checkpoint.shape(self.name)
        if self.pieces == 1 or whole[0] % self.pieces:
            return whole
        return torch.Size([whole[0] // self.pieces, *whole[1:]])

    def read(self) -> Tensor:
        tensor = self.checkpoint.read(self.name)
        return tensor.chunk(self.pieces)[self.piece] if self.pieces > 1 else tensor


def trace(checkpoint: Checkpoint, translate: Translate) -> dict[str, Origin]:
    """Where each parameter comes from. A name that `translate` does not know is kept as it is: `fill` will find it surplus."""
    origins: dict[str, Origin] = {}
    for name in checkpoint:
        targets = translate(name)
        targets = (name,) if targets is None else targets
        origins |= {target: Origin(checkpoint, name, piece, len(targets)) for piece, target in enumerate(targets)}
    return origins


def fill(
    network: nn.Module,
    origins: Mapping[str, Origin],
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    fp32_modules: Collection[str] = (),
    alter: Alter | None = None,
) -> None:
    """Gives every parameter of an empty `network` its value, ready for use on `device`.

    Values are rounded to `dtype`. Those of `fp32_modules` are rounded too and then kept in float32: what InfiniteTalk computes in float32, it
    computes from rounded weights. Raises ConfigError that names missing and surplus tensors and wrong shapes.
    """
    saved = network.state_dict().keys()
    buffers = {name: buffer for name, buffer in network.named_buffers() if name in saved}
    wanted = {name: value.shape for name, value in [*network.named_parameters(), *buffers.items()]}
    check(type(network).__name__, wanted, origins)
    for name, shape in wanted.items():
        value = origins[name].read().to(device).reshape(shape)
        if alter is not None:
            value = alter(name, value.float())
        if value.is_floating_point():
            value = value.to(dtype)
        if any(name.startswith(f"{module}.") for module in fp32_modules):
            value = value.float()
        path, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(path), leaf, value if name in buffers else nn.Parameter(value, requires_grad=False))
    network.to(device).eval()


def check(network: str, wanted: Mapping[str, torch.Size], origins: Mapping[str, Origin]) -> None:
    """Raises ConfigError unless `origins` has exactly the tensors that are `wanted`. Leading axes of length one do not count."""
    wrong = [
        f"{name} is {tuple(origin.shape)}, wanted {tuple(wanted[name])}"
        for name, origin in origins.items()
        if name in wanted and strip(origin.shape) != strip(wanted[name])
    ]
    faults = [
        describe("missing", [name for name in wanted if name not in origins]),
        describe("surplus", [f"{origin.name} ({origin.checkpoint.where})" for name, origin in origins.items() if name not in wanted]),
        describe("of a wrong shape", wrong),
    ]
    if any(faults):
        places = sorted({origin.checkpoint.where for origin in origins.values()})
        raise ConfigError(f"{network} cannot be loaded from {', '.join(places)}:\n" + "\n".join(fault for fault in faults if fault))


def describe(fault: str, names: Iterable[str]) -> str:
    """One line that names the first of `names`, or nothing where there are none."""
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{len(names)} {fault}: {', '.join(names[:LISTED])}{more}" if names else ""


def strip(shape: torch.Size) -> tuple[int, ...]:
    """`shape` without leading axes of length one: upstream's CLIP has batch axes on its embeddings."""
    sizes = list(shape)
    while sizes and sizes[0] == 1:
        sizes.pop(0)
    return tuple(sizes)
