"""Speaker binding: in a picture of two speakers, each video token attends to the speech of the speaker it belongs to.

Every video token gets a position on a line: [0, 4] for speaker 1, [20, 24] for speaker 2, and 12 for the background. The position of audio tokens is
the middle of their speaker's band. Rotary embedding of these positions raises attention between tokens that are close. A video token belongs to the
class (speaker 1, speaker 2, background) whose area of the first latent frame it attends to most; the strength of that attention, scaled to the range
over all tokens, is its position within the band.
After MeiGen-AI/InfiniteTalk: wan/utils/multitalk_utils.py and wan/modules/attention.py.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from infinitedub.stages.model.shards import Shards, attention

BANDS = ((0.0, 4.0), (20.0, 24.0))
BACKGROUND = 12.0
ROTARY_BASE = 10000.0


def token_classes(masks: Tensor, rows: int, columns: int) -> Tensor:
    """The class of each token of a frame [3, rows * columns], ones and zeros, from `masks` [3, H, W] at the nearest pixel."""
    nearest = F.interpolate(masks[None].float(), size=(rows, columns), mode="nearest")[0]
    return (nearest > 0).flatten(1).float()


def reference_map(query: Tensor, first_keys: Tensor, classes: Tensor, compat_upstream: bool) -> Tensor:
    """How much each local token attends to each class in the first latent frame, per token of the class [3, L].

    query [1, L, N, K] and first_keys [1, h*w, N, K] are normed and rotated. Attention with the class masks as values gives the sums without
    materialising the scores, which at 480p take 2 GB for each block and 20 heads. A class without tokens gets -1, less than any real value.
    """
    heads = query.shape[2]
    if compat_upstream:  # averages two chunks of heads // 2
        query, first_keys = query[:, :, : heads // 2 * 2], first_keys[:, :, : heads // 2 * 2]
    values = torch.zeros_like(first_keys)
    values[..., : len(classes)] = classes.T[:, None].to(values.dtype)  # as wide as the keys, for the sake of fused kernels
    summed = attention(query, first_keys, values)[..., : len(classes)].float()
    counts = classes.sum(dim=1)
    shares = rearrange(summed.mean(dim=2), "1 l c -> c l") / counts[:, None]
    return shares if compat_upstream else torch.where(counts[:, None] > 0, shares, -1.0)


def speaker_positions(query: Tensor, key: Tensor, classes: Tensor, shards: Shards, compat_upstream: bool) -> Tensor:
    """The position of each local token [L] on the line of the speakers; query and key [1, L, N, K] are the local ones of self-attention, rotated."""
    shares = reference_map(query, shards.first_frame(key, classes.shape[1]), classes, compat_upstream)
    low, high = shards.min_max(shares[: len(BANDS)])
    positions = [
        (share - low[speaker]) / (high[speaker] - low[speaker] + 1e-8) * (stop - start) + start
        for speaker, (share, (start, stop)) in enumerate(zip(shares, BANDS, strict=False))
    ]
    positions.append(torch.full_like(shares[-1], BACKGROUND))
    return torch.stack(positions).gather(0, shares.argmax(dim=0, keepdim=True))[0]


def audio_token_positions(tokens: int, device: torch.device) -> Tensor:
    """The positions [tokens] of the audio tokens of two speakers: first half at the middle of speaker 1's band, rest at that of speaker 2's."""
    middles = torch.tensor([(start + stop) / 2 for start, stop in BANDS], device=device)
    return middles.repeat_interleave(tokens // len(BANDS))


def rotate(heads: Tensor, positions: Tensor) -> Tensor:
    """Rotary embedding of `heads` [B, L, N, K] at real-valued `positions` [L], neighbouring channels as pairs, in float32."""
    frequencies = ROTARY_BASE ** -(torch.arange(0, heads.shape[-1], 2, device=heads.device).float() / heads.shape[-1])
    angles = positions.float()[:, None, None] * frequencies
    even, odd = heads.float().unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack([even * angles.cos() - odd * angles.sin(), odd * angles.cos() + even * angles.sin()], dim=-1)
    return rotated.flatten(-2).type_as(heads)
