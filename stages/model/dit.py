"""The InfiniteTalk denoiser: Wan2.1's image-to-video transformer, whose blocks also listen.

diffusers' `WanTransformer3DModel` with an audio projector, and in each block an audio cross-attention behind the text and image
cross-attention. Parameters keep diffusers' names where the base model has them and the release's names where it does not.
After MeiGen-AI/InfiniteTalk, wan/modules/multitalk_model.py.

Shapes: B videos (1 but in training), P persons, F film frames, T = 1 + (F - 1) / 4 latent frames, H x W latent size, h x w = H/2 x W/2 tokens
per frame, S = T*h*w tokens, L the tokens of this rank, D width, N heads of K channels.
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
from infinitedub.stages.model.shards import Shard, Shards, cut
from infinitedub.stages.model.speakers import speaker_positions, token_classes

PATCH = 2  # latent pixels per token, along rows and columns
TEXT_TOKENS = 512  # diffusers' WanAttnProcessor tells text from image tokens by this number


@dataclass(frozen=True, slots=True)
class EmbeddedConditioning:
    """What a pass is told, embedded: the same at every step of a window."""

    context: Tensor  # [B, 257 + 512, D]: image tokens, then text tokens
    audio: Tensor  # [B, T, P*tokens, C]: person after person
    persons: int


class StepCache(Protocol):
    """Decides from step to step whether the blocks have anything new to say."""

    def reuse(self) -> Tensor | None:
        """What the blocks added to the local tokens at an earlier step, where it still holds at this one."""

    def keep(self, residual: Tensor) -> None:
        """Remembers what the blocks have just added to the local tokens."""


@dataclass(frozen=True, slots=True)
class ForwardContext:
    """What all blocks of one forward pass share."""

    told: EmbeddedConditioning
    shards: Shards
    shard: Shard
    rotary: tuple[Tensor, Tensor]  # cosines and sines [1, L, 1, K] of the local tokens
    classes: Tensor | None  # [3, h*w] whose each token of a frame is; None where one person speaks
    compat_upstream: bool


class TalkingBlock(WanTransformerBlock):
    """Self-attention, what text and image say, what the speech says, feed-forward."""

    def __init__(self, dim: int, ffn_dim: int, heads: int, eps: float, audio_dim: int) -> None:
        super().__init__(dim, ffn_dim, heads, cross_attn_norm=True, eps=eps, added_kv_proj_dim=dim)
        self.norm_x = FP32LayerNorm(dim, eps, elementwise_affine=True)
        self.audio_cross_attn = AudioCrossAttention(dim, audio_dim, heads)

    def forward(self, hidden: Tensor, modulation: Tensor, scene: ForwardContext) -> Tensor:
        """The local tokens `hidden` [B, L, D] one block on; `modulation` [B, 6, D] in float32."""
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (self.scale_shift_table + modulation).chunk(6, dim=1)

        normed = (self.norm1(hidden.float()) * (1 + scale) + shift).type_as(hidden)
        query, key, value = project(self.attn1, normed, scene.rotary)
        attended = self.attn1.to_out[0](scene.shards.attention(query, key, value).flatten(2))
        hidden = (hidden.float() + attended * gate).type_as(hidden)

        hidden = hidden + self.attn2(self.norm2(hidden), scene.told.context)

        positions = None
        if scene.classes is not None:
            positions = speaker_positions(query, key, scene.classes, scene.shards, scene.compat_upstream)
        hidden = hidden + self.audio_cross_attn(self.norm_x(hidden), scene.told.audio, scene.shard, positions)

        normed = (self.norm3(hidden.float()) * (1 + ffn_scale) + ffn_shift).type_as(hidden)
        return (hidden.float() + self.ffn(normed) * ffn_gate).type_as(hidden)


class InfiniteTalkTransformer(WanTransformer3DModel):
    """Predicts the flow of a window's latents. The defaults are the sizes of the 14B release."""

    _no_split_modules = ["TalkingBlock"]
    _repeated_blocks = ["TalkingBlock"]

    fp32_modules = ("condition_embedder.time_embedder", "condition_embedder.time_proj", "proj_out")
    """What computes in float32 in every precision, and so keeps float32 weights; norms and modulation upcast on their own."""

    compat_upstream = False
    """Makes the attention map of two persons as the release does: an odd number of heads loses its last one, an empty mask gives NaN."""

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

        Made once per window and pass. Text is filled up with zeros before it is embedded: the model has learnt to attend to what they become.
        """
        if text.shape[1] > TEXT_TOKENS or len(audio) > 2:
            raise ValueError(f"{text.shape[1]} text tokens and {len(audio)} persons came; the model knows {TEXT_TOKENS} and 2 at most")
        dtype = self.patch_embedding.weight.dtype
        filled = F.pad(text.to(dtype), (0, 0, 0, TEXT_TOKENS - text.shape[1]))
        image_tokens = self.condition_embedder.image_embedder(image.to(dtype))
        text_tokens = self.condition_embedder.text_embedder(filled)
        audio_tokens = rearrange(self.audio_proj(audio.to(dtype)), "p t s c -> 1 t (p s) c")
        return EmbeddedConditioning(torch.cat([image_tokens, text_tokens], dim=1), audio_tokens, persons=len(audio))

    def forward(
        self, latents: Tensor, timestep: Tensor, told: EmbeddedConditioning, masks: Tensor | None, *, shards: Shards, steps: StepCache | None = None
    ) -> Tensor:
        """The flow [1, 16, T, H, W] in float32, whole on every rank.

        latents [1, 36, T, H, W]: 16 noisy channels, 4 mask channels, 16 condition channels. timestep [1] in 0..1000. masks [3, H, W]: where
        person 1, person 2 and the background are; read only where two persons were told, and needed there.
        """
        frames, rows, columns = latents.shape[2], latents.shape[3] // PATCH, latents.shape[4] // PATCH
        if told.audio.shape[1] != frames:
            raise ValueError(f"audio was told for {told.audio.shape[1]} latent frames, the latents have {frames}")
        shard = cut(frames * rows * columns, rows * columns, shards.degree)[shards.rank]
        cosines, sines = self.rope(latents)
        scene = ForwardContext(
            told=told,
            shards=shards,
            shard=shard,
            rotary=(shard.take(cosines), shard.take(sines)),
            classes=self.classes(told, masks, rows, columns),
            compat_upstream=self.compat_upstream,
        )
        time, modulation = self.embed_time(timestep)
        hidden = self.patch_embedding(latents.to(self.patch_embedding.weight.dtype))
        hidden = shard.take(rearrange(hidden, "b d t h w -> b (t h w) d"))

        hidden = self.run_blocks(hidden, modulation, scene, steps)

        shift, scale = (self.scale_shift_table + time[:, None]).chunk(2, dim=1)
        flow = self.proj_out(self.norm_out(hidden.float()) * (1 + scale) + shift)
        return rearrange(shards.gather(flow), "b (t h w) (p q c) -> b c t (h p) (w q)", t=frames, h=rows, w=columns, p=PATCH, q=PATCH).float()

    def embed_time(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """The embedded timestep [B, D], and what it makes of every block [B, 6, D]; float32."""
        embedder = self.condition_embedder
        time = embedder.time_embedder(embedder.timesteps_proj(timestep))
        return time, embedder.time_proj(embedder.act_fn(time)).unflatten(1, (6, -1))

    def run_blocks(self, hidden: Tensor, modulation: Tensor, scene: ForwardContext, steps: StepCache | None) -> Tensor:
        """The local tokens behind the last block, or with what an earlier step added to them."""
        residual = steps.reuse() if steps else None
        if residual is not None:
            return hidden + residual
        before = hidden
        for block in self.blocks:
            hidden = block(hidden, modulation, scene)
        if steps:
            steps.keep(hidden - before)
        return hidden

    @staticmethod
    def classes(told: EmbeddedConditioning, masks: Tensor | None, rows: int, columns: int) -> Tensor | None:
        """Whose each token of a frame is [3, h*w]; None where nobody needs to know."""
        if told.persons == 1:
            return None  # whoever is in the picture hears the one voice: no map is needed
        if masks is None:
            raise ValueError("two persons were told: their masks are needed")
        return token_classes(masks, rows, columns)


def project(attention: WanAttention, normed: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys of self-attention, normed and rotated, and values: each [B, L, N, K]."""
    query = attention.norm_q(attention.to_q(normed)).unflatten(2, (attention.heads, -1))
    key = attention.norm_k(attention.to_k(normed)).unflatten(2, (attention.heads, -1))
    value = attention.to_v(normed).unflatten(2, (attention.heads, -1))
    return rotate_3d(query, rotary), rotate_3d(key, rotary), value


def rotate_3d(heads: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of [B, L, N, K] by diffusers' tables, which hold the angle of each pair of neighbouring channels twice; in float32."""
    cosine, sine = rotary[0][..., 0::2], rotary[1][..., 0::2]
    even, odd = heads.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2).type_as(heads)
