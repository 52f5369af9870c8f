"""Which files a model consists of, given the names of the files that exist. Loading and the check before start ask the same functions."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from infinitedub.stages.errors import ConfigError

UPSTREAM_TEXT = "models_t5_umt5-xxl-enc-bf16.pth"
UPSTREAM_IMAGE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
UPSTREAM_CODEC = "Wan2.1_VAE.pth"
UPSTREAM_TOKENIZER = "google/umt5-xxl"
TRANSFORMER_STEM = "diffusion_pytorch_model"
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")  # either is enough
SHARD = re.compile(r"-\d{5}-of-(\d{5})\.safetensors")

LayoutName = Literal["release", "diffusers"]
Kind = Literal["json", "safetensors", "pickle", "other"]
ReadJson = Callable[[str], Mapping[str, Any]]
"""The object in the JSON file of that name. Raises ConfigError."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file of a model, whether it exists or not."""

    name: str  # relative to the model's folder
    network: str  # what it belongs to
    kind: Kind


def base_layout(location: str, names: Collection[str]) -> LayoutName:
    """The layout of the base model in the folder `location`, whose files have these relative names. Raises ConfigError if it is none."""
    if any(name == "model_index.json" or name.startswith("transformer/") for name in names):
        return "diffusers"
    own = (UPSTREAM_TEXT, UPSTREAM_IMAGE, UPSTREAM_CODEC)
    if any(name in own or re.match(rf"{TRANSFORMER_STEM}.*\.safetensors", name) for name in names):
        return "release"
    if not names:
        raise ConfigError(f"{location}: no file exists there; set generate.model.weights to the folder of a base model")
    gguf = "; its GGUF files cannot be read" if any(name.endswith(".gguf") for name in names) else ""
    raise ConfigError(
        f"{location}: neither the original release (config.json, diffusion_pytorch_model*.safetensors) nor diffusers' folders "
        f"(transformer/, vae/, ...){gguf}; set generate.model.weights to the folder of a base model"
    )


def base_files(location: str, names: Collection[str], read_json: ReadJson) -> list[ModelFile]:
    """Every file of a base model. Raises ConfigError if the files are those of no base model, or its index is damaged."""
    layout = base_layout(location, names)
    if layout == "release":
        return [
            ModelFile("config.json", "transformer", "json"),
            *_weights(location, names, TRANSFORMER_STEM, "transformer", read_json),
            ModelFile(UPSTREAM_CODEC, "video autoencoder", "pickle"),
            ModelFile(UPSTREAM_TEXT, "umT5 text encoder", "pickle"),
            ModelFile(UPSTREAM_IMAGE, "CLIP image encoder", "pickle"),
            _tokenizer(names, UPSTREAM_TOKENIZER),
        ]
    networks = (
        ("transformer", TRANSFORMER_STEM, "transformer"),
        ("vae", TRANSFORMER_STEM, "video autoencoder"),
        ("text_encoder", "model", "umT5 text encoder"),
        ("image_encoder", "model", "CLIP image encoder"),
    )
    files = [_tokenizer(names, "tokenizer")]
    for folder, stem, network in networks:
        files += [ModelFile(f"{folder}/config.json", network, "json"), *_weights(location, names, f"{folder}/{stem}", network, read_json)]
    return files


def speech_files(location: str, names: Collection[str], read_json: ReadJson) -> list[ModelFile]:
    """Every file of the wav2vec2 speech encoder."""
    network = "wav2vec2 speech encoder"
    pickled = "model.safetensors" not in names and "pytorch_model.bin" in names
    weights = ModelFile("pytorch_model.bin", network, "pickle") if pickled else ModelFile("model.safetensors", network, "safetensors")
    return [ModelFile("config.json", network, "json"), ModelFile("preprocessor_config.json", network, "json"), weights]


def safetensors_names(location: str, names: Collection[str], stem: str, read_json: ReadJson) -> list[str]:
    """The files that hold the tensors of `stem`, relative to the model's folder, whether they exist or not.

    `stem`.safetensors if it exists; else the shards that its index names; else as many shards as the existing ones say.
    Raises ConfigError if the index is damaged.
    """
    single, index = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
    if single in names:
        return [single]
    if index in names:
        weight_map = read_json(index).get("weight_map")
        files = set(weight_map.values()) if isinstance(weight_map, dict) else set()
        if not files or not all(isinstance(file, str) and re.fullmatch(r"[\w.-]+", file) for file in files):
            raise ConfigError(f"{location}/{index}: wanted a weight_map with the names of files; download it again")
        folder = stem.rpartition("/")[0]
        return sorted(f"{folder}/{file}" if folder else file for file in files)
    numbers = {int(match[1]) for name in names if name.startswith(f"{stem}-") and (match := SHARD.fullmatch(name.removeprefix(stem)))}
    return [f"{stem}-{number:05}-of-{max(numbers):05}.safetensors" for number in range(1, max(numbers) + 1)] if numbers else [single]


def parse_json(location: str, content: bytes) -> dict[str, Any]:
    """The object in a JSON file. Raises ConfigError, which names `location`."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{location}: not JSON ({error}); download it again") from error
    if not isinstance(parsed, dict):
        raise ConfigError(f"{location}: wanted a JSON object; download it again")
    return parsed


def _weights(location: str, names: Collection[str], stem: str, network: str, read_json: ReadJson) -> list[ModelFile]:
    return [ModelFile(name, network, "safetensors") for name in safetensors_names(location, names, stem, read_json)]


def _tokenizer(names: Collection[str], folder: str) -> ModelFile:
    found = next((name for name in TOKENIZER_FILES if f"{folder}/{name}" in names), TOKENIZER_FILES[0])
    return ModelFile(f"{folder}/{found}", "tokenizer of umT5", "other")
