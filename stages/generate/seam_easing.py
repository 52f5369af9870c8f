"""Letting a window go on from the very picture that the one before ended with.

A window's first frames repeat the end of the window before, but not quite: they went through the autoencoder once more, and its decoder has seen
other frames before them. What it is off by at the last of them it is off by at the next, the first that the film shows: a snap of texture and colour.
"""

import math

from torch import Tensor


def ease_in(frames: Tensor, before: Tensor, overlap: int, over: int) -> Tensor:
    """`frames` [1, 3, F, H, W] in [-1, 1], without the snap at frame `overlap`, the first that does not repeat the window before.

    `before` [1, 3, H, W] is the last frame of the window before, which frame `overlap - 1` repeats. What they differ by is added to the next `over`
    frames, the whole of it to the first and then less and less along half a cosine, and so the change at the border is that within the window.
    `over` 0 leaves the frames as they are, and so does a window that repeats nothing.
    """
    if over == 0 or overlap == 0:
        return frames
    off = before - frames[:, :, overlap - 1]
    eased = frames.clone()
    for number in range(min(over, frames.shape[2] - overlap)):
        eased[:, :, overlap + number] += off * (1 + math.cos(math.pi * number / over)) / 2
    return eased.clamp(-1, 1)
