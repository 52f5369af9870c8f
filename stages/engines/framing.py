"""The size at which a picture is dubbed, and how it is cut and scaled to it. After MeiGen-AI/InfiniteTalk: `resize_and_centercrop` in
wan/multitalk.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from infinitedub.stages.media.video_io import read_frames


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
    """Fills `size` with the picture and crops the overhang equally on both sides; half a pixel is rounded to even, as Python does."""
    scale = max(size[0] / height, size[1] / width)
    resized = ceil(scale * height), ceil(scale * width)
    return Framing(resized, (round((resized[0] - size[0]) / 2), round((resized[1] - size[1]) / 2)), size)


def frame_picture(picture: np.ndarray, size: tuple[int, int]) -> Tensor:
    """`picture` [H, W, 3], uint8, at `size` [3, h, w], uint8. Pillow's bilinear filter averages when it shrinks."""
    framing = plan_framing(picture.shape[0], picture.shape[1], size)
    resized = Image.fromarray(picture).resize(framing.resized[::-1], Image.Resampling.BILINEAR)
    return framing.cut(torch.from_numpy(np.array(resized)).permute(2, 0, 1)).contiguous()


def frame_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """`masks` [C, H, W] at `size` [C, h, w], sampled at the nearest pixel."""
    framing = plan_framing(masks.shape[1], masks.shape[2], size)
    return framing.cut(F.interpolate(masks[None].float(), size=framing.resized, mode="nearest")[0])


def to_range(picture: Tensor) -> Tensor:
    """Bytes as input of the networks: float32 in [-1, 1]."""
    return (picture / 255 - 0.5) * 2


def read_pictures(path: Path, moving: bool, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Frames of a source by number [H, W, 3], uint8; a photograph shows the same at all of them."""
    if moving:
        yield from read_frames(path, indices)
        return
    with Image.open(path) as image:
        photograph = np.array(image.convert("RGB"))
    for _ in indices:
        yield photograph
