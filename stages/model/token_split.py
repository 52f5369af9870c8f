"""How many ranks can share a window: a degree must divide the attention heads and a window's tokens."""

from collections.abc import Iterable

MAX_DEGREE = 64


def can_share(degree: int, heads: int, tokens: int) -> bool:
    """Whether `degree` ranks can share a window of that many tokens equally, by Ulysses attention."""
    return heads % degree == 0 and tokens % degree == 0


def possible_degrees(heads: int, tokens: Iterable[int]) -> list[int]:
    """The degrees up to MAX_DEGREE that can share windows of each of these numbers of tokens."""
    tokens = list(tokens)
    return [degree for degree in range(1, MAX_DEGREE + 1) if all(can_share(degree, heads, each) for each in tokens)]
