"""Which size a picture is dubbed at, and how it is brought to it. After MeiGen-AI/InfiniteTalk: `resize_and_centercrop` in wan/multitalk.py."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Framing:
    """Resize to `resized`, then cut `size` out at `corner`; all (height, width) or (top, left) in pixels."""

    resized: tuple[int, int]
    corner: tuple[int, int]
    size: tuple[int, int]

    def cut(self, picture: Tensor) -> Tensor:
        """The part of a resized `picture` [..., H, W] that is kept."""
        (top, left), (height, width) = self.corner, self.size
        return picture[..., top : top + height, left : left + width]


def choose_bucket(height: int, width: int, buckets: Mapping[float, tuple[int, int]]) -> tuple[int, int]:
    """The (height, width) whose ratio is nearest to the picture's; of two equally near the one listed first."""
    return buckets[min(buckets, key=lambda ratio: abs(ratio - height / width))]


def plan_framing(height: int, width: int, size: tuple[int, int]) -> Framing:
    """Fills `size` with the picture and cuts off what hangs over, equally on both sides; an odd pixel goes as Python rounds halves, to even."""
    scale = max(size[0] / height, size[1] / width)
    resized = ceil(scale * height), ceil(scale * width)
    return Framing(resized, (round((resized[0] - size[0]) / 2), round((resized[1] - size[1]) / 2)), size)


def frame_picture(picture: np.ndarray, size: tuple[int, int]) -> Tensor:
    """`picture` [H, W, 3], uint8, at `size` [3, h, w], uint8. Resized by Pillow, whose bilinear filter averages where it shrinks."""
    framing = plan_framing(picture.shape[0], picture.shape[1], size)
    resized = Image.fromarray(picture).resize(framing.resized[::-1], Image.Resampling.BILINEAR)
    return framing.cut(torch.from_numpy(np.array(resized)).permute(2, 0, 1)).contiguous()


def frame_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """`masks` [C, H, W] at `size` [C, h, w], read at the nearest pixel."""
    framing = plan_framing(masks.shape[1], masks.shape[2], size)
    return framing.cut(F.interpolate(masks[None].float(), size=framing.resized, mode="nearest")[0])


def to_range(picture: Tensor) -> Tensor:
    """Bytes as the networks want them: float32 in [-1, 1]."""
    return (picture / 255 - 0.5) * 2
