"""Where each window's random numbers come from."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from infinitedub.stages.records import Seed


def window_noise(seed: Seed, segment: int, window: int, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers that depend on nothing else: neither on what was drawn before, nor on the device, nor on the number of ranks.

    So a window comes out the same in a run, a resumed run, and a rerun.
    """
    digest = hashlib.sha256(f"{seed.value}/{seed.job}/{segment}/{window}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little"))
    return torch.randn(tuple(shape), generator=generator)
