"""The two layouts of a base model on disk: the original release, and diffusers' folders."""

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
from infinitedub.stages.model.weights.model_files import (
    TRANSFORMER_STEM,
    UPSTREAM_CODEC,
    UPSTREAM_IMAGE,
    UPSTREAM_TEXT,
    UPSTREAM_TOKENIZER,
    base_layout,
    parse_json,
)
from infinitedub.stages.model.weights.sizes import codec_sizes, image_config, text_config, transformer_sizes


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
        checkpoint = find_safetensors(self.root, TRANSFORMER_STEM)
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
        return NetworkWeights(sizes, find_safetensors(folder, TRANSFORMER_STEM), translator(IDENTITY))

    def codec(self) -> NetworkWeights:
        folder = self.root / "vae"
        sizes, _, _ = AutoencoderKLWan.extract_init_dict(read_json(folder / "config.json"))
        return NetworkWeights(sizes, find_safetensors(folder, TRANSFORMER_STEM), translator(IDENTITY))

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
    names = [f"{entry.name}/" if entry.is_dir() else entry.name for entry in root.iterdir()] if root.is_dir() else []
    return DiffusersLayout(root) if base_layout(str(root), names) == "diffusers" else ReleaseLayout(root)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ConfigError."""
    return parse_json(str(path), require_path(path, "the sizes of a network").read_bytes())
