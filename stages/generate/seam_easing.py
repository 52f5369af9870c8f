"""Seam easing: removes the jump at the border of two windows.

A window's first frames repeat the end of the window before, but not exactly: they were encoded and decoded once more, and the decoder saw other
frames before them. The error of the last repeated frame continues in the next frame, the first that the film shows: texture and colour jump there.
"""

import math

from torch import Tensor


def ease_in(frames: Tensor, before: Tensor, overlap: int, seam_frames: int) -> Tensor:
    """`frames` [1, 3, F, H, W] in [-1, 1], without the jump at frame `overlap`, the first that does not repeat the window before.

    `before` [1, 3, H, W] is the last frame of the window before, which frame `overlap - 1` repeats. Their difference is added to the next
    `seam_frames` frames with weights that fall from 1 along half a cosine, so that the change at the border is that within the window.
    `seam_frames` 0 or `overlap` 0 leaves the frames as they are.
    """
    if seam_frames == 0 or overlap == 0:
        return frames
    difference = before - frames[:, :, overlap - 1]
    eased = frames.clone()
    for number in range(min(seam_frames, frames.shape[2] - overlap)):
        eased[:, :, overlap + number] += difference * (1 + math.cos(math.pi * number / seam_frames)) / 2
    return eased.clamp(-1, 1)
