"""Which frame of the footage is on the screen when: by time, never by number."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Generic, TypeVar

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Shown(Generic[F]):
    """A frame, and when it is on the screen, in seconds on any clock."""

    start: Fraction
    duration: Fraction
    frame: F


def output_frame(seconds: Fraction, fps: Fraction) -> int:
    """The first output frame that shows what begins at `seconds`: the nearest one, halves upwards, as FFmpeg's fps filter has it.

    Output frame k so shows what the source shows in the middle of [k/fps - 1/(2 fps), k/fps + 1/(2 fps)): no drift, and time stamps may
    jitter by half a frame without a frame being doubled or lost.
    """
    return floor(seconds * fps + Fraction(1, 2))


def at_constant_rate(shown: Iterable[Shown[F]], fps: Fraction) -> Iterator[tuple[F, int]]:
    """Every frame that is seen at `fps`, with the number of output frames that show it; at least one in all.

    The film begins with the first frame, whatever its time stamp, and ends when the last one has been shown for its duration. A frame that
    claims to start before the one ahead of it starts with it.
    """
    origin: Fraction | None = None
    last: F | None = None
    given = 0
    for item in shown:
        if origin is None:
            origin = end = item.start
        else:
            begins = max(output_frame(item.start - origin, fps), given)
            if begins > given and last is not None:
                yield last, begins - given
                given = begins
        last = item.frame
        end = max(end, item.start + item.duration)
    if origin is not None and last is not None:
        remaining = max(output_frame(end - origin, fps), 1) - given
        if remaining > 0:
            yield last, remaining
