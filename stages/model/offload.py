"""Layers whose weights wait in host memory and are on the GPU only while their layer computes.

A layer computes what it always does, with the same numbers: the result is the same to the bit. diffusers' group offloading would do for
networks that are only ever called as a whole; ours are also asked for parts, whose weights must be there between calls.
"""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import nn


def offload(layers: Iterable[nn.Module]) -> None:
    """Sends the weights of `layers` to host memory; each layer's come back when it is called and leave when it has answered.

    Costs a transfer of the layer per call, and host memory for all of them, page-locked where they were on a GPU.
    """
    for layer in layers:
        visitor = Visitor(layer)
        layer.register_forward_pre_hook(visitor.come)
        layer.register_forward_hook(visitor.leave, always_call=True)
        visitor.leave()


class Visitor:
    """A layer that comes and goes."""

    def __init__(self, layer: nn.Module) -> None:
        weights = list(chain(layer.parameters(), layer.buffers()))
        self._device = weights[0].device
        homes = [weight.data.cpu() for weight in weights]
        self._weights = list(zip(weights, [home.pin_memory() for home in homes] if self._device.type == "cuda" else homes, strict=True))

    def come(self, *_: Any) -> None:
        with torch.inference_mode(False):  # what is made in inference mode could not become a weight
            for weight, home in self._weights:
                weight.data = home.to(self._device, non_blocking=True, copy=True)

    def leave(self, *_: Any) -> None:
        for weight, home in self._weights:
            weight.data = home  # weights do not change: nothing has to be carried back
