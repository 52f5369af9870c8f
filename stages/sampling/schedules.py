"""Noise levels at which the model is evaluated."""

import torch
from torch import Tensor

TIMESTEPS = 1000
"""The model was trained with noise levels scaled to 0..1000."""


def shifted_sigmas(steps: int, shift: float) -> Tensor:
    """`steps` decreasing noise levels from 1, then 0: shift * t / (1 + (shift - 1) * t) of evenly spaced t, in float32.

    The shift is that of Esser et al., Scaling Rectified Flow Transformers (2024), eq. 23. The last t but the 0 is 1/1000, as in InfiniteTalk.
    """
    even = torch.linspace(TIMESTEPS, 1, steps, dtype=torch.float64).float() / TIMESTEPS
    return torch.cat([shift * even / (1 + (shift - 1) * even), torch.zeros(1)])
