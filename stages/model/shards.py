"""Sequence parallelism: how one window's tokens are split among the ranks of a gang, and the collectives that the networks need.

The networks are written for a single device. They know parallelism only as a `Shards` object, which is passed in; a `Shard` says which tokens
this rank holds. Tokens are ordered (frame, row, column) and split into equal, contiguous shards, so a shard may begin or end inside a frame.
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
    """The tokens `start` to `stop` (excluded) of a window, and the latent frames that they overlap."""

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
    def tokens_before(self) -> int:
        """How many tokens of the first overlapped frame lie before the shard."""
        return self.start - self.first_frame * self.frame_tokens

    @property
    def tokens_after(self) -> int:
        """How many tokens of the last overlapped frame lie after the shard."""
        return self.stop_frame * self.frame_tokens - self.stop

    def slice_tokens(self, tokens: Tensor) -> Tensor:
        """The shard's part of `tokens` [B, S, ...]."""
        return tokens[:, self.start : self.stop]

    def slice_frames(self, per_frame: Tensor) -> Tensor:
        """The overlapped frames of `per_frame` [B, T, ...]."""
        return per_frame[:, self.first_frame : self.stop_frame]

    def to_frames(self, heads: Tensor) -> Tensor:
        """Local tokens [B, L, N, K] as complete frames [B*frames, frame_tokens, N, K]; tokens of other ranks are zeros."""
        padded = F.pad(heads, (0, 0, 0, 0, self.tokens_before, self.tokens_after))
        return rearrange(padded, "b (t s) n k -> (b t) s n k", s=self.frame_tokens)

    def from_frames(self, frames: Tensor, batch: int) -> Tensor:
        """The inverse of `to_frames`: [B*frames, frame_tokens, N, K] to [B, L, N, K]."""
        padded = rearrange(frames, "(b t) s n k -> b (t s) n k", b=batch)
        return padded[:, self.tokens_before : self.tokens_before + self.stop - self.start]


def split_tokens(tokens: int, frame_tokens: int, degree: int) -> tuple[Shard, ...]:
    """One shard of equal size per rank. Raises ConfigError if `degree` does not divide the tokens."""
    if tokens % degree:
        raise ConfigError(f"{tokens} tokens of a window cannot be split equally among {degree} ranks; change the frame size or the parallel degree")
    size = tokens // degree
    return tuple(Shard(rank * size, (rank + 1) * size, frame_tokens) for rank in range(degree))


def plan_shards(tokens: int, frame_tokens: int, heads: int, degree: int, ring: int = 1) -> tuple[Shard, ...]:
    """One shard of equal size per rank: Ulysses attention over `degree // ring` ranks, which split the heads, and ring attention over `ring` groups.

    Raises ConfigError if the tokens or the heads cannot be split equally.
    """
    if degree % ring:
        raise ConfigError(f"a parallel degree of {degree} is no multiple of the ring size {ring}")
    if heads % (degree // ring):
        raise ConfigError(
            f"{heads} attention heads cannot be split equally among {degree // ring} ranks; choose a Ulysses degree that divides the heads, "
            "or use a ring for the other ranks"
        )
    return split_tokens(tokens, frame_tokens, degree)


class Shards(Protocol):
    """The collectives of the ranks that share one window. Every rank must call the same methods in the same order with tensors of the same shapes."""

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

        If a shard is smaller than a frame, they come from more than one rank.
        """

    def min_max(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Minimum and maximum over all ranks of each row of `rows` [R, S/degree]: two tensors [R]."""


@dataclass(frozen=True, slots=True)
class SingleDevice:
    """`Shards` of one device, which holds all tokens."""

    rank: int = 0
    degree: int = 1

    def attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attention(query, key, value)

    def gather(self, tokens: Tensor) -> Tensor:
        return tokens

    def first_frame(self, keys: Tensor, frame_tokens: int) -> Tensor:
        return keys[:, :frame_tokens]

    def min_max(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return torch.aminmax(rows, dim=1)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention on this device over [B, S, heads, head_dim], with the kernel selected by diffusers' `attention_backend`."""
    return dispatch_attention_fn(query, key, value)
