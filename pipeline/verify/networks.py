"""The product's networks with the weights of a fixture, loaded by the code that loads a release."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from transformers import CLIPVisionModel, UMT5EncoderModel

from infinitedub.stages.model.dit import InfiniteTalkTransformer
from infinitedub.stages.model.image_encoder import ImageEncoder
from infinitedub.stages.model.latent_codec import LatentCodec
from infinitedub.stages.model.speech_encoder import SpeechEncoder
from infinitedub.stages.model.weights.checkpoint import InMemoryCheckpoint
from infinitedub.stages.model.weights.keymap import IMAGE, TEXT, TRANSFORMER, codec_translator, translator
from infinitedub.stages.model.weights.load import build_empty, load_weights, map_sources
from infinitedub.stages.model.weights.sizes import codec_sizes, image_config, text_config
from infinitedub.stages.model.weights.speech_checkpoint import SpeechCheckpoint


def build_transformer(weights: InMemoryCheckpoint, about: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> InfiniteTalkTransformer:
    """The denoiser with compat_upstream; `about` holds the arguments of upstream's constructor."""
    given = about["constructor"]
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
            image_dim=about["clip_dim"],
            audio_window=given["audio_window"],
            vae_scale=given["vae_scale"],
            audio_blocks=about["audio_blocks"],
            audio_channels=about["audio_channels"],
            intermediate_dim=given["intermediate_dim"],
            context_tokens=given["context_tokens"],
            output_dim=given["output_dim"],
            norm_output_audio="audio_proj.norm.weight" in weights.tensors,
        )
    load_weights(network, map_sources(weights, translator(TRANSFORMER)), dtype=dtype, device="cpu", fp32_modules=network.fp32_modules)
    network.compat_upstream = True
    return network


def build_codec(weights: InMemoryCheckpoint) -> LatentCodec:
    sizes = codec_sizes(weights)
    with build_empty():
        network = AutoencoderKLWan(**sizes)
    load_weights(network, map_sources(weights, codec_translator(sizes["num_res_blocks"])), dtype=torch.float32, device="cpu")
    return LatentCodec(network)


def build_image_encoder(weights: InMemoryCheckpoint, heads: int) -> ImageEncoder:
    """The CLIP vision tower; the number of heads cannot be derived from its weights."""
    config = image_config(weights)
    config.num_attention_heads = heads
    with build_empty():
        network = CLIPVisionModel(config)
    load_weights(network, map_sources(weights, translator(IMAGE)), dtype=torch.float32, device="cpu")
    return ImageEncoder(network)


def build_text_model(weights: InMemoryCheckpoint) -> UMT5EncoderModel:
    with build_empty():
        network = UMT5EncoderModel(text_config(weights))
        network.encoder.embed_tokens = network.shared
    load_weights(network, map_sources(weights, translator(TEXT)), dtype=torch.float32, device="cpu")
    return network


def build_speech_encoder(weights: InMemoryCheckpoint, about: Mapping[str, Any]) -> SpeechEncoder:
    """The wav2vec2 encoder, loaded from a folder in the layout of its release."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(about["config"]))
        (folder / "preprocessor_config.json").write_text(json.dumps(about["feature_extractor"]))
        save_file(dict(weights.tensors), folder / "model.safetensors")
        return SpeechCheckpoint(folder).encoder(torch.float32, "cpu")
