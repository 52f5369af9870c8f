"""Do colours and sharpness last: chained windows hand on their small errors, which a long film adds up.

Both meters are for one shot seen by a camera that rests. Where footage moves, measure what is left when the footage's own curves are taken off.
"""

import numpy as np

from infinitedub.stages.inspect.trace import Curve, Trace

LARGEST_COLOUR_DRIFT = 0.02
"""Of full scale: five levels of 255, where a slow change of a plain surface begins to show."""
LEAST_SHARPNESS = 0.95
"""The end of a film against its beginning. Drawn people who talk and turn vary by 0.03."""
COMPARED_SECONDS = 10.0


def colour_drift(trace: Trace, fps: float) -> float:
    """The largest difference of a second's mean colour from that of the first second, in any channel, of full scale: 0 to 1."""
    colours = colour_by_second(trace, fps)
    return float(np.abs(colours - colours[:1]).max(initial=0.0))


def colour_by_second(trace: Trace, fps: float) -> Curve:
    """[seconds, 3] mean red, green, blue away from the mouths, 0 to 1. Black frames are left out, and a begun last second joins the one before."""
    per_second = max(round(fps), 1)
    lit = trace.colour[~trace.black]
    cuts = [per_second * second for second in range(1, max(len(lit) // per_second, 1))]
    return np.array([part.mean(axis=0) for part in np.split(lit, cuts) if len(part)]).reshape(-1, 3)


def sharpness_ratio(trace: Trace, fps: float) -> float:
    """Mean sharpness of the last COMPARED_SECONDS relative to that of the first: 1 where it lasts, below where the film blurs.

    Halves are compared where the film is shorter than both; black frames are left out. 1 for a film in which there is nothing to be seen.
    """
    lit = trace.sharpness[~trace.black]
    part = min(round(COMPARED_SECONDS * fps), len(lit) // 2)
    if part == 0 or not lit[:part].any():
        return 1.0
    return float(lit[-part:].mean() / lit[:part].mean())
