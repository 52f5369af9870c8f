"""Can one see where a window ends and the next begins: the change of the picture there against that within windows."""

from collections.abc import Sequence

import numpy as np

from infinitedub.stages.inspect.trace import Trace

LARGEST_SEAM = 2.0
"""For one border. Motion is as large in the frames beside it, so clean films stay about 1; blinks last several frames and pass, too."""
LARGEST_MEAN_SEAM = 1.3
"""For all borders of many films together. In one film with a few borders chance alone can pass it."""
BESIDE_FRAMES = 6  # a quarter of a second
UNSEEN = 0.001  # of full scale: a quarter of one level of 255 passes for no change, else any flicker in a still picture were a seam


def mean_seam(trace: Trace, borders: Sequence[int]) -> float:
    """Mean change into the frames at `borders`, the first of each window but the first, relative to that into all others: 1 where none shows.

    1 for a film of one window. Black frames do not count. Raises ValueError for a border outside the film.
    """
    at = _at(trace, borders)
    within = trace.steady & ~_mark(trace, borders)
    within[0] = False
    if not at or not within.any():
        return 1.0
    return float(trace.change[at].mean() / max(float(trace.change[within].mean()), UNSEEN))


def worst_seam(trace: Trace, borders: Sequence[int]) -> tuple[float, int | None]:
    """The largest change at a border relative to the largest one within BESIDE_FRAMES of it, and that border; 1 and None for a film of one window.

    Black frames do not count. Raises ValueError for a border outside the film.
    """
    others = np.where(trace.steady & ~_mark(trace, borders), trace.change, 0.0)
    found = {}
    for border in _at(trace, borders):
        beside = others[max(border - BESIDE_FRAMES, 1) : border + BESIDE_FRAMES + 1]
        found[border] = float(trace.change[border] / max(float(beside.max(initial=0.0)), UNSEEN))
    if not found:
        return 1.0, None
    worst = max(found, key=lambda border: found[border])
    return found[worst], worst


def _mark(trace: Trace, borders: Sequence[int]) -> np.ndarray:
    marked = np.zeros(trace.frames, np.bool_)
    marked[list(borders)] = True
    return marked


def _at(trace: Trace, borders: Sequence[int]) -> list[int]:
    """The borders with a picture on either side."""
    if outside := [border for border in borders if not 0 < border < trace.frames]:
        raise ValueError(f"windows begin at frames {outside} of a film of {trace.frames}; wanted are frames 1 to {trace.frames - 1}")
    steady = trace.steady
    return [border for border in borders if steady[border]]
