"""The two ways in which a base model lies on disk: as its makers released it, and as diffusers saves it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from diffusers import AutoencoderKLWan
from transformers import CLIPVisionConfig, UMT5Config

from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.weights.checkpoint import Checkpoint, find_safetensors, need, unpickle
from infinitedub.stages.model.weights.keymap import (
    IMAGE,
    SAVED,
    SAVED_IMAGE,
    SAVED_TEXT,
    TEXT,
    TRANSFORMER,
    Translate,
    codec_translator,
    translator,
)
from infinitedub.stages.model.weights.sizes import codec_sizes, image_config, text_config, transformer_sizes

UPSTREAM_TEXT = "models_t5_umt5-xxl-enc-bf16.pth"
UPSTREAM_IMAGE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
UPSTREAM_CODEC = "Wan2.1_VAE.pth"
UPSTREAM_TOKENIZER = "google/umt5-xxl"


@dataclass(frozen=True, slots=True)
class Part:
    """One network on disk: how large it is, its tensors, and what they are called in the network."""

    sizes: Any  # a dict of constructor arguments, or a transformers configuration
    checkpoint: Checkpoint
    translate: Translate


class Layout(Protocol):
    """Where a base model's networks lie."""

    def transformer(self) -> Part: ...

    def codec(self) -> Part: ...

    def text(self) -> Part: ...

    def image(self) -> Part: ...

    def tokenizer(self) -> Path: ...


@dataclass(frozen=True, slots=True)
class Release:
    """As Wan-AI releases it: shards of the transformer and pickled encoders side by side."""

    root: Path

    def transformer(self) -> Part:
        checkpoint = find_safetensors(self.root, "diffusion_pytorch_model")
        return Part(transformer_sizes(read_json(self.root / "config.json"), checkpoint), checkpoint, translator(TRANSFORMER))

    def codec(self) -> Part:
        checkpoint = unpickle(need(self.root / UPSTREAM_CODEC, "the video autoencoder"))
        sizes = codec_sizes(checkpoint)
        return Part(sizes, checkpoint, codec_translator(sizes["num_res_blocks"]))

    def text(self) -> Part:
        checkpoint = unpickle(need(self.root / UPSTREAM_TEXT, "the umT5 text encoder"))
        return Part(text_config(checkpoint), checkpoint, translator(TEXT))

    def image(self) -> Part:
        checkpoint = unpickle(need(self.root / UPSTREAM_IMAGE, "the CLIP image encoder"))
        return Part(image_config(checkpoint), checkpoint, translator(IMAGE))

    def tokenizer(self) -> Path:
        return need(self.root / UPSTREAM_TOKENIZER, "the tokenizer of umT5")


@dataclass(frozen=True, slots=True)
class Folders:
    """As diffusers saves it: one folder per network, each with its config.json."""

    root: Path

    def transformer(self) -> Part:
        folder = self.root / "transformer"
        config = read_json(folder / "config.json")
        sizes = {name: config[name] for name in TRANSFORMER_SIZES if name in config}
        for name, wanted in TRANSFORMER_FIXED.items():
            if name in config and config[name] != wanted:
                raise ConfigError(f"{folder / 'config.json'}: {name} is {config[name]}, the transformer knows {wanted} only")
        return Part(sizes, find_safetensors(folder, "diffusion_pytorch_model"), translator(SAVED))

    def codec(self) -> Part:
        folder = self.root / "vae"
        sizes, _, _ = AutoencoderKLWan.extract_init_dict(read_json(folder / "config.json"))
        return Part(sizes, find_safetensors(folder, "diffusion_pytorch_model"), translator(SAVED))

    def text(self) -> Part:
        folder = self.root / "text_encoder"
        return Part(UMT5Config(**read_json(folder / "config.json")), find_safetensors(folder, "model"), translator(SAVED_TEXT))

    def image(self) -> Part:
        folder = self.root / "image_encoder"
        return Part(CLIPVisionConfig(**read_json(folder / "config.json")), find_safetensors(folder, "model"), translator(SAVED_IMAGE))

    def tokenizer(self) -> Path:
        return need(self.root / "tokenizer", "the tokenizer of umT5")


TRANSFORMER_SIZES = (
    "num_attention_heads",
    "attention_head_dim",
    "in_channels",
    "out_channels",
    "text_dim",
    "freq_dim",
    "ffn_dim",
    "num_layers",
    "eps",
    "image_dim",
)
TRANSFORMER_FIXED = {"patch_size": [1, 2, 2], "qk_norm": "rms_norm_across_heads", "cross_attn_norm": True, "pos_embed_seq_len": None}


def recognise(root: Path) -> Layout:
    """The layout of the folder `root`. Raises ConfigError where it is neither."""
    if (root / "transformer").is_dir():
        return Folders(root)
    if (root / "config.json").is_file() and any(root.glob("diffusion_pytorch_model*.safetensors")):
        return Release(root)
    raise ConfigError(
        f"{root}: neither the original release (config.json, diffusion_pytorch_model*.safetensors) nor diffusers' folders (transformer/, vae/, ...)"
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ConfigError."""
    try:
        content = json.loads(need(path, "the sizes of a network").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: wanted a JSON object")
    return content
