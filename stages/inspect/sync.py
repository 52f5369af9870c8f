"""Lip sync: the correlation of the mouth's motion with the speech, and by how many frames the mouth is late."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from infinitedub.stages.inspect.frame_stats import Curve, FrameStats

LAGS = range(-5, 6)  # frames; 200 ms at 25 fps, beyond which a mouth does not look late but unrelated
MIN_R = 0.35
"""Below it a film does not follow its speech: drawn people who talk reach 0.78 to 0.9; against other speech, the best of all lags is at most 0.26."""
MAX_LAG = 1
"""In frames. ITU-R BT.1359: 45 ms of early and 125 ms of late sound are noticed, so one frame of 40 ms is acceptable in both directions."""
SMOOTHING = (0.25, 0.5, 0.25)  # a mouth does not follow the sound within a frame


@dataclass(frozen=True)
class Correlation:
    """How well one curve follows another."""

    r: float  # Pearson's, at the lag where it is largest; 0 for a constant curve
    lag: int  # frames by which the mouth is late; negative if it is early


def mouth_sync(stats: FrameStats, envelope: Curve, mouth: int = 0) -> Correlation:
    """Correlates the motion of a mouth with the changes of the speech: both are large where a syllable begins or ends.

    Changes are compared, not openness with loudness, since openness can be measured only for a known face.
    """
    return correlation(smooth(mouth_motion(stats, mouth)), speech_motion(envelope))


def correlation(curve: Curve, target: Curve, lags: Iterable[int] = LAGS) -> Correlation:
    """Pearson's r of `curve` [n], moved back by each of `lags` in frames, against `target`, at the lag where it is largest.

    Curves of unequal length are compared over the length of the shorter one. r = 0 for a lag that leaves fewer than two frames, or a constant part.
    """
    n = min(len(curve), len(target))
    by_lag = {lag: pearson(curve[max(lag, 0) : n + min(lag, 0)], target[max(-lag, 0) : n - max(lag, 0)]) for lag in lags if abs(lag) < n}
    best = max(by_lag, key=lambda lag: (by_lag[lag], -abs(lag)), default=0)
    return Correlation(by_lag.get(best, 0.0), best)


def pearson(a: Curve, b: Curve) -> float:
    """Pearson's r, -1 to 1; 0 if one of the two is constant or shorter than two."""
    if len(a) < 2 or np.ptp(a) < 1e-9 or np.ptp(b) < 1e-9:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def mouth_motion(stats: FrameStats, mouth: int = 0) -> Curve:
    """[n] how much more a mouth's box changes than the rest of the picture, 0 to 1, which excludes motion of the head and the camera."""
    return np.where(stats.comparable, np.maximum(stats.mouths[:, mouth] - stats.change, 0), 0.0)


def speech_motion(envelope: Curve) -> Curve:
    """[n] the change of the loudness from frame to frame."""
    return np.abs(np.diff(smooth(envelope), prepend=envelope[:1]))


def speech_envelope(blocks: Iterable[np.ndarray], sample_rate: int, fps: float, frames: int) -> Curve:
    """[frames] root mean square of the samples of each film frame, full scale 1; 0 after the end of the speech.

    `blocks` are consecutive mono floats [samples], as `mono_blocks` of stages/media/audio_io.py yields them; the film's audio begins with the first.
    """
    squares, counts = np.zeros(frames), np.zeros(frames)
    position = 0
    for block in blocks:
        frame = ((position + np.arange(len(block))) * (fps / sample_rate)).astype(np.int64)
        position += len(block)
        frame = frame[frame < frames]
        if len(frame):
            first, last = frame[0], frame[-1]
            squares[first : last + 1] += np.bincount(frame - first, np.square(block[: len(frame)], dtype=np.float64))
            counts[first : last + 1] += np.bincount(frame - first)
    return np.sqrt(squares / np.maximum(counts, 1))


def smooth(curve: Curve) -> Curve:
    """[n] each frame averaged with its neighbours, by the weights SMOOTHING."""
    return np.convolve(np.pad(curve, 1, mode="edge"), SMOOTHING, "valid")
