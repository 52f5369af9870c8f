"""Weight offloading: the weights of a network's layers stay in host memory, and each is on the GPU only while it computes.

The results are the same to the bit. diffusers' group offloading covers only networks that are called as a whole; this code also calls parts of
a network, whose weights must be available between calls.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

ALIGNMENT = 256  # bytes; of the start of each weight, as of the allocations of torch's CUDA allocator


def offload(layers: Sequence[nn.Module], device: torch.device | str) -> None:
    """Leaves the weights of `layers` in host memory. A called layer has them on `device`, and unloads them afterwards.

    The layers are expected to be called in their order, again and again: while one computes, the weights of the next are copied on a CUDA stream of
    their own. Any other order is correct, too, but waits for its copies. `device` holds at most two layers' weights at a time. Host memory holds
    one copy of all of them in every process, page-locked if `device` is a GPU.
    """
    target = torch.device(device)
    stream = torch.cuda.Stream(target) if target.type == "cuda" else None
    slots = [LayerWeights(layer, target, stream) for layer in layers]
    for number, (layer, slot) in enumerate(zip(layers, slots, strict=True)):
        layer.register_forward_pre_hook(OffloadHook(slots[number - 1], slot, slots[(number + 1) % len(slots)]).load)
        layer.register_forward_hook(slot.unload, always_call=True)


class OffloadHook:
    """Loads one layer's weights before it computes, and begins to copy those of the next once the layer before has computed.

    Without that wait the host, which runs ahead of the GPU, would allocate copies of all layers before the first of them is free again.
    """

    def __init__(self, preceding: "LayerWeights", own: "LayerWeights", following: "LayerWeights") -> None:
        self._preceding = preceding
        self._own = own
        self._following = following

    def load(self, *_: Any) -> None:
        self._own.load()
        if self._following is not self._own:
            self._preceding.wait_until_computed()
            self._following.prefetch()


class LayerWeights:
    """One layer's weights in a flat host buffer, and their copy on the device while it is there.

    One buffer per layer, because torch's pinned allocator rounds every tensor up to a power of two: tensor by tensor, 34.6 GiB of blocks would take
    50.6 GiB.
    """

    def __init__(self, layer: nn.Module, device: torch.device, stream: "torch.cuda.Stream | None") -> None:
        self._device = device
        self._stream = stream
        self._weights = list(chain(layer.parameters(), layer.buffers()))
        self._offsets: list[int] = []
        size = 0
        for weight in self._weights:
            self._offsets.append(size)
            size += -(-weight.numel() * weight.element_size() // ALIGNMENT) * ALIGNMENT
        self._host = torch.empty(size, dtype=torch.uint8, pin_memory=stream is not None)
        self._copy: Tensor | None = None
        self._copied: torch.cuda.Event | None = None
        self._computed: torch.cuda.Event | None = None
        with torch.inference_mode(False):  # a tensor made in inference mode cannot become a weight
            for weight, home in zip(self._weights, self._views(self._host), strict=True):
                home.copy_(weight.data)
                weight.data = home

    def prefetch(self) -> None:
        """Begins to copy the weights to the device, unless that has begun already."""
        if self._copy is not None:
            return
        with torch.inference_mode(False), torch.cuda.stream(self._stream) if self._stream is not None else nullcontext():
            self._copy = torch.empty_like(self._host, device=self._device).copy_(self._host, non_blocking=True)
            self._copied = self._stream.record_event() if self._stream is not None else None

    def load(self) -> None:
        """The layer's weights are those on the device from now on; work that is queued after this call waits for the copy."""
        self.prefetch()
        assert self._copy is not None
        if self._copied is not None:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(self._copied)
            self._copy.record_stream(computing)  # its memory is not reused before the layer has computed
        with torch.inference_mode(False):
            for weight, there in zip(self._weights, self._views(self._copy), strict=True):
                weight.data = there

    def unload(self, *_: Any) -> None:
        """The layer's weights are those in host memory again. They do not change, so nothing is copied back."""
        for weight, home in zip(self._weights, self._views(self._host), strict=True):
            weight.data = home
        self._copy = self._copied = None
        if self._stream is not None:  # after the copy is let go, so that its memory is free once this event has happened
            self._computed = torch.cuda.current_stream(self._device).record_event()

    def wait_until_computed(self) -> None:
        """Returns once the layer's last computation has ended; at once on a CPU."""
        if self._computed is not None:
            self._computed.synchronize()

    def _views(self, buffer: Tensor) -> list[Tensor]:
        """Each weight as a view of a flat buffer."""
        return [
            buffer[offset : offset + weight.numel() * weight.element_size()].view(weight.dtype).view(weight.shape)
            for weight, offset in zip(self._weights, self._offsets, strict=True)
        ]
