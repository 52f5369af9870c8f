"""The streaming loop: makes a segment window by window, each starting from the last frames of the one before.

Memory does not grow with the length of the film: of a finished window only its motion frames stay in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from torch import Tensor

from infinitedub.stages.engines.engine import Engine, SegmentInputs
from infinitedub.stages.generate.color_match import match_color
from infinitedub.stages.generate.seam_easing import ease_in
from infinitedub.stages.generate.window_frames import fresh
from infinitedub.stages.records import Chunk, Clip, Segment, WindowCheckpoint

W = TypeVar("W")

NoiseOfWindow = Callable[[int, Sequence[int]], Tensor]
"""noise(window, shape): the noise of window number `window` of the segment."""


@dataclass(frozen=True, slots=True)
class WindowFrames:
    """The frames of a finished window, in [-1, 1]."""

    fresh: Tensor  # [1, 3, F, H, W]: what the window adds to the film
    motion_frames: Tensor  # [1, 3, motion_frames, H, W]: its end, from which the next window starts


@dataclass(frozen=True, slots=True)
class SegmentProgress:
    """The state of the loop. Ranks other than 0 of a gang know `window` only."""

    window: int = 0  # number of the next window
    motion_frames: Tensor | None = None  # of the window before it; None at the start of a segment
    checkpoints: tuple[WindowCheckpoint, ...] = ()  # of all windows before it


class WindowStore(Protocol):
    """Keeps finished windows. In a gang, every rank makes the same calls."""

    def resume(self, progress: SegmentProgress) -> SegmentProgress:
        """The progress after the windows that are stored already and follow directly; `progress` itself if there are none."""

    def save(self, progress: SegmentProgress, made: WindowFrames | None) -> SegmentProgress:
        """The progress after window `progress.window`, now stored; `made` is None on ranks other than 0."""


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How neighbouring windows are matched to each other."""

    color_strength: float  # 0..1: see color_match.py
    seam_frames: int  # see seam_easing.py
    motion_frames: int  # frames at the end of a window from which the next one starts


def generate_segment(
    engine: Engine[W], segment: Segment, inputs: SegmentInputs[W], store: WindowStore, options: StreamOptions, noise: NoiseOfWindow
) -> Iterator[Chunk | Clip]:
    """Makes each window that is not stored yet and yields its `Chunk`, then yields the `Clip`. On ranks other than 0 of a gang it yields nothing."""
    progress = store.resume(SegmentProgress())
    while progress.window < len(segment.windows):
        progress = store.save(progress, make_window(engine, segment, inputs, progress, options, noise))
        if progress.checkpoints:
            yield progress.checkpoints[-1].chunk
        progress = store.resume(progress)
    if progress.checkpoints:
        yield Clip(segment.index, segment.span, tuple(checkpoint.chunk for checkpoint in progress.checkpoints))


def make_window(
    engine: Engine[W], segment: Segment, inputs: SegmentInputs[W], progress: SegmentProgress, options: StreamOptions, noise: NoiseOfWindow
) -> WindowFrames | None:
    """The frames of window `progress.window`; None on ranks other than 0.

    Colours are corrected and seams eased before the motion frames are taken, so that neither colour drift nor a seam reaches the next window.
    """
    window = segment.windows[progress.window]
    frames = engine.window(inputs.window(progress.window), progress.motion_frames, partial(noise, progress.window))
    if frames is None:
        return None
    frames = match_color(frames, inputs.color_reference, options.color_strength)
    if progress.motion_frames is not None:
        frames = ease_in(frames, progress.motion_frames[:, :, -1], window.overlap_frames, options.seam_frames)
    return WindowFrames(fresh(frames, window), frames[:, :, -options.motion_frames :].clone())
