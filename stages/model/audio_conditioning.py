"""Audio conditioning of the denoiser: windows of speech features, their projection to tokens, and the cross-attention to them.

After MeiGen-AI/InfiniteTalk: `AudioProjModel` and `SingleStreamMultiAttention` in wan/modules. Shapes as in dit.py.
"""

import torch
from diffusers.models.normalization import FP32LayerNorm
from einops import rearrange
from torch import Tensor, nn

from infinitedub.stages.model.shards import Shard, attention
from infinitedub.stages.model.speakers import audio_token_positions, rotate


def window_indices(start: int, frames: int, available: int, window: int) -> Tensor:
    """Indices [frames, window] of the feature rows around each film frame; indices outside of the `available` rows are clamped."""
    centre = torch.arange(start, start + frames)[:, None]
    around = torch.arange(window) - window // 2
    return (centre + around).clamp(0, available - 1)


class AudioProjector(nn.Module):
    """Projects windows of speech features to audio tokens, one set per latent frame.

    Each latent frame except the first stands for `vae_scale` film frames. The first of these film frames contributes the past half of its window
    with the centre row, the last the centre row with the future half, and each frame between only its centre row. For a window of 5 and 4 film
    frames that makes 3 + 2 + 3 rows.
    """

    def __init__(
        self,
        *,
        window: int,
        vae_scale: int,
        blocks: int,
        channels: int,
        intermediate_dim: int,
        context_tokens: int,
        output_dim: int,
        norm_output: bool,
    ) -> None:
        super().__init__()
        rows = 2 * (window // 2 + 1) + vae_scale - 2
        self.vae_scale = vae_scale
        self.context_tokens = context_tokens
        self.proj1 = nn.Linear(window * blocks * channels, intermediate_dim)
        self.proj1_vf = nn.Linear(rows * blocks * channels, intermediate_dim)
        self.proj2 = nn.Linear(intermediate_dim, intermediate_dim)
        self.proj3 = nn.Linear(intermediate_dim, context_tokens * output_dim)
        self.norm = FP32LayerNorm(output_dim) if norm_output else nn.Identity()

    def forward(self, audio: Tensor) -> Tensor:
        """Tokens [P, T, tokens, C] of `audio` [P, F, window, blocks, channels]."""
        first, later = self.gather_rows(audio)
        hidden = torch.cat([self.proj1(first.flatten(2)), self.proj1_vf(later.flatten(2))], dim=1)
        hidden = self.proj3(self.proj2(hidden.relu()).relu())
        return self.norm(hidden.unflatten(-1, (self.context_tokens, -1)))

    def gather_rows(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """The feature rows of the first latent frame [P, 1, window, blocks, channels] and of each later one [P, T-1, rows, blocks, channels]."""
        frames, centre = audio.shape[1], audio.shape[2] // 2
        if (frames - 1) % self.vae_scale:
            raise ValueError(f"got audio of {frames} frames; a window has {self.vae_scale}n+1 frames")
        groups = audio[:, 1:].unflatten(1, ((frames - 1) // self.vae_scale, self.vae_scale))
        past, centres, future = groups[:, :, 0, : centre + 1], groups[:, :, 1:-1, centre], groups[:, :, -1, centre:]
        return audio[:, :1], torch.cat([past, centres, future], dim=2)


class AudioCrossAttention(nn.Module):
    """Cross-attention from each video token to the audio tokens of its own latent frame.

    Frames do not mix, so no communication between ranks is needed. A frame that is only partly in the shard is padded with zeros, which are removed
    afterwards.
    """

    def __init__(self, dim: int, audio_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_linear = nn.Linear(dim, dim)
        self.kv_linear = nn.Linear(audio_dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, hidden: Tensor, audio: Tensor, shard: Shard, positions: Tensor | None) -> Tensor:
        """The update [B, L, D] of the local tokens `hidden` [B, L, D] from `audio` [B, T, tokens, C].

        positions [L]: the rotary position of each token between the two speakers; None if there is one speaker.
        """
        query = rearrange(self.q_linear(hidden), "b l (n k) -> b l n k", n=self.heads)
        key, value = rearrange(self.kv_linear(shard.slice_frames(audio)), "b t s (two n k) -> two (b t) s n k", two=2, n=self.heads)
        if positions is not None:
            query = rotate(query, positions)
            key = rotate(key, audio_token_positions(key.shape[1], key.device))
        attended = shard.from_frames(attention(shard.to_frames(query), key, value), batch=len(hidden))
        return self.proj(attended.flatten(2))
