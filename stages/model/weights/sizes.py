"""Sizes of the networks of the original release, read from the shapes of their weights where no configuration file gives them."""

import math
import re
from collections.abc import Mapping
from typing import Any

from transformers import CLIPVisionConfig, UMT5Config, Wav2Vec2Config

from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.dit import TEXT_TOKENS
from infinitedub.stages.model.weights.audio_width import AUDIO_WINDOW, check_audio_width
from infinitedub.stages.model.weights.checkpoint import Checkpoint

CLIP_HEADS = 16  # of ViT-H/14; not visible in the shapes
VAE_SCALE = 4


def transformer_sizes(config: Mapping[str, Any], base: Checkpoint) -> dict[str, Any]:
    """Arguments of `InfiniteTalkTransformer` except those for audio, from the release's config.json and the shapes of its weights."""
    if config.get("text_len", TEXT_TOKENS) != TEXT_TOKENS:
        raise ConfigError(f"{base.location}: config.json has text_len {config['text_len']}; the transformer supports only {TEXT_TOKENS}")
    return dict(
        num_attention_heads=config["num_heads"],
        attention_head_dim=config["dim"] // config["num_heads"],
        in_channels=config["in_dim"],
        out_channels=config["out_dim"],
        text_dim=axis(base, "text_embedding.0.weight", 1),
        freq_dim=config["freq_dim"],
        ffn_dim=config["ffn_dim"],
        num_layers=config["num_layers"],
        eps=config["eps"],
        image_dim=axis(base, "img_emb.proj.1.weight", 1),
    )


def audio_sizes(adapter: Checkpoint, speech: Wav2Vec2Config) -> dict[str, Any]:
    """Arguments of `InfiniteTalkTransformer` for audio, from the adapter's shapes and the speech encoder it was trained with."""
    intermediate, inputs = axis(adapter, "audio_proj.proj1.weight", 0), axis(adapter, "audio_proj.proj1.weight", 1)
    blocks, channels = speech.num_hidden_layers, speech.hidden_size
    check_audio_width(adapter.location, inputs, blocks, channels)
    output = axis(adapter, "blocks.0.audio_cross_attn.kv_linear.weight", 1)
    return dict(
        audio_window=AUDIO_WINDOW,
        vae_scale=VAE_SCALE,
        audio_blocks=blocks,
        audio_channels=channels,
        intermediate_dim=intermediate,
        context_tokens=axis(adapter, "audio_proj.proj3.weight", 0) // output,
        output_dim=output,
        norm_output_audio="audio_proj.norm.weight" in set(adapter),
    )


def text_config(checkpoint: Checkpoint) -> UMT5Config:
    """The configuration of upstream's umT5 encoder."""
    vocabulary, dim = checkpoint.shape("token_embedding.weight") if "token_embedding.weight" in set(checkpoint) else (0, 0)
    buckets = axis(checkpoint, "blocks.0.pos_embedding.embedding.weight", 0)
    heads = axis(checkpoint, "blocks.0.pos_embedding.embedding.weight", 1)
    return UMT5Config(
        vocab_size=vocabulary,
        d_model=dim,
        d_kv=axis(checkpoint, "blocks.0.attn.q.weight", 0) // heads,
        d_ff=axis(checkpoint, "blocks.0.ffn.fc1.weight", 0),
        num_layers=count_modules(checkpoint, r"blocks\.(\d+)\..*"),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        relative_attention_max_distance=128,
        feed_forward_proj="gated-gelu",
        layer_norm_epsilon=1e-6,
        dropout_rate=0.0,
    )


def image_config(checkpoint: Checkpoint) -> CLIPVisionConfig:
    """The configuration of upstream's CLIP vision tower."""
    dim, patch = axis(checkpoint, "visual.patch_embedding.weight", 0), axis(checkpoint, "visual.patch_embedding.weight", 2)
    return CLIPVisionConfig(
        hidden_size=dim,
        intermediate_size=axis(checkpoint, "visual.transformer.0.mlp.0.weight", 0),
        num_hidden_layers=count_modules(checkpoint, r"visual\.transformer\.(\d+)\..*"),
        num_attention_heads=CLIP_HEADS,
        image_size=patch * math.isqrt(axis(checkpoint, "visual.pos_embedding", 1) - 1),
        patch_size=patch,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
    )


def codec_sizes(checkpoint: Checkpoint) -> dict[str, Any]:
    """Arguments of diffusers' `AutoencoderKLWan`. The encoder numbers its modules by level: residual blocks and a downsampler, except in the last."""
    names = set(checkpoint)
    modules = count_modules(checkpoint, r"encoder\.downsamples\.(\d+)\..*")
    downsamplers = [number for number in range(modules) if f"encoder.downsamples.{number}.resample.1.weight" in names]
    base = axis(checkpoint, "encoder.conv1.weight", 0)
    blocks = downsamplers[0] if downsamplers else modules
    starts = [0, *(number + 1 for number in downsamplers)]
    return dict(
        base_dim=base,
        z_dim=axis(checkpoint, "conv2.weight", 0),
        dim_mult=[axis(checkpoint, f"encoder.downsamples.{start}.residual.2.weight", 0) // base for start in starts],
        num_res_blocks=blocks,
        temperal_downsample=[f"encoder.downsamples.{number}.time_conv.weight" in names for number in downsamplers],
    )


def axis(checkpoint: Checkpoint, name: str, number: int) -> int:
    """The length of axis `number` of a tensor. Raises ConfigError if there is no such tensor."""
    if name not in set(checkpoint):
        raise ConfigError(f"{checkpoint.location}: has no tensor {name}; check that this is the right file")
    return checkpoint.shape(name)[number]


def count_modules(checkpoint: Checkpoint, numbered: str) -> int:
    """The number of modules, from the highest number that the group of the pattern `numbered` matches."""
    return 1 + max((int(match[1]) for name in checkpoint if (match := re.fullmatch(numbered, name))), default=-1)
