"""The two layouts of a base model on disk: the original release, and diffusers' folders."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from diffusers import AutoencoderKLWan
from transformers import CLIPVisionConfig, UMT5Config

from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.weights.checkpoint import Checkpoint, find_safetensors, open_pickle, require_path
from infinitedub.stages.model.weights.keymap import (
    IDENTITY,
    IMAGE,
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
class NetworkWeights:
    """One network on disk: its sizes, its tensors, and how their names map to the network's."""

    sizes: Any  # a dict of constructor arguments, or a transformers configuration
    checkpoint: Checkpoint
    translate: Translate


class Layout(Protocol):
    """Finds the networks of a base model on disk."""

    def transformer(self) -> NetworkWeights: ...

    def codec(self) -> NetworkWeights: ...

    def text(self) -> NetworkWeights: ...

    def image(self) -> NetworkWeights: ...

    def tokenizer(self) -> Path: ...


@dataclass(frozen=True, slots=True)
class ReleaseLayout:
    """The layout of Wan-AI's release: shards of the transformer and pickled encoders in one folder."""

    root: Path

    def transformer(self) -> NetworkWeights:
        checkpoint = find_safetensors(self.root, "diffusion_pytorch_model")
        return NetworkWeights(transformer_sizes(read_json(self.root / "config.json"), checkpoint), checkpoint, translator(TRANSFORMER))

    def codec(self) -> NetworkWeights:
        checkpoint = open_pickle(require_path(self.root / UPSTREAM_CODEC, "the video autoencoder"))
        sizes = codec_sizes(checkpoint)
        return NetworkWeights(sizes, checkpoint, codec_translator(sizes["num_res_blocks"]))

    def text(self) -> NetworkWeights:
        checkpoint = open_pickle(require_path(self.root / UPSTREAM_TEXT, "the umT5 text encoder"))
        return NetworkWeights(text_config(checkpoint), checkpoint, translator(TEXT))

    def image(self) -> NetworkWeights:
        checkpoint = open_pickle(require_path(self.root / UPSTREAM_IMAGE, "the CLIP image encoder"))
        return NetworkWeights(image_config(checkpoint), checkpoint, translator(IMAGE))

    def tokenizer(self) -> Path:
        return require_path(self.root / UPSTREAM_TOKENIZER, "the tokenizer of umT5")


@dataclass(frozen=True, slots=True)
class DiffusersLayout:
    """The layout of diffusers: one folder per network, each with its config.json."""

    root: Path

    def transformer(self) -> NetworkWeights:
        folder = self.root / "transformer"
        config = read_json(folder / "config.json")
        sizes = {name: config[name] for name in TRANSFORMER_SIZES if name in config}
        for name, wanted in TRANSFORMER_FIXED.items():
            if name in config and config[name] != wanted:
                raise ConfigError(f"{folder / 'config.json'}: {name} is {config[name]}; the transformer supports only {wanted}")
        return NetworkWeights(sizes, find_safetensors(folder, "diffusion_pytorch_model"), translator(IDENTITY))

    def codec(self) -> NetworkWeights:
        folder = self.root / "vae"
        sizes, _, _ = AutoencoderKLWan.extract_init_dict(read_json(folder / "config.json"))
        return NetworkWeights(sizes, find_safetensors(folder, "diffusion_pytorch_model"), translator(IDENTITY))

    def text(self) -> NetworkWeights:
        folder = self.root / "text_encoder"
        return NetworkWeights(UMT5Config(**read_json(folder / "config.json")), find_safetensors(folder, "model"), translator(SAVED_TEXT))

    def image(self) -> NetworkWeights:
        folder = self.root / "image_encoder"
        return NetworkWeights(CLIPVisionConfig(**read_json(folder / "config.json")), find_safetensors(folder, "model"), translator(SAVED_IMAGE))

    def tokenizer(self) -> Path:
        return require_path(self.root / "tokenizer", "the tokenizer of umT5")


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


def detect_layout(root: Path) -> Layout:
    """The layout of the folder `root`. Raises ConfigError if it is neither of the two."""
    if (root / "transformer").is_dir():
        return DiffusersLayout(root)
    if (root / "config.json").is_file() and any(root.glob("diffusion_pytorch_model*.safetensors")):
        return ReleaseLayout(root)
    raise ConfigError(
        f"{root}: neither the original release (config.json, diffusion_pytorch_model*.safetensors) nor diffusers' folders (transformer/, vae/, ...); "
        "set generate.model.weights to the folder of a base model"
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ConfigError."""
    try:
        content = json.loads(require_path(path, "the sizes of a network").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: wanted a JSON object")
    return content
