"""The streaming loop: one window after the other, each starting from the last frames of the one before.

Memory does not grow with the length of the film: of a finished window only the frames stay that the next one starts from.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from torch import Tensor

from infinitedub.stages.generate.color_match import match_color
from infinitedub.stages.generate.engine import Engine
from infinitedub.stages.generate.seam_easing import ease_in
from infinitedub.stages.generate.window_frames import fresh
from infinitedub.stages.generate.window_inputs import SegmentInputs
from infinitedub.stages.records import Segment

T = TypeVar("T")

Keep = Callable[[Tensor, Tensor], T]
"""Takes a window's fresh frames [1, 3, F, H, W] and its motion frames [1, 3, motion_frames, H, W], both in [-1, 1]."""

Ahead = Callable[[int], tuple[int, Tensor | None]]
"""Told that window n is the next: the first window from n on that is not there already, on all ranks alike, and where that is another one, on rank 0
the motion frames of the window before it."""

NoiseOfWindow = Callable[[int, Sequence[int]], Tensor]
"""The noise of window number n of the segment, in a shape."""


def nothing_ahead(number: int) -> tuple[int, None]:
    """Every window is to be made."""
    return number, None


def dub(
    engine: Engine,
    segment: Segment,
    script: SegmentInputs,
    keep: Keep[T],
    *,
    color_strength: float,
    seam_frames: int,
    motion_frames: int,
    noise: NoiseOfWindow,
    ahead: Ahead = nothing_ahead,
) -> Iterator[T]:
    """What `keep` makes of each window that is not there already, window by window. On ranks other than 0 of a gang: nothing.

    Colours are corrected and seams eased before the motion frames are taken, so that neither drift nor snap is handed on.
    """
    color_reference = script.color_reference
    number, motion = ahead(0)
    while number < len(segment.windows):
        cue = script.cue(number, engine.audio_rows)
        frames = engine.window(cue, motion, partial(noise, number))
        if frames is not None:
            frames = match_color(frames, color_reference, color_strength)
            if motion is not None:
                frames = ease_in(frames, motion[:, :, -1], cue.overlap_frames, seam_frames)
            motion = frames[:, :, -motion_frames:].clone()
            kept = keep(fresh(frames, segment.windows[number]), motion)
            del frames
            yield kept
        begun = number + 1
        number, behind = ahead(begun)
        motion = motion if number == begun else behind
