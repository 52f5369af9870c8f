"""The streaming loop: one window after the other, each starting from the last frames of the one before.

Memory does not grow with the length of the film: of a finished window only the frames stay that the next one starts from.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from torch import Tensor

from stages.generate.color import match_color
from stages.generate.engine import Engine
from stages.generate.script import Script
from stages.generate.seams import ease_in
from stages.generate.takes import fresh
from stages.records import Segment

T = TypeVar("T")

Keep = Callable[[Tensor, Tensor], T]
"""Takes a window's fresh frames [1, 3, F, H, W] and its motion frames [1, 3, motion_frames, H, W], both in [-1, 1]."""

NoiseOfWindow = Callable[[int, Sequence[int]], Tensor]
"""The noise of window number n of the segment, in a shape."""


def dub(
    engine: Engine,
    segment: Segment,
    script: Script,
    keep: Keep[T],
    *,
    color_strength: float,
    seam_frames: int,
    motion_frames: int,
    noise: NoiseOfWindow,
    start: int = 0,
    motion: Tensor | None = None,
) -> Iterator[T]:
    """What `keep` makes of each window from number `start` on, window by window. On ranks other than 0 of a gang: nothing.

    `motion` are the motion frames of the window before `start`, as `keep` was given them; rank 0 alone has them. Colours are corrected and
    seams eased before the motion frames are taken, so that neither drift nor snap is handed on.
    """
    color_reference = script.color_reference
    for number, cue in enumerate(script.cues(engine.audio_rows, start), start):
        frames = engine.window(cue, motion, partial(noise, number))
        if frames is None:
            continue
        frames = match_color(frames, color_reference, color_strength)
        if motion is not None:
            frames = ease_in(frames, motion[:, :, -1], cue.overlap_frames, seam_frames)
        motion = frames[:, :, -motion_frames:].clone()
        kept = keep(fresh(frames, segment.windows[number]), motion)
        del frames
        yield kept
