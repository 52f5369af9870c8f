"""Converts footage to a constant frame rate by time stamps, never by frame numbers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Generic, TypeVar

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class TimedFrame(Generic[F]):
    """A frame with its display time, in seconds from any origin."""

    start: Fraction
    duration: Fraction
    frame: F


def output_frame_number(seconds: Fraction, fps: Fraction) -> int:
    """The first output frame that shows a source frame starting at `seconds`: the nearest one, halves rounded up, as in FFmpeg's fps filter.

    Output frame k then shows the source in the middle of [k/fps - 1/(2 fps), k/fps + 1/(2 fps)): the output does not drift, and time
    stamps may jitter by half a frame without a frame being repeated or lost.
    """
    return floor(seconds * fps + Fraction(1, 2))


def to_constant_rate(timed_frames: Iterable[TimedFrame[F]], fps: Fraction) -> Iterator[tuple[F, int]]:
    """Every frame that is visible at `fps`, with the number of output frames that show it; at least one output frame in all.

    The output begins with the first frame, whatever its time stamp, and ends when the last frame has been shown for its duration. A frame
    whose time stamp is earlier than that of the frame before it starts together with that frame.
    """
    origin: Fraction | None = None
    last: F | None = None
    n_output = 0
    for timed in timed_frames:
        if origin is None:
            origin = end = timed.start
        else:
            start = max(output_frame_number(timed.start - origin, fps), n_output)
            if start > n_output and last is not None:
                yield last, start - n_output
                n_output = start
        last = timed.frame
        end = max(end, timed.start + timed.duration)
    if origin is not None and last is not None:
        remaining = max(output_frame_number(end - origin, fps), 1) - n_output
        if remaining > 0:
            yield last, remaining
