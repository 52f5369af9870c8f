"""Visibility of seams between windows: the change of the picture at a border relative to the change within windows."""

from collections.abc import Sequence

import numpy as np

from infinitedub.stages.inspect.frame_stats import FrameStats

MAX_WORST_SEAM = 2.0
"""For one border. Motion is equally large in the neighbouring frames, so clean films stay near 1; blinks last several frames and pass as well."""
MAX_MEAN_SEAM = 1.3
"""For the borders of many films together. A film with few borders can exceed it by chance."""
NEIGHBOR_FRAMES = 6  # a quarter of a second
MIN_CHANGE = 0.001  # of full scale, a quarter of one level of 255: smaller changes count as this, so that flicker in a still picture is no seam


def mean_seam(stats: FrameStats, borders: Sequence[int]) -> float:
    """Mean change into the frames at `borders` (the first frame of each window but the first) relative to that into all others: 1 if invisible.

    1 for a film of one window. Black frames do not count. Raises ValueError for a border outside of the film.
    """
    compared = _comparable_borders(stats, borders)
    within_windows = stats.comparable & ~_border_mask(stats, borders)
    within_windows[0] = False
    if not compared or not within_windows.any():
        return 1.0
    return float(stats.change[compared].mean() / max(float(stats.change[within_windows].mean()), MIN_CHANGE))


def worst_seam(stats: FrameStats, borders: Sequence[int]) -> tuple[float, int | None]:
    """The largest change at a border relative to the largest within NEIGHBOR_FRAMES of it, and that border; 1 and None for a film of one window.

    Black frames do not count. Raises ValueError for a border outside of the film.
    """
    others = np.where(stats.comparable & ~_border_mask(stats, borders), stats.change, 0.0)
    ratios = {}
    for border in _comparable_borders(stats, borders):
        neighbors = others[max(border - NEIGHBOR_FRAMES, 1) : border + NEIGHBOR_FRAMES + 1]
        ratios[border] = float(stats.change[border] / max(float(neighbors.max(initial=0.0)), MIN_CHANGE))
    if not ratios:
        return 1.0, None
    worst = max(ratios, key=lambda border: ratios[border])
    return ratios[worst], worst


def _border_mask(stats: FrameStats, borders: Sequence[int]) -> np.ndarray:
    mask = np.zeros(stats.frames, np.bool_)
    mask[list(borders)] = True
    return mask


def _comparable_borders(stats: FrameStats, borders: Sequence[int]) -> list[int]:
    """The borders without a black frame on either side."""
    if outside := [border for border in borders if not 0 < border < stats.frames]:
        raise ValueError(f"windows begin at frames {outside} of a film of {stats.frames}; wanted are frames 1 to {stats.frames - 1}")
    comparable = stats.comparable
    return [border for border in borders if comparable[border]]
