"""Reads golden tensors, and builds the product's denoiser with the weights among them."""

import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from infinitedub.pipeline.verify.networks import build_transformer
from infinitedub.stages.model.dit import InfiniteTalkTransformer
from infinitedub.stages.model.weights.checkpoint import InMemoryCheckpoint

HERE = Path(__file__).parent


@cache
def golden(name: str) -> dict[str, Tensor]:
    return load_file(HERE / f"{name}.safetensors")


@cache
def facts(name: str) -> dict:
    return json.loads((HERE / f"{name}.json").read_text())


def weights(name: str, prefix: str = "w.") -> InMemoryCheckpoint:
    """The tensors of a fixture whose names begin with `prefix`, without it."""
    return InMemoryCheckpoint(name, {key.removeprefix(prefix): tensor for key, tensor in golden(name).items() if key.startswith(prefix)})


def denoiser(name: str, dtype: torch.dtype = torch.float32) -> InfiniteTalkTransformer:
    """The denoiser of a fixture, without the release's peculiarities."""
    network = build_transformer(weights(name), facts(name), dtype)
    network.compat_upstream = False
    return network
