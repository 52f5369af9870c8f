"""Faults of motion: mouths that rest during speech or move in silence, frozen pictures, and black frames."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from infinitedub.stages.inspect.frame_stats import Curve, FrameStats
from infinitedub.stages.inspect.sync import mouth_motion, smooth
from infinitedub.stages.records import Span

Mask = NDArray[np.bool_]

SPEECH_DB = -30.0  # relative to the loud frames: quieter frames are pauses, breath and room noise
MIN_SPEECH_DB = -60.0  # relative to full scale: quieter frames are never speech, however quiet the rest is
MARGIN_FRAMES = 4  # before and after speech, where a mouth may open early or close late

STILL_MOUTH = 0.005
"""Fraction of full scale. Drawn mouths at rest stay below 0.004 while the head turns, and move by 0.03 as they talk."""
MAX_STILL_MOUTH_SECONDS = 0.6
"""Seconds of speech without motion of the mouth. Closed lips last 0.1 s, and drawn people who talk rest for 0.12 s at most."""
FROZEN_PICTURE = 0.001
"""Fraction of full scale: FFmpeg's freezedetect treats less as no change (-60 dB)."""
MIN_FROZEN_SECONDS = 2.0
"""As in freezedetect. People in a portrait breathe and blink; footage may hold its last frame on purpose (segment.extend=hold)."""
MAX_SILENCE_MOTION = 0.25
"""Relative to the motion in speech: clean drawn films stay below 0.05, a mouth that keeps talking reaches 1."""
MIN_SPEECH_MOTION = 0.02  # of full scale: a lower bound of the motion in speech, to which the motion in silence is compared


def silence_motion(stats: FrameStats, envelope: Curve, mouth: int = 0) -> float:
    """Motion of a mouth in silence relative to its motion in speech: 0 at rest, about 1 if it keeps talking.

    0 if the speech has no silence. If the track has nothing louder, noise counts as speech: pass an envelope of zeros for a voice that is known
    to be silent.
    """
    motion, speech = mouth_motion(stats, mouth), speech_mask(envelope, stats.frames)
    silence = ~dilate(speech, MARGIN_FRAMES) & stats.comparable
    if not silence.any():
        return 0.0
    talking = speech & stats.comparable
    speech_motion = float(motion[talking].mean()) if talking.any() else 0.0
    return float(motion[silence].mean()) / max(speech_motion, MIN_SPEECH_MOTION)


def still_mouth_frames(stats: FrameStats, envelope: Curve, mouth: int = 0) -> int:
    """The frames of speech in the longest run without motion of a mouth. Pauses and black frames neither count nor end a run."""
    motion = smooth(mouth_motion(stats, mouth))
    counted = speech_mask(envelope, stats.frames) & stats.comparable
    still = (motion < STILL_MOUTH) | ~stats.comparable
    return max((int(counted[run.start : run.stop].sum()) for run in true_runs(still)), default=0)


def frozen_spans(stats: FrameStats, fps: float) -> list[Span]:
    """Where nothing moves, mouths included, for MIN_FROZEN_SECONDS or more; black frames are not counted."""
    change = np.maximum(stats.change, stats.mouths.max(axis=1, initial=0.0))
    frozen = (change < FROZEN_PICTURE) & stats.comparable
    return [run for run in true_runs(frozen) if run.frames >= MIN_FROZEN_SECONDS * fps]


def black_spans(stats: FrameStats) -> list[Span]:
    """Where the film is black, even for one frame: the model makes no black frames, so each is a fault unless the footage has it too."""
    return list(true_runs(stats.black))


def speech_mask(envelope: Curve, frames: int) -> Mask:
    """[frames] whether there is speech, by its own loudness: louder than SPEECH_DB below the loud frames, and than MIN_SPEECH_DB."""
    padded = np.zeros(frames)
    padded[: len(envelope)] = envelope[:frames]
    loud = float(np.quantile(padded, 0.95))
    return padded > max(loud * 10 ** (SPEECH_DB / 20), 10 ** (MIN_SPEECH_DB / 20))


def dilate(mask: Mask, frames: int) -> Mask:
    """The mask extended by `frames` before and after each of its runs."""
    return np.convolve(mask, np.ones(2 * frames + 1), "full")[frames : frames + len(mask)] > 0.5


def true_runs(mask: Mask) -> Iterator[Span]:
    """The spans in which the mask is true, in order."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        yield Span(int(start), int(stop))
