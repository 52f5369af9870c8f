"""At which noise levels the model is asked."""

import torch
from torch import Tensor

TIMESTEPS = 1000
"""The model was trained with noise levels counted from 0 to 1000."""


def shifted_sigmas(steps: int, shift: float) -> Tensor:
    """`steps` falling noise levels from 1 and a 0 at the end: shift * t / (1 + (shift - 1) * t) of evenly spaced t, in float32.

    The shift is that of Esser et al., Scaling Rectified Flow Transformers (2024), eq. 23. The last t but the 0 is 1/1000, as in InfiniteTalk.
    """
    even = torch.linspace(TIMESTEPS, 1, steps, dtype=torch.float64).float() / TIMESTEPS
    return torch.cat([shift * even / (1 + (shift - 1) * even), torch.zeros(1)])
