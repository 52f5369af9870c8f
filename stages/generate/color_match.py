"""Colour matching against drift: moves each frame's statistics in CIE L*a*b* to those of a reference (Reinhard et al., 2001).

The colour spaces are sRGB (IEC 61966-2-1) and CIE 1976 L*a*b* under D65 for the 2 degree observer, with scikit-image's rounding of their constants,
which the original release uses as well.
"""

import torch
from torch import Tensor

XYZ_OF_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)
LINEAR_BELOW = 0.008856  # of an XYZ value relative to white: below it L*a*b* is linear in place of the cube root
LINEAR_SLOPE, LINEAR_OFFSET = 7.787, 16 / 116


def match_color(frames: Tensor, reference: Tensor, strength: float) -> Tensor:
    """`frames` [1, 3, F, H, W] in [-1, 1], each with the mean and deviation of every L*a*b* channel of `reference` [3, H, W] in [0, 1].

    strength 0 leaves the frames unchanged, 1 replaces them, values between mix the two. A channel without deviation gets the reference's mean.
    """
    if strength == 0:
        return frames
    target_mean, target_std = statistics(lab_of_rgb(reference.to(frames).clamp(0, 1)))
    matched = torch.empty_like(frames)
    for number in range(frames.shape[2]):  # frame by frame: the intermediates of a whole window would be several times its size
        frame = ((frames[0, :, number] + 1) / 2).clamp(0, 1)
        lab = lab_of_rgb(frame)
        mean, std = statistics(lab)
        ratio = torch.where(std == 0, 0, target_std / std)
        moved = rgb_of_lab((lab - mean) * ratio + target_mean)
        matched[0, :, number] = ((1 - strength) * frame + strength * moved) * 2 - 1
    return matched


def statistics(channels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population deviation of each channel of [3, H, W], as [3, 1, 1]."""
    std, mean = torch.std_mean(channels, dim=(1, 2), correction=0, keepdim=True)
    return mean, std


def lab_of_rgb(rgb: Tensor) -> Tensor:
    """L*a*b* [3, H, W] of sRGB in [0, 1]."""
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = multiply(rgb.new_tensor(XYZ_OF_RGB), linear) / rgb.new_tensor(WHITE)[:, None, None]
    root = torch.where(xyz > LINEAR_BELOW, xyz.clamp_min(0) ** (1 / 3), LINEAR_SLOPE * xyz + LINEAR_OFFSET)
    x, y, z = root
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def rgb_of_lab(lab: Tensor) -> Tensor:
    """sRGB, clamped to [0, 1], of L*a*b* [3, H, W]."""
    lightness, a, b = lab
    y = (lightness + 16) / 116
    root = torch.stack([a / 500 + y, y, (y - b / 200).clamp_min(0)])
    edge = LINEAR_SLOPE * LINEAR_BELOW + LINEAR_OFFSET
    xyz = torch.where(root > edge, root**3, (root - LINEAR_OFFSET) / LINEAR_SLOPE) * lab.new_tensor(WHITE)[:, None, None]
    linear = multiply(torch.linalg.inv(lab.new_tensor(XYZ_OF_RGB, dtype=torch.float64)).to(lab), xyz)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp_min(0) ** (1 / 2.4) - 0.055, 12.92 * linear).clamp(0, 1)


def multiply(matrix: Tensor, pixels: Tensor) -> Tensor:
    """`matrix` [3, 3] times each pixel of [3, H, W]."""
    return torch.einsum("ij,jhw->ihw", matrix, pixels)
