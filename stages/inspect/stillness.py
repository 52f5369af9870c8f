"""What stands still that should move, what moves that should stand still, and what is not there at all."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from infinitedub.stages.inspect.sync import mouth_motion, smoothed
from infinitedub.stages.inspect.trace import Curve, Trace
from infinitedub.stages.records import Span

Mask = NDArray[np.bool_]

SPEECH_DB = -30.0  # below the loud frames: quieter ones are pauses, breath and room
QUIETEST_DB = -60.0  # of full scale: nothing below it is speech, however quiet the rest
LEAD_FRAMES = 4  # beside speech, in which a mouth may open early or close late

STILL_MOUTH = 0.005
"""Of full scale. Drawn mouths at rest stay below 0.004 as the head turns, and move by 0.03 as they talk."""
LONGEST_STILL_MOUTH = 0.6
"""Seconds of speech that a mouth may sit through. Closed lips last 0.1 s, and drawn people who talk rest for 0.12 s at most."""
STILL_PICTURE = 0.001
"""Of full scale: FFmpeg's freezedetect takes less for no change (-60 dB)."""
LONGEST_STILL_PICTURE = 2.0
"""Seconds, as in freezedetect. People who sit for a portrait breathe and blink; footage may hold its last frame on purpose (segment.extend=hold)."""
LARGEST_SILENCE_MOTION = 0.25
"""Of the motion in speech: clean drawn films stay below 0.05, a mouth that chatters on reaches 1."""
LEAST_TALK = 0.02  # of full scale: what a mouth moves in speech at least, to compare with where nobody speaks


def silence_motion(trace: Trace, envelope: Curve, mouth: int = 0) -> float:
    """How much a mouth moves while nobody speaks, relative to its motion in speech: 0 at rest, about 1 for one that chatters on.

    0 where the speech leaves no silence. Noise counts as speech once nothing louder is there: give no envelope (zeros) where a voice is known to be
    silent.
    """
    motion, speech = mouth_motion(trace, mouth), spoken(envelope, trace.frames)
    silence = ~beside(speech, LEAD_FRAMES) & trace.steady
    if not silence.any():
        return 0.0
    talking = speech & trace.steady
    usual = float(motion[talking].mean()) if talking.any() else 0.0
    return float(motion[silence].mean()) / max(usual, LEAST_TALK)


def still_mouth(trace: Trace, envelope: Curve, mouth: int = 0) -> int:
    """The frames of speech in the longest run through which a mouth does not move. Pauses and black frames neither count nor end a run."""
    motion = smoothed(mouth_motion(trace, mouth))
    counted = spoken(envelope, trace.frames) & trace.steady
    return max((int(counted[run.start : run.stop].sum()) for run in runs((motion < STILL_MOUTH) | ~trace.steady)), default=0)


def still_pictures(trace: Trace, fps: float) -> list[Span]:
    """Where nothing moves at all, mouths included, for LONGEST_STILL_PICTURE or more; black ones are not counted."""
    moved = np.maximum(trace.change, trace.mouths.max(axis=1, initial=0.0))
    still = (moved < STILL_PICTURE) & trace.steady
    return [run for run in runs(still) if run.frames >= LONGEST_STILL_PICTURE * fps]


def black_pictures(trace: Trace) -> list[Span]:
    """Where there is nothing to be seen, be it for one frame: the model makes none, so each is a fault unless the footage has it, too."""
    return list(runs(trace.black))


def spoken(envelope: Curve, frames: int) -> Mask:
    """[frames] whether something is said, by the speech's own loudness: louder than SPEECH_DB below its loud frames, and than QUIETEST_DB."""
    heard = np.zeros(frames)
    heard[: len(envelope)] = envelope[:frames]
    loud = float(np.quantile(heard, 0.95))
    return heard > max(loud * 10 ** (SPEECH_DB / 20), 10 ** (QUIETEST_DB / 20))


def beside(mask: Mask, frames: int) -> Mask:
    """The mask, and as many frames before and behind each of its runs."""
    return np.convolve(mask, np.ones(2 * frames + 1), "full")[frames : frames + len(mask)] > 0.5


def runs(mask: Mask) -> Iterator[Span]:
    """Where the mask holds, run by run."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        yield Span(int(start), int(stop))
