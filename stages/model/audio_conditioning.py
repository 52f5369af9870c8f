"""How the denoiser listens: windows of speech features, their projection to tokens, and the attention to them.

After MeiGen-AI/InfiniteTalk: `AudioProjModel` and `SingleStreamMultiAttention` in wan/modules. Shapes as in dit.py.
"""

import torch
from diffusers.models.normalization import FP32LayerNorm
from einops import rearrange
from torch import Tensor, nn

from infinitedub.stages.model.shards import Shard, attention
from infinitedub.stages.model.speakers import listener_positions, rotate


def window_indices(start: int, frames: int, available: int, window: int) -> Tensor:
    """Which feature rows each film frame hears [frames, window]: those around it, the first and last of `available` rows held beyond the ends."""
    centre = torch.arange(start, start + frames)[:, None]
    around = torch.arange(window) - window // 2
    return (centre + around).clamp(0, available - 1)


class AudioProjector(nn.Module):
    """Turns windows of speech features into audio tokens, one set per latent frame.

    A latent frame but the first stands for `vae_scale` film frames. Its first film frame gives the past half of its window, its last the
    future half, those between their centre row only: for a window of 5 and 4 film frames 3 + 2 + 3 rows.
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
        """What the first latent frame hears [P, 1, window, blocks, channels], and what each later one does [P, T-1, rows, blocks, channels]."""
        frames, centre = audio.shape[1], audio.shape[2] // 2
        if (frames - 1) % self.vae_scale:
            raise ValueError(f"audio of {frames} frames: a window has a multiple of {self.vae_scale} frames, and one more")
        groups = audio[:, 1:].unflatten(1, ((frames - 1) // self.vae_scale, self.vae_scale))
        past, between, future = groups[:, :, 0, : centre + 1], groups[:, :, 1:-1, centre], groups[:, :, -1, centre:]
        return audio[:, :1], torch.cat([past, between, future], dim=2)


class AudioCrossAttention(nn.Module):
    """The picture's tokens attend to the audio tokens of their own latent frame.

    Frames do not mix, so a shard needs no other rank: where it holds only part of a frame, that part is completed with zeros that are cut off again.
    """

    def __init__(self, dim: int, audio_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_linear = nn.Linear(dim, dim)
        self.kv_linear = nn.Linear(audio_dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, hidden: Tensor, audio: Tensor, shard: Shard, positions: Tensor | None) -> Tensor:
        """What the local tokens `hidden` [B, L, D] hear of `audio` [B, T, tokens, C].

        positions [L]: between the two speakers, where each token stands; None where only one person speaks.
        """
        query = rearrange(self.q_linear(hidden), "b l (n k) -> b l n k", n=self.heads)
        key, value = rearrange(self.kv_linear(shard.frames(audio)), "b t s (two n k) -> two (b t) s n k", two=2, n=self.heads)
        if positions is not None:
            query = rotate(query, positions)
            key = rotate(key, listener_positions(key.shape[1], key.device))
        heard = shard.by_token(attention(shard.by_frame(query), key, value), batch=len(hidden))
        return self.proj(heard.flatten(2))
