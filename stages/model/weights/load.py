"""Strict loading of a network from checkpoints, one tensor at a time."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.weights.checkpoint import Checkpoint
from infinitedub.stages.model.weights.faults import describe_fault
from infinitedub.stages.model.weights.file_format import FLOAT_DTYPES, READABLE
from infinitedub.stages.model.weights.keymap import Translate

WeightTransform = Callable[[str, Tensor], Tensor]
"""Changes a parameter's float32 value before it is rounded and stored; called with its name and value."""

build_empty = init_empty_weights
"""Within this context networks are built without memory for their parameters; `load_weights` allocates it."""


@dataclass(frozen=True, slots=True)
class TensorSource:
    """The source of a parameter's value: a tensor of a checkpoint, or one of several equal chunks of it along the first axis."""

    checkpoint: Checkpoint
    name: str
    chunk: int
    chunks: int

    @property
    def shape(self) -> torch.Size:
        full = self.checkpoint.shape(self.name)
        if self.chunks == 1 or full[0] % self.chunks:
            return full
        return torch.Size([full[0] // self.chunks, *full[1:]])

    @property
    def dtype(self) -> str:
        return self.checkpoint.dtype(self.name)

    def read(self) -> Tensor:
        tensor = self.checkpoint.read(self.name)
        return tensor.chunk(self.chunks)[self.chunk] if self.chunks > 1 else tensor


def map_sources(checkpoint: Checkpoint, translate: Translate) -> dict[str, TensorSource]:
    """The source of each parameter, by its name in the network. Unknown names are kept, so that `load_weights` reports them as surplus."""
    sources: dict[str, TensorSource] = {}
    for name in checkpoint:
        targets = translate(name)
        targets = (name,) if targets is None else targets
        sources |= {target: TensorSource(checkpoint, name, chunk, len(targets)) for chunk, target in enumerate(targets)}
    return sources


def load_weights(
    network: nn.Module,
    sources: Mapping[str, TensorSource],
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    fp32_modules: Collection[str] = (),
    host_modules: Collection[str] = (),
    transform: WeightTransform | None = None,
) -> None:
    """Loads every parameter of an empty `network`, which is then ready for use on `device`; those of `host_modules` pass it and stay in host memory.

    Values are rounded to `dtype`. Those of `fp32_modules` are rounded too and then stored in float32, because InfiniteTalk computes these modules in
    float32 from rounded weights. Raises ConfigError, which names missing and surplus tensors, wrong shapes and wrong types.
    """
    saved = network.state_dict().keys()
    buffers = {name: buffer for name, buffer in network.named_buffers() if name in saved}
    tensors = dict([*network.named_parameters(), *buffers.items()])
    wanted = {name: value.shape for name, value in tensors.items()}
    floats = {name for name, value in tensors.items() if value.is_floating_point()}
    check_names_and_types(type(network).__name__, wanted, floats, sources)
    for name, shape in wanted.items():
        value = sources[name].read().to(device).reshape(shape)
        if transform is not None:
            value = transform(name, value.float())
        if value.is_floating_point():
            value = value.to(dtype)
        if within(name, fp32_modules):
            value = value.float()
        if within(name, host_modules):
            value = value.cpu()
        path, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(path), leaf, value if name in buffers else nn.Parameter(value, requires_grad=False))
    for name, buffer in network.named_buffers():  # those that no checkpoint holds
        if name not in buffers and not within(name, host_modules):
            path, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(path), leaf, buffer.to(device))
    network.eval()


def within(name: str, modules: Collection[str]) -> bool:
    """Whether a parameter belongs to one of the modules."""
    return any(name.startswith(f"{module}.") for module in modules)


def check_names_and_types(network: str, wanted: Mapping[str, torch.Size], floats: Collection[str], sources: Mapping[str, TensorSource]) -> None:
    """Raises ConfigError unless `sources` has exactly the `wanted` names and shapes, and floating-point numbers for the names in `floats`.

    Leading axes of length one are ignored. A weight that is no float is a quantised value, which means nothing without its scale.
    """
    wrong = [
        f"{name} is {tuple(source.shape)}, wanted {tuple(wanted[name])}"
        for name, source in sources.items()
        if name in wanted and without_leading_ones(source.shape) != without_leading_ones(wanted[name])
    ]
    untyped = [
        f"{name} is {source.dtype}, wanted {READABLE}" for name, source in sources.items() if name in floats and source.dtype not in FLOAT_DTYPES
    ]
    faults = [
        describe_fault("missing", [name for name in wanted if name not in sources]),
        describe_fault("surplus", [f"{source.name} ({source.checkpoint.location})" for name, source in sources.items() if name not in wanted]),
        describe_fault("of a wrong shape", wrong),
        describe_fault("of a wrong type", untyped),
    ]
    if any(faults):
        locations = sorted({source.checkpoint.location for source in sources.values()})
        raise ConfigError(f"{network} cannot be loaded from {', '.join(locations)}:\n" + "\n".join(fault for fault in faults if fault))


def without_leading_ones(shape: torch.Size) -> tuple[int, ...]:
    """`shape` without leading axes of length one, which upstream's CLIP has on its embeddings."""
    sizes = list(shape)
    while sizes and sizes[0] == 1:
        sizes.pop(0)
    return tuple(sizes)
