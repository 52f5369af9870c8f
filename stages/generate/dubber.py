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
from stages.generate.takes import fresh
from stages.records import Segment

T = TypeVar("T")

NoiseOfWindow = Callable[[int, Sequence[int]], Tensor]
"""The noise of window number n of the segment, in a shape."""


def dub(
    engine: Engine, segment: Segment, script: Script, keep: Callable[[Tensor], T], *, color_strength: float, motion_frames: int, noise: NoiseOfWindow
) -> Iterator[T]:
    """What `keep` makes of each window's fresh frames [1, 3, F, H, W] in [-1, 1], window by window. On ranks other than 0 of a gang: nothing.

    Colours are corrected before the motion frames are taken, so that a drift is not handed on.
    """
    color_reference = script.color_reference
    motion: Tensor | None = None
    for number, (window, cue) in enumerate(zip(segment.windows, script.cues(engine.audio_rows), strict=True)):
        frames = engine.window(cue, motion, partial(noise, number))
        if frames is None:
            continue
        frames = match_color(frames, color_reference, color_strength)
        motion = frames[:, :, -motion_frames:].clone()
        kept = keep(fresh(frames, window))
        del frames
        yield kept
