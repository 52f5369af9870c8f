"""How much work a window is, for timeouts that hold for every frame size and sampler."""

PIXELS = 640 * 640  # of the 480p buckets
EVALUATIONS = 40 * 3  # steps times passes of the published settings
GROWTH = 1.7  # of time with pixels, between linear layers (1) and attention (2): an A100 takes 3.8 times as long for 2.25 times the pixels


def window_work(height: int, width: int, steps: int, passes: int) -> float:
    """The work of a window in units of one at 480p with the published 40 steps of 3 passes; smaller ones count as 1.

    A timeout for such a window times this number is one for any other.
    """
    return max(1.0, (height * width / PIXELS) ** GROWTH * steps * passes / EVALUATIONS)
