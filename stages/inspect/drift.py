"""Drift of colour and sharpness: each window starts from the frames of the one before, so small errors accumulate over a long film.

Both metrics assume one shot of a static camera. For moving footage, compare with the same curves of the footage.
"""

import numpy as np

from infinitedub.stages.inspect.frame_stats import Curve, FrameStats

MAX_COLOR_DRIFT = 0.02
"""Fraction of full scale: five levels of 255, where a slow change of a plain surface becomes visible."""
MIN_SHARPNESS_RATIO = 0.95
"""The end of a film relative to its beginning. Drawn people who talk and turn vary by 0.03."""
COMPARED_SECONDS = 10.0


def color_drift(stats: FrameStats, fps: float) -> float:
    """The largest difference of a second's mean colour from that of the first second, in any channel, as a fraction of full scale: 0 to 1."""
    colors = color_by_second(stats, fps)
    return float(np.abs(colors - colors[:1]).max(initial=0.0))


def color_by_second(stats: FrameStats, fps: float) -> Curve:
    """[seconds, 3] mean red, green, blue outside of the mouths, 0 to 1. Black frames are excluded; an incomplete last second joins the one before."""
    per_second = max(round(fps), 1)
    lit = stats.color[~stats.black]
    cuts = [per_second * second for second in range(1, max(len(lit) // per_second, 1))]
    return np.array([part.mean(axis=0) for part in np.split(lit, cuts) if len(part)]).reshape(-1, 3)


def sharpness_ratio(stats: FrameStats, fps: float) -> float:
    """Mean sharpness of the last COMPARED_SECONDS relative to the first: 1 if it is constant, below 1 if the film becomes blurred.

    A film shorter than twice COMPARED_SECONDS is split in halves. Black frames are excluded. 1 if all frames are black.
    """
    lit = stats.sharpness[~stats.black]
    n_frames = min(round(COMPARED_SECONDS * fps), len(lit) // 2)
    if n_frames == 0 or not lit[:n_frames].any():
        return 1.0
    return float(lit[-n_frames:].mean() / lit[:n_frames].mean())
