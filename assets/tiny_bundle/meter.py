"""How far a mouth in a picture is open, and where the head is: by the drawing of a known person that fits best."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve

from infinitedub.assets.tiny_bundle.faces import Frames, Portrait, draw, heads, mouth_box, resting, shut, still
from infinitedub.assets.tiny_bundle.voices import Curve

Pictures = NDArray[np.float32]


@dataclass(frozen=True)
class MouthMeter:
    """Tells how far one known person's mouth is open: 0 drawn shut, 1 wide open. The head may move; the meter finds it first."""

    levels: Curve
    drawings: Pictures  # [levels, variants, pixels]: without their mean colour, for only shapes tell
    rows: slice
    columns: slice
    face: Pictures  # [2, height, width, 3]: eyes and nose as drawn at rest, the eyes open and shut
    mask: Pictures  # [height, width]: where they are
    origin: tuple[int, int]  # of both in the picture
    reach: int  # pixels that the head may be away from where it was drawn at rest

    @staticmethod
    def of(portrait: Portrait, person: int = 0, reach: int = 14) -> "MouthMeter":
        """Drawings of `person` in `portrait` at every openness, moved by parts of a pixel, with rounder and broader mouths."""
        levels = np.linspace(0, 1.2, 13)
        rows, columns = mouth_box(portrait, person, 0.03)
        steps = np.arange(-2.5, 3.0, 0.5)
        around = slice(max(rows.start - 4, 0), rows.stop + 4), slice(max(columns.start - 4, 0), columns.stop + 4)
        inside = (
            slice(rows.start - around[0].start, rows.stop - around[0].start),
            slice(columns.start - around[1].start, columns.stop - around[1].start),
        )
        variants = []
        for wide in (0.25, 0.5, 0.75):
            pictures = softened(still(portrait, levels, np.full(len(levels), wide), person))[:, around[0], around[1]]
            variants += [shifted(pictures, dy, dx)[:, inside[0], inside[1]] for dy in steps for dx in steps]
        face, mask, origin = upper_face(portrait, person)
        return MouthMeter(levels, without_mean(np.stack(variants, axis=1)), rows, columns, face, mask, origin, reach)

    def __call__(self, frames: Frames) -> Curve:
        """The openness in each of `frames` [n, height, width, 3]."""
        soft = softened(frames)
        moved = np.round(self.displacements(soft)).astype(int)
        seen = without_mean(
            np.stack([np.roll(frame, (-dy, -dx), axis=(0, 1))[self.rows, self.columns] for frame, (dx, dy) in zip(soft, moved, strict=True)])
        )
        products = np.einsum("lvp,fp->flv", self.drawings, seen, optimize=True)
        errors = (np.square(self.drawings).sum(axis=-1) - 2 * products).min(axis=2)
        return np.array([self.between(row) for row in errors])

    def between(self, errors: Curve) -> float:
        """The level of least error, to a part of a step: the lowest point of a parabola through it and its neighbours."""
        best = int(errors.argmin())
        if best in (0, len(errors) - 1):
            return float(self.levels[best])
        return float(self.levels[best] + lowest(*errors[best - 1 : best + 2]) * (self.levels[1] - self.levels[0]))

    def positions(self, frames: Frames) -> Curve:
        """How far the head is from where it was drawn at rest: [n, 2] of pixels to the right and down."""
        return self.displacements(softened(frames))

    def displacements(self, soft: Pictures) -> Curve:
        """The same in softened frames: the place where eyes and nose correlate best with the drawn ones."""
        (top, left), (height, width) = self.origin, self.mask.shape
        margin = ((self.reach, self.reach), (self.reach, self.reach), (0, 0))
        middle = (self.face * self.mask[..., None]).sum(axis=(1, 2), keepdims=True) / self.mask.sum()
        drawn = (self.face - middle) * self.mask[..., None]
        drawn /= np.sqrt(np.square(drawn).sum(axis=(1, 2, 3), keepdims=True))
        found = []
        for frame in soft:
            padded = np.pad(frame, margin, mode="edge")
            area = padded[top : top + height + 2 * self.reach, left : left + width + 2 * self.reach]
            both = [np.sum([correlated(area[..., colour], face[..., colour]) for colour in range(3)], axis=0) for face in drawn]
            sums = [correlated(area[..., colour], self.mask) for colour in range(3)]
            squares = np.sum([correlated(area[..., colour] ** 2, self.mask) for colour in range(3)], axis=0)
            likeness = np.max(both, axis=0) / np.sqrt(np.maximum(squares - np.sum(np.square(sums), axis=0) / self.mask.sum(), 1e-3))
            y, x = np.unravel_index(int(likeness.argmax()), likeness.shape)
            across = lowest(*-likeness[y, x - 1 : x + 2]) if 0 < x < likeness.shape[1] - 1 else 0.0
            down = lowest(*-likeness[y - 1 : y + 2, x]) if 0 < y < likeness.shape[0] - 1 else 0.0
            found.append((x + across - self.reach, y + down - self.reach))
        return np.array(found)


def upper_face(portrait: Portrait, person: int) -> tuple[Pictures, Pictures, tuple[int, int]]:
    """A person's eyes, nose and cheeks as drawn at rest with eyes open and shut, which pixels they are, and their upper left corner."""
    x, y, scale = heads(portrait, [shut(1) for _ in portrait.sitters])[person, 0]
    across = portrait.size[1] / portrait.drawn_width
    middle, half = y - 0.02 * scale, (0.19 * scale, 0.34 * scale * across)
    rows = slice(max(int(middle - half[0]), 0), min(int(np.ceil(middle + half[0])), portrait.size[0]))
    columns = slice(max(int(x - half[1]), 0), min(int(np.ceil(x + half[1])), portrait.size[1]))
    down, right = np.ogrid[rows, columns]
    mask = (np.square((down - middle) / half[0]) + np.square((right - x) / half[1]) < 1.2).astype(np.float32)
    blinking = replace(shut(2), moved=replace(resting(2), lids=np.array([1.0, 0.0])))
    pictures = softened(draw(portrait, [blinking for _ in portrait.sitters]))[:, rows, columns]
    return pictures, mask, (rows.start, columns.start)


def correlated(area: Pictures, shape: Pictures) -> Pictures:
    """The sum of products of a small picture with every part of a larger one."""
    return fftconvolve(area, shape[::-1, ::-1], mode="valid")


def lowest(before: float, at: float, after: float) -> float:
    """Where, relative to the middle of three points of a curve, its lowest point is; the middle one is the lowest of the three."""
    bend = before - 2 * at + after
    return 0.5 * (before - after) / bend if bend > 0 else 0.0


def softened(frames: Frames) -> Pictures:
    """Frames without what is smaller than a pixel or two, which drawings moved by parts of a pixel do not share."""
    return gaussian_filter(frames.astype(np.float32), (0, 1, 1, 0))


def without_mean(pictures: Pictures) -> Pictures:
    """[..., rows, columns, 3] as [..., pixels], less each picture's mean colour."""
    less = pictures - pictures.mean(axis=(-3, -2), keepdims=True)
    return less.reshape(*pictures.shape[:-3], -1)


def shifted(pictures: Pictures, dy: float, dx: float) -> Pictures:
    """[n, height, width, 3] moved down and to the right by pixels and parts of them."""
    for axis, by in ((1, dy), (2, dx)):
        whole = int(np.floor(by))
        part = by - whole
        pictures = (1 - part) * np.roll(pictures, whole, axis) + part * np.roll(pictures, whole + 1, axis)
    return pictures
