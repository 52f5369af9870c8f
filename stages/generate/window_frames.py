"""From overlapping windows to the frames of the film."""

import numpy as np
import torch
from torch import Tensor

from infinitedub.stages.records import Window


def fresh(frames: Tensor, window: Window) -> Tensor:
    """The frames that `window` adds to the film, of all its `frames` [1, 3, F, H, W]: without the overlap at its start and the padding at its end."""
    return frames[:, :, window.overlap_frames : window.span.frames]


def to_bytes(frames: Tensor) -> np.ndarray:
    """`frames` [1, 3, F, H, W] in [-1, 1] as pictures [F, H, W, 3], uint8, rounded to the nearest of 256 levels.

    Raises FloatingPointError if a frame holds NaN or infinity.
    """
    if not torch.isfinite(frames).all():
        raise FloatingPointError("a frame holds NaN or infinity after decoding; try generate/precision=fp32, or another seed")
    levels = ((frames[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(1, 2, 3, 0).cpu().numpy()
