"""Vertical bars in random colours that move to the right by a pixel per frame, and on from window to window."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from infinitedub.stages.contract import Rank
from infinitedub.stages.engines.engine import Noise
from infinitedub.stages.engines.framing import frame_picture, read_pictures
from infinitedub.stages.records import Prompt, Segment, Source

BARS = 8


class ReferencePicture:
    """Prepares the segment's first picture, whose colours the bars take on. Implements `Preparation`."""

    def prepare(self, picture: Path, source: Source, segment: Segment, prompt: Prompt, size: tuple[int, int], path: Path) -> None:
        first = next(read_pictures(picture, source.moving, [segment.windows[0].reference_frame]))
        save_file({"color_reference": frame_picture(first, size)}, path)


@dataclass(frozen=True, slots=True)
class BarInputs:
    """The segment and its colour reference [3, H, W] in [0, 1]. Implements `SegmentInputs`."""

    segment: Segment
    color_reference: Tensor

    def window(self, number: int) -> tuple[int, int, int]:
        """Frames, height and width of a window."""
        window = self.segment.windows[number]
        return window.span.frames + window.pad_frames, *self.color_reference.shape[1:]


class MovingBars:
    """Rank 0 draws, the others have nothing to do. Implements `Engine`."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank

    def open_segment(self, segment: Segment, conditions: Path, speech: Path | None) -> BarInputs:
        return BarInputs(segment, load_file(conditions, device=self._rank.device)["color_reference"] / 255)

    def window(self, inputs: tuple[int, int, int], motion_frames: Tensor | None, noise: Noise) -> Tensor | None:
        if self._rank.index > 0:
            return None
        frames, height, width = inputs
        if motion_frames is None:
            row = noise((3, BARS)).to(self._rank.device).clamp(-1, 1).repeat_interleave(-(-width // BARS), dim=1)[:, :width]
        else:
            row = motion_frames[0, :, 0, 0]  # of the first frame that this window repeats
        moved = torch.stack([row.roll(frame, dims=1) for frame in range(frames)], dim=1)
        return moved[None, :, :, None].repeat(1, 1, 1, height, 1)
