"""How one window's tokens are dealt among the ranks of a gang, and what the ranks must ask of each other.

The networks are written for a single device. `Shards` is all they know of parallelism, and it is handed in; `Shard` says which tokens are
here. Tokens are ordered (frame, row, column) and cut into equal, contiguous pieces, so a piece may begin and end in the middle of a frame.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from einops import rearrange
from torch import Tensor

from infinitedub.stages.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Shard:
    """The tokens `start` to `stop` of a window, the latter excluded, and the latent frames they touch."""

    start: int
    stop: int
    frame_tokens: int  # per latent frame

    @property
    def first_frame(self) -> int:
        return self.start // self.frame_tokens

    @property
    def stop_frame(self) -> int:
        return -(-self.stop // self.frame_tokens)

    @property
    def lead(self) -> int:
        """Tokens of the first touched frame that lie before the shard."""
        return self.start - self.first_frame * self.frame_tokens

    @property
    def trail(self) -> int:
        """Tokens of the last touched frame that lie behind the shard."""
        return self.stop_frame * self.frame_tokens - self.stop

    def take(self, tokens: Tensor) -> Tensor:
        """The shard's part of `tokens` [B, S, ...]."""
        return tokens[:, self.start : self.stop]

    def frames(self, per_frame: Tensor) -> Tensor:
        """The touched frames of `per_frame` [B, T, ...]."""
        return per_frame[:, self.first_frame : self.stop_frame]

    def by_frame(self, heads: Tensor) -> Tensor:
        """Local tokens [B, L, N, K] as whole frames [B*frames, frame_tokens, N, K], zeros where a neighbour holds the rest of a frame."""
        whole = F.pad(heads, (0, 0, 0, 0, self.lead, self.trail))
        return rearrange(whole, "b (t s) n k -> (b t) s n k", s=self.frame_tokens)

    def by_token(self, frames: Tensor, batch: int) -> Tensor:
        """Undoes `by_frame`: [B*frames, frame_tokens, N, K] to [B, L, N, K]."""
        whole = rearrange(frames, "(b t) s n k -> b (t s) n k", b=batch)
        return whole[:, self.lead : self.lead + self.stop - self.start]


def cut(tokens: int, frame_tokens: int, degree: int) -> tuple[Shard, ...]:
    """One equal shard per rank. Raises ConfigError where the tokens cannot be shared out equally."""
    if tokens % degree:
        raise ConfigError(f"{tokens} tokens of a window cannot be shared equally by {degree} ranks: change the frame size or the parallel degree")
    size = tokens // degree
    return tuple(Shard(rank * size, (rank + 1) * size, frame_tokens) for rank in range(degree))


def plan_shards(tokens: int, frame_tokens: int, heads: int, degree: int, ring: int = 1) -> tuple[Shard, ...]:
    """One equal shard per rank, where `degree // ring` ranks share the attention heads and `ring` groups pass keys around.

    Raises ConfigError where tokens or heads cannot be shared out equally.
    """
    if degree % ring:
        raise ConfigError(f"a parallel degree of {degree} does not divide into rings of {ring}")
    if heads % (degree // ring):
        raise ConfigError(
            f"{heads} attention heads cannot be shared equally by {degree // ring} ranks: choose a Ulysses degree that divides the heads, "
            "or put the other ranks into a ring"
        )
    return cut(tokens, frame_tokens, degree)


class Shards(Protocol):
    """What the ranks that work on one window do together. Every rank calls every method in the same order with tensors of the same shapes."""

    @property
    def rank(self) -> int: ...

    @property
    def degree(self) -> int: ...

    def attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of the local queries over the keys of all ranks; all [1, S/degree, heads, head_dim], softmax scale head_dim^-0.5."""

    def gather(self, tokens: Tensor) -> Tensor:
        """All ranks' tokens [1, S, D] from the local ones [1, S/degree, D], in rank order."""

    def first_frame(self, keys: Tensor, frame_tokens: int) -> Tensor:
        """The first `frame_tokens` keys of the window [1, frame_tokens, heads, head_dim], on every rank; `keys` are the local ones.

        They may come from more than one rank where a shard is smaller than a frame.
        """

    def extremes(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Minimum and maximum over all ranks of each row of `rows` [R, S/degree]: two tensors [R]."""


@dataclass(frozen=True, slots=True)
class Alone:
    """One device holds all the tokens."""

    rank: int = 0
    degree: int = 1

    def attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attention(query, key, value)

    def gather(self, tokens: Tensor) -> Tensor:
        return tokens

    def first_frame(self, keys: Tensor, frame_tokens: int) -> Tensor:
        return keys[:, :frame_tokens]

    def extremes(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return torch.aminmax(rows, dim=1)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention on this device over [B, S, heads, head_dim], by the kernel that diffusers' `attention_backend` chose."""
    return dispatch_attention_fn(query, key, value)
