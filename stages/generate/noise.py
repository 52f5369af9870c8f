"""The random numbers of a window."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from infinitedub.stages.records import Seed


def window_noise(seed: Seed, segment: int, window: int, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers that depend on the arguments only: not on earlier draws, the device or the number of ranks.

    So a window is the same in a run, a resumed run, and a rerun.
    """
    digest = hashlib.sha256(f"{seed.value}/{seed.job}/{segment}/{window}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little"))
    return torch.randn(tuple(shape), generator=generator)
