"""Reads golden tensors, and builds the product's networks with the weights among them."""

import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from stages.model.dit import InfiniteTalkTransformer
from stages.model.weights.keymap import TRANSFORMER, translator
from stages.model.weights.load import build_empty, fill, trace

HERE = Path(__file__).parent


class InMemory:
    """A checkpoint that is not on disk."""

    where = "memory"

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def __iter__(self):
        return iter(self.tensors)

    def shape(self, name: str) -> torch.Size:
        return self.tensors[name].shape

    def read(self, name: str) -> Tensor:
        return self.tensors[name]


@cache
def golden(name: str) -> dict[str, Tensor]:
    return load_file(HERE / f"{name}.safetensors")


@cache
def facts(name: str) -> dict:
    return json.loads((HERE / f"{name}.json").read_text())


def weights(name: str, prefix: str = "w.") -> InMemory:
    """The tensors of a fixture whose names begin with `prefix`, without it."""
    return InMemory({key.removeprefix(prefix): tensor for key, tensor in golden(name).items() if key.startswith(prefix)})


def denoiser(name: str, dtype: torch.dtype = torch.float32, prefix: str = "w.") -> InfiniteTalkTransformer:
    """The denoiser of a fixture, loaded as the product loads one."""
    sizes = facts(name)
    given = sizes["constructor"]
    with build_empty():
        network = InfiniteTalkTransformer(
            num_attention_heads=given["num_heads"],
            attention_head_dim=given["dim"] // given["num_heads"],
            in_channels=given["in_dim"],
            out_channels=given["out_dim"],
            text_dim=given["text_dim"],
            freq_dim=given["freq_dim"],
            ffn_dim=given["ffn_dim"],
            num_layers=given["num_layers"],
            eps=given["eps"],
            image_dim=sizes["clip_dim"],
            audio_window=given["audio_window"],
            vae_scale=given["vae_scale"],
            audio_blocks=sizes["audio_blocks"],
            audio_channels=sizes["audio_channels"],
            intermediate_dim=given["intermediate_dim"],
            context_tokens=given["context_tokens"],
            output_dim=given["output_dim"],
        )
    fill(network, trace(weights(name, prefix), translator(TRANSFORMER)), dtype=dtype, device="cpu", fp32_modules=network.fp32_modules)
    return network
