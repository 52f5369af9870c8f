"""Weight offloading: a layer's weights stay in host memory and are on the GPU only while the layer computes.

The results are the same to the bit. diffusers' group offloading covers only networks that are called as a whole; this code also calls parts of
a network, whose weights must be available between calls.
"""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import nn


def offload(layers: Iterable[nn.Module]) -> None:
    """Moves the weights of `layers` to host memory; each layer loads them when it is called and unloads them afterwards.

    Costs one transfer of the layer's weights per call, and host memory for all layers. The host memory is page-locked if the weights were on a GPU.
    """
    for layer in layers:
        hook = OffloadHook(layer)
        layer.register_forward_pre_hook(hook.load)
        layer.register_forward_hook(hook.unload, always_call=True)
        hook.unload()


class OffloadHook:
    """Loads one layer's weights to its device and replaces them with their host copies."""

    def __init__(self, layer: nn.Module) -> None:
        weights = list(chain(layer.parameters(), layer.buffers()))
        self._device = weights[0].device
        copies = [weight.data.cpu() for weight in weights]
        self._weights = list(zip(weights, [copy.pin_memory() for copy in copies] if self._device.type == "cuda" else copies, strict=True))

    def load(self, *_: Any) -> None:
        with torch.inference_mode(False):  # a tensor made in inference mode cannot become a weight
            for weight, host_copy in self._weights:
                weight.data = host_copy.to(self._device, non_blocking=True, copy=True)

    def unload(self, *_: Any) -> None:
        for weight, host_copy in self._weights:
            weight.data = host_copy  # weights do not change, so nothing is copied back
