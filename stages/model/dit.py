"""The InfiniteTalk denoiser: Wan2.1's image-to-video transformer with audio cross-attention.

This is diffusers' `WanTransformer3DModel` with an audio projector, and in each block an audio cross-attention after the text and image
cross-attention. Parameters of the base model keep diffusers' names; the others keep the names of the release.
After MeiGen-AI/InfiniteTalk, wan/modules/multitalk_model.py.

Shapes: B videos (1 except in training), P speakers, F film frames, T = 1 + (F - 1) / 4 latent frames, H x W latent size, h x w = H/2 x W/2 tokens
per frame, S = T*h*w tokens, L tokens of this rank, D width, N heads of K channels.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.transformers.transformer_wan import WanAttention, WanTransformerBlock
from einops import rearrange
from torch import Tensor, nn

from infinitedub.stages.model.audio_conditioning import AudioCrossAttention, AudioProjector
from infinitedub.stages.model.shards import Shard, Shards, split_tokens
from infinitedub.stages.model.speakers import speaker_positions, token_classes

PATCH = 2  # latent pixels per token, along rows and columns
TEXT_TOKENS = 512  # diffusers' WanAttnProcessor separates text from image tokens by this number


@dataclass(frozen=True, slots=True)
class EmbeddedConditioning:
    """The embedded text, image and audio of one guidance pass; the same at every step of a window."""

    image_text: Tensor  # [B, 257 + 512, D]: image tokens, then text tokens
    audio: Tensor  # [B, T, P*tokens, C]: all tokens of speaker 1, then those of speaker 2
    n_speakers: int


class StepCache(Protocol):
    """Decides at each step whether the blocks are computed or their last residual is reused."""

    def reuse(self) -> Tensor | None:
        """The residual of the blocks from an earlier step, if it can replace the blocks at this step; else None."""

    def keep(self, residual: Tensor) -> None:
        """Stores the residual of the blocks at this step: local tokens after the blocks minus local tokens before."""


@dataclass(frozen=True, slots=True)
class ForwardContext:
    """The inputs that all blocks of one forward pass share."""

    conditioning: EmbeddedConditioning
    shards: Shards
    shard: Shard
    rotary: tuple[Tensor, Tensor]  # cosines and sines [1, L, 1, K] of the local tokens
    classes: Tensor | None  # [3, h*w], ones and zeros: the class (speaker 1, speaker 2, background) of each token of a frame; None for one speaker
    compat_upstream: bool


class TalkingBlock(WanTransformerBlock):
    """Self-attention, text and image cross-attention, audio cross-attention, feed-forward."""

    def __init__(self, dim: int, ffn_dim: int, heads: int, eps: float, audio_dim: int) -> None:
        super().__init__(dim, ffn_dim, heads, cross_attn_norm=True, eps=eps, added_kv_proj_dim=dim)
        self.norm_x = FP32LayerNorm(dim, eps, elementwise_affine=True)
        self.audio_cross_attn = AudioCrossAttention(dim, audio_dim, heads)

    def forward(self, hidden: Tensor, modulation: Tensor, context: ForwardContext) -> Tensor:
        """The local tokens after this block, from `hidden` [B, L, D] before it; `modulation` [B, 6, D] in float32."""
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (self.scale_shift_table + modulation).chunk(6, dim=1)

        normed = (self.norm1(hidden.float()) * (1 + scale) + shift).type_as(hidden)
        query, key, value = project_qkv(self.attn1, normed, context.rotary)
        attended = self.attn1.to_out[0](context.shards.attention(query, key, value).flatten(2))
        hidden = (hidden.float() + attended * gate).type_as(hidden)

        hidden = hidden + self.attn2(self.norm2(hidden), context.conditioning.image_text)

        positions = None
        if context.classes is not None:
            positions = speaker_positions(query, key, context.classes, context.shards, context.compat_upstream)
        hidden = hidden + self.audio_cross_attn(self.norm_x(hidden), context.conditioning.audio, context.shard, positions)

        normed = (self.norm3(hidden.float()) * (1 + ffn_scale) + ffn_shift).type_as(hidden)
        return (hidden.float() + self.ffn(normed) * ffn_gate).type_as(hidden)


class InfiniteTalkTransformer(WanTransformer3DModel):
    """Predicts the flow of a window's latents. The defaults are the sizes of the 14B release."""

    _no_split_modules = ["TalkingBlock"]
    _repeated_blocks = ["TalkingBlock"]

    fp32_modules = ("condition_embedder.time_embedder", "condition_embedder.time_proj", "proj_out")
    """Modules that compute in float32 in every precision and so keep float32 weights; norms and modulation upcast on their own."""

    compat_upstream = False
    """Computes the attention map of two speakers as the release does: of an odd number of heads the last is ignored, and an empty mask gives NaN."""

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 36,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        eps: float = 1e-6,
        image_dim: int = 1280,
        audio_window: int = 5,
        vae_scale: int = 4,
        audio_blocks: int = 12,
        audio_channels: int = 768,
        intermediate_dim: int = 512,
        context_tokens: int = 32,
        output_dim: int = 768,
        norm_output_audio: bool = True,
    ) -> None:
        dim = num_attention_heads * attention_head_dim
        super().__init__(
            patch_size=(1, PATCH, PATCH),
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=num_layers,
            eps=eps,
            image_dim=image_dim,
            added_kv_proj_dim=dim,
        )
        self.audio_proj = AudioProjector(
            window=audio_window,
            vae_scale=vae_scale,
            blocks=audio_blocks,
            channels=audio_channels,
            intermediate_dim=intermediate_dim,
            context_tokens=context_tokens,
            output_dim=output_dim,
            norm_output=norm_output_audio,
        )
        self.blocks = nn.ModuleList(TalkingBlock(dim, ffn_dim, num_attention_heads, eps, output_dim) for _ in range(num_layers))

    def embed(self, text: Tensor, image: Tensor, audio: Tensor) -> EmbeddedConditioning:
        """The tokens of `text` [1, up to 512, text_dim], `image` [1, 257, image_dim] and `audio` [P, F, window, blocks, channels], P one or two.

        Computed once per window and guidance pass. Text is padded with zeros before it is embedded, as in the model's training.
        """
        if text.shape[1] > TEXT_TOKENS or len(audio) > 2:
            raise ValueError(f"got {text.shape[1]} text tokens and {len(audio)} speakers; the model takes at most {TEXT_TOKENS} and 2")
        dtype = self.patch_embedding.weight.dtype
        padded = F.pad(text.to(dtype), (0, 0, 0, TEXT_TOKENS - text.shape[1]))
        image_tokens = self.condition_embedder.image_embedder(image.to(dtype))
        text_tokens = self.condition_embedder.text_embedder(padded)
        audio_tokens = rearrange(self.audio_proj(audio.to(dtype)), "p t s c -> 1 t (p s) c")
        return EmbeddedConditioning(torch.cat([image_tokens, text_tokens], dim=1), audio_tokens, n_speakers=len(audio))

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        conditioning: EmbeddedConditioning,
        masks: Tensor | None,
        *,
        shards: Shards,
        step_cache: StepCache | None = None,
    ) -> Tensor:
        """The predicted flow [1, 16, T, H, W] in float32, complete on every rank.

        latents [1, 36, T, H, W]: 16 noisy channels, 4 mask channels, 16 condition channels. timestep [1] in 0..1000. masks [3, H, W]: the areas of
        speaker 1, speaker 2 and the background; required for two speakers, ignored for one.
        """
        frames, rows, columns = latents.shape[2], latents.shape[3] // PATCH, latents.shape[4] // PATCH
        if conditioning.audio.shape[1] != frames:
            raise ValueError(f"got audio tokens for {conditioning.audio.shape[1]} latent frames; the latents have {frames}")
        shard = split_tokens(frames * rows * columns, rows * columns, shards.degree)[shards.rank]
        cosines, sines = self.rope(latents)
        context = ForwardContext(
            conditioning=conditioning,
            shards=shards,
            shard=shard,
            rotary=(shard.slice_tokens(cosines), shard.slice_tokens(sines)),
            classes=self.speaker_classes(conditioning, masks, rows, columns),
            compat_upstream=self.compat_upstream,
        )
        time, modulation = self.embed_time(timestep)
        hidden = self.patch_embedding(latents.to(self.patch_embedding.weight.dtype))
        hidden = shard.slice_tokens(rearrange(hidden, "b d t h w -> b (t h w) d"))

        hidden = self.run_blocks(hidden, modulation, context, step_cache)

        shift, scale = (self.scale_shift_table + time[:, None]).chunk(2, dim=1)
        flow = self.proj_out(self.norm_out(hidden.float()) * (1 + scale) + shift)
        return rearrange(shards.gather(flow), "b (t h w) (p q c) -> b c t (h p) (w q)", t=frames, h=rows, w=columns, p=PATCH, q=PATCH).float()

    def embed_time(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """The embedded timestep [B, D] and the modulation that all blocks share [B, 6, D]; float32."""
        embedder = self.condition_embedder
        time = embedder.time_embedder(embedder.timesteps_proj(timestep))
        return time, embedder.time_proj(embedder.act_fn(time)).unflatten(1, (6, -1))

    def run_blocks(self, hidden: Tensor, modulation: Tensor, context: ForwardContext, step_cache: StepCache | None) -> Tensor:
        """The local tokens after the last block, or with the residual of an earlier step added."""
        residual = step_cache.reuse() if step_cache else None
        if residual is not None:
            return hidden + residual
        before = hidden
        for block in self.blocks:
            hidden = block(hidden, modulation, context)
        if step_cache:
            step_cache.keep(hidden - before)
        return hidden

    @staticmethod
    def speaker_classes(conditioning: EmbeddedConditioning, masks: Tensor | None, rows: int, columns: int) -> Tensor | None:
        """The class of each token of a frame [3, h*w], ones and zeros; None for one speaker."""
        if conditioning.n_speakers == 1:
            return None  # all tokens attend to the one voice
        if masks is None:
            raise ValueError("masks are required for two speakers, got None")
        return token_classes(masks, rows, columns)


def project_qkv(attention: WanAttention, normed: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys of self-attention, normed and rotated, and values: each [B, L, N, K]."""
    query = attention.norm_q(attention.to_q(normed)).unflatten(2, (attention.heads, -1))
    key = attention.norm_k(attention.to_k(normed)).unflatten(2, (attention.heads, -1))
    value = attention.to_v(normed).unflatten(2, (attention.heads, -1))
    return rotate_3d(query, rotary), rotate_3d(key, rotary), value


def rotate_3d(heads: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of [B, L, N, K] by diffusers' tables, which repeat the angle of each pair of neighbouring channels; in float32."""
    cosine, sine = rotary[0][..., 0::2], rotary[1][..., 0::2]
    even, odd = heads.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2).type_as(heads)
