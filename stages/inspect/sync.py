"""Does the mouth move when there is something to be said: its motion against the speech, and how many frames it is late."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from infinitedub.stages.inspect.trace import Curve, Trace

LAGS = range(-5, 6)  # 200 ms at 25 fps: beyond that nobody takes it for a late mouth
LEAST_R = 0.35
"""Where a film is held to follow its speech: drawn people who talk reach 0.78 to 0.9; to another's speech, the best of all lags is at most 0.26."""
LARGEST_LAG = 1
"""In frames. ITU-R BT.1359: 45 ms of early and 125 ms of late sound are noticed, so one frame of 40 ms passes either way."""
SMOOTHING = (0.25, 0.5, 0.25)  # a mouth does not follow the sound within a frame


@dataclass(frozen=True)
class Sync:
    """How well one curve follows another."""

    r: float  # Pearson's, at the lag where it is largest; 0 for a curve that never moves
    lag: int  # frames that the mouth is late; negative where it is early


def sync(trace: Trace, envelope: Curve, mouth: int = 0) -> Sync:
    """Motion of a mouth of the trace against changes of the speech: both are large where a syllable begins or ends.

    Changes are compared, not openness against loudness: what is open can be told only of a face that is known.
    """
    return correlation(smoothed(mouth_motion(trace, mouth)), speech_motion(envelope))


def correlation(curve: Curve, target: Curve, lags: Iterable[int] = LAGS) -> Sync:
    """Pearson's r of `curve` [n], moved back by each of `lags` in frames, against `target`, at the lag where it is largest.

    Curves of unequal length are compared as far as both go. A lag that leaves less than two frames, or a part that is constant, counts as r = 0.
    """
    n = min(len(curve), len(target))
    found = {lag: pearson(curve[max(lag, 0) : n + min(lag, 0)], target[max(-lag, 0) : n - max(lag, 0)]) for lag in lags if abs(lag) < n}
    best = max(found, key=lambda lag: (found[lag], -abs(lag)), default=0)
    return Sync(found.get(best, 0.0), best)


def pearson(a: Curve, b: Curve) -> float:
    """Pearson's r, -1 to 1; 0 where one of the two is constant or shorter than two."""
    if len(a) < 2 or np.ptp(a) < 1e-9 or np.ptp(b) < 1e-9:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def mouth_motion(trace: Trace, mouth: int = 0) -> Curve:
    """[n] how much more a mouth's box changes than the rest of the picture, 0 to 1: what the head and the camera do is taken off."""
    return np.where(trace.steady, np.maximum(trace.mouths[:, mouth] - trace.change, 0), 0.0)


def speech_motion(envelope: Curve) -> Curve:
    """[n] how much the loudness changes from frame to frame."""
    return np.abs(np.diff(smoothed(envelope), prepend=envelope[:1]))


def speech_envelope(blocks: Iterable[np.ndarray], sample_rate: int, fps: float, frames: int) -> Curve:
    """[frames] root mean square of the samples of each film frame, full scale 1; 0 behind the end of the speech.

    `blocks` are mono floats [samples], one after the other, as stages.media.audio_io.mono_blocks gives them; the film's sound begins with the first.
    """
    squares, counts = np.zeros(frames), np.zeros(frames)
    at = 0
    for block in blocks:
        frame = ((at + np.arange(len(block))) * (fps / sample_rate)).astype(np.int64)
        at += len(block)
        frame = frame[frame < frames]
        if len(frame):
            first, last = frame[0], frame[-1]
            squares[first : last + 1] += np.bincount(frame - first, np.square(block[: len(frame)], dtype=np.float64))
            counts[first : last + 1] += np.bincount(frame - first)
    return np.sqrt(squares / np.maximum(counts, 1))


def smoothed(curve: Curve) -> Curve:
    """[n] with a frame's neighbours mixed in."""
    return np.convolve(np.pad(curve, 1, mode="edge"), SMOOTHING, "valid")
