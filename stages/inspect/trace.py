"""A few numbers per frame, read in one pass over a film; every meter is arithmetic on them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinitedub.stages.records import Box

Curve = NDArray[np.float64]  # one value per frame

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
BLACK_PIXEL, BLACK_PICTURE = 0.10, 0.98  # the defaults of FFmpeg's blackdetect: how dark a pixel is, how many pixels make a black picture


@dataclass(frozen=True)
class Trace:
    """What the meters know of a shot of n frames. Levels are fractions of full scale, 0 to 1; a change is that from the frame before, 0 at first."""

    change: Curve  # [n] mean absolute change of the luma, away from the mouths
    mouths: Curve  # [n, mouths] the same within each mouth's box
    colour: Curve  # [n, 3] mean red, green, blue, away from the mouths
    sharpness: Curve  # [n] mean absolute difference of neighbouring pixels' luma, across and down
    dark: Curve  # [n] share of pixels darker than BLACK_PIXEL

    @property
    def frames(self) -> int:
        return len(self.change)

    @property
    def black(self) -> NDArray[np.bool_]:
        """[n] whether there is nothing to be seen."""
        return self.dark >= BLACK_PICTURE

    @property
    def steady(self) -> NDArray[np.bool_]:
        """[n] whether a change says something of the picture: neither this frame nor the one before is black."""
        lit = ~self.black
        return lit & np.append(lit[:1], lit[:-1])


def read_trace(frames: Iterable[NDArray[np.uint8]], mouths: Sequence[Box]) -> Trace:
    """Reads frames [height, width, 3], RGB, one after the other, and forgets them: what stays is some 60 bytes a frame, 5 MB an hour.

    `mouths` lie in the frames' pixels. Raises ValueError for no frames, or for a box with no pixel in the picture. About 10 ms for a frame of
    480 x 832.
    """
    rows: list[tuple[float, ...]] = []
    before = elsewhere = None
    for frame in frames:
        luma = np.matmul(frame, LUMA / 255)
        before = luma if before is None else before
        elsewhere = away_from(mouths, luma.shape) if elsewhere is None else elsewhere
        changed = np.abs(luma - before)
        rows.append(
            (
                float(changed[elsewhere].mean()),
                *(frame[elsewhere].mean(axis=0) / 255),
                float(np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean()),
                float((luma < BLACK_PIXEL).mean()),
                *(float(inside(changed, box).mean()) for box in mouths),
            )
        )
        before = luma
    if not rows:
        raise ValueError("a film of no frames has nothing to be measured")
    table = np.array(rows, np.float64)
    return Trace(change=table[:, 0], colour=table[:, 1:4], sharpness=table[:, 4], dark=table[:, 5], mouths=table[:, 6:])


def mouth_in(face: Box) -> Box:
    """Where in the box of an upright face the mouth moves: the middle half across, from 0.58 of the height down to the chin."""
    width, height = face.x_max - face.x_min, face.y_max - face.y_min
    return Box(round(face.x_min + 0.25 * width), round(face.y_min + 0.58 * height), round(face.x_min + 0.75 * width), face.y_max)


def away_from(mouths: Sequence[Box], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """The pixels [height, width] of no mouth; all of them where mouths fill the picture. Raises ValueError for a box beside the picture."""
    elsewhere = np.ones(size, np.bool_)
    for box in mouths:
        if not inside(elsewhere, box).size:
            raise ValueError(f"{box} has no pixel in a picture of {size[1]} x {size[0]}")
        inside(elsewhere, box)[:] = False
    return elsewhere if elsewhere.any() else ~elsewhere


def inside(picture: NDArray[Any], box: Box) -> NDArray[Any]:
    """The part of `picture` [height, width] within a box."""
    return picture[max(box.y_min, 0) : max(box.y_max, 0), max(box.x_min, 0) : max(box.x_max, 0)]
