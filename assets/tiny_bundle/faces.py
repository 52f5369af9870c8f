"""Drawn people to learn from: anybody, anywhere, who moves and talks; and how far a mouth in a picture is open."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter

from assets.demo.drawing import Colour, Frame, Paper
from assets.demo.people import Hair, Looks, Pose, draw_person
from assets.tiny_bundle.voices import Curve

Frames = NDArray[np.uint8]  # [n, height, width, 3]

FPS = 25
HEIGHT = 64
WIDE_OPEN = 1.35  # the opening, in the drawing's own unit, of openness 1

SKINS = ((255, 222, 196), (244, 202, 168), (230, 180, 138), (204, 150, 108), (166, 112, 78), (124, 82, 58), (96, 62, 46))
HAIRS = (
    (34, 26, 24),
    (72, 46, 30),
    (120, 78, 44),
    (176, 62, 34),
    (206, 166, 92),
    (236, 210, 150),
    (128, 128, 134),
    (222, 222, 226),
    (64, 66, 112),
    (150, 60, 110),
)
IRISES = ((72, 44, 30), (64, 132, 92), (70, 108, 150), (96, 82, 60), (60, 60, 70))


@dataclass(frozen=True)
class Portrait:
    """Somebody in a place."""

    looks: Looks
    place: Frame  # of the head, in units of the picture's height
    stretch: float  # of the whole picture, in width
    backdrop: Image.Image
    width: int


@dataclass(frozen=True)
class Motion:
    """How the head moves and the eyes blink: one value per frame."""

    x: Curve
    y: Curve
    turn: Curve
    shift: Curve
    lids: Curve
    brows: Curve


def anybody(rng: np.random.Generator, width: int = HEIGHT) -> Portrait:
    """A person who was never there before."""
    looks = Looks(
        skin=near(rng, SKINS, 10),
        hair=near(rng, HAIRS, 14),
        iris=near(rng, IRISES, 16),
        lips=(0, 0, 0),
        coat=colour(rng),
        shirt=colour(rng, 120),
        cut=list(Hair)[int(rng.integers(len(Hair)))],
        beard=bool(rng.random() < 0.3),
        glasses=bool(rng.random() < 0.2),
    )
    red = np.array(looks.skin) * (0.86, 0.46, 0.48) + (10, 0, 0) + rng.uniform(-14, 14, 3)
    looks = replace(looks, lips=as_colour(red), beard=looks.beard and looks.cut is Hair.SHORT)
    scale = float(rng.uniform(0.52, 0.80))
    stretch = float(rng.uniform(0.90, 1.10))
    middle = width / HEIGHT / 2 * stretch
    free = max(middle - 0.62 * scale, 0.0)
    x = middle + float(rng.uniform(-0.04, 0.04) + rng.uniform(-free, free) * 0.8)
    y = float(np.clip(rng.uniform(0.44, 0.54), 0.28, 0.94 - 0.5 * scale))
    return Portrait(looks, Frame(x, y, scale), stretch, backdrop(rng, round(width * stretch)), width)


def backdrop(rng: np.random.Generator, width: int) -> Image.Image:
    """A gradient with blurred shapes, at the drawing's large size."""
    paper = Paper(width, HEIGHT)
    paper.sky(colour(rng), colour(rng))
    for _ in range(int(rng.integers(0, 6))):
        x, y = rng.uniform(0, width / HEIGHT), rng.uniform(0, 1)
        if rng.random() < 0.5:
            radius = rng.uniform(0.04, 0.25)
            paper.ellipse(x, y, radius, radius * rng.uniform(0.6, 1.4), colour(rng))
        else:
            paper.rectangle(x, y, rng.uniform(0.05, 0.5), rng.uniform(0.05, 0.5), colour(rng))
    return paper.image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.008, 0.03)) * paper.unit))


def motion(rng: np.random.Generator, frames: int, openness: Curve) -> Motion:
    """Slow sway, a nod with the voice, a blink every few seconds."""
    seconds = np.arange(frames) / FPS

    def sway(size: float) -> Curve:
        waves = ((0.15, 1.0), (0.33, 0.6), (0.6, 0.2))
        parts = [part * np.sin(2 * np.pi * (rate * rng.uniform(0.8, 1.2) * seconds + rng.random())) for rate, part in waves]
        return size * np.sum(parts, axis=0)

    lids = np.ones(frames)
    blink = np.array([0.6, 0.1, 0.0, 0.2, 0.7])
    at = int(rng.uniform(0, 70))
    while at < frames:
        stop = min(at + len(blink), frames)
        lids[at:stop] = blink[: stop - at]
        at += int(rng.uniform(45, 120))
    voice = np.convolve(np.pad(openness, 4, mode="edge"), np.full(9, 1 / 9), "valid")
    return Motion(sway(0.008), sway(0.006) + 0.008 * voice, sway(0.018), sway(0.15), lids, 0.4 + 0.4 * voice)


def draw(portrait: Portrait, openness: Curve, width: Curve, moved: Motion) -> Frames:
    """The person as they talk and move."""
    drawn = []
    for frame, (opening, wide) in enumerate(zip(openness, width, strict=True)):
        paper = Paper(round(portrait.width * portrait.stretch), HEIGHT, portrait.backdrop)
        where = replace(portrait.place, x=portrait.place.x + float(moved.x[frame]), y=portrait.place.y + float(moved.y[frame]))
        pose = Pose(
            turn=float(moved.turn[frame]),
            shift=float(moved.shift[frame]),
            mouth=WIDE_OPEN * float(opening),
            wide=float(wide),
            lids=float(moved.lids[frame]),
            brows=float(moved.brows[frame]),
        )
        draw_person(paper.within(where), portrait.looks, pose)
        drawn.append(np.asarray(paper.image.resize((portrait.width, HEIGHT), Image.Resampling.BOX)))
    return np.stack(drawn)


def still(portrait: Portrait, openness: Curve, width: Curve) -> Frames:
    """The person looking straight ahead, with the mouth as given."""
    rest = np.zeros(len(openness))
    return draw(portrait, openness, width, Motion(rest, rest, rest, rest, rest + 1, rest + 0.4))


def mouth_box(portrait: Portrait, margin: float = 0.05) -> tuple[slice, slice]:
    """Rows and columns of the picture where the mouth can be, `margin` heads around it included."""
    scale, across = portrait.place.scale * HEIGHT, portrait.width / round(portrait.width * portrait.stretch)
    x, y = portrait.place.x * HEIGHT * across, portrait.place.y * HEIGHT
    half = (0.17 + margin) * scale * across
    top, bottom = y + (0.20 - margin) * scale, y + (0.48 + margin) * scale
    return slice(max(int(top), 0), min(int(np.ceil(bottom)), HEIGHT)), slice(max(int(x - half), 0), min(int(np.ceil(x + half)), portrait.width))


@dataclass(frozen=True)
class MouthMeter:
    """Tells how far a known person's mouth is open, by the drawing of them that fits best: 0 drawn shut, 1 wide open."""

    levels: Curve
    drawings: NDArray[np.float32]  # [levels, variants, pixels]: without their mean colour, for only shapes tell
    rows: slice
    columns: slice

    @staticmethod
    def of(portrait: Portrait, reach: float = 3.0) -> "MouthMeter":
        """Drawings of `portrait` at every openness, moved by up to `reach` pixels in steps of a half, with rounder and broader mouths."""
        levels = np.linspace(0, 1.2, 13)
        rows, columns = mouth_box(portrait, 0.02)
        steps = np.arange(-reach, reach + 0.5, 0.5)
        variants = []
        for wide in (0.3, 0.5, 0.75):
            pictures = softened(still(portrait, levels, np.full(len(levels), wide)))
            variants += [shifted(pictures, dy, dx)[:, rows, columns] for dy in steps for dx in steps]
        return MouthMeter(levels, without_mean(np.stack(variants, axis=1)), rows, columns)

    def __call__(self, frames: Frames) -> Curve:
        """The openness in each of `frames` [n, height, width, 3]."""
        seen = without_mean(softened(frames)[:, self.rows, self.columns])
        products = np.einsum("lvp,fp->flv", self.drawings, seen, optimize=True)
        errors = (np.square(self.drawings).sum(axis=-1) - 2 * products).min(axis=2)
        return np.array([self.between(row) for row in errors])

    def between(self, errors: Curve) -> float:
        """The level of least error, to a part of a step: the lowest point of a parabola through it and its neighbours."""
        best = int(errors.argmin())
        if best in (0, len(errors) - 1):
            return float(self.levels[best])
        before, at, after = errors[best - 1 : best + 2]
        offset = 0.5 * (before - after) / (before - 2 * at + after)
        return float(self.levels[best] + offset * (self.levels[1] - self.levels[0]))


def softened(frames: Frames) -> NDArray[np.float32]:
    """Frames without what is smaller than a pixel or two, which drawings moved by parts of a pixel do not share."""
    return gaussian_filter(frames.astype(np.float32), (0, 1, 1, 0))


def without_mean(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """[..., rows, columns, 3] as [..., pixels], less each picture's mean colour."""
    less = pictures - pictures.mean(axis=(-3, -2), keepdims=True)
    return less.reshape(*pictures.shape[:-3], -1)


def shifted(pictures: NDArray[np.float32], dy: float, dx: float) -> NDArray[np.float32]:
    """[n, height, width, 3] moved down and to the right by pixels and parts of them."""
    for axis, by in ((1, dy), (2, dx)):
        whole = int(np.floor(by))
        part = by - whole
        pictures = (1 - part) * np.roll(pictures, whole, axis) + part * np.roll(pictures, whole + 1, axis)
    return pictures


def near(rng: np.random.Generator, palette: tuple[Colour, ...], spread: float) -> Colour:
    """A colour like one of the palette's."""
    chosen = np.array(palette[int(rng.integers(len(palette)))]) + rng.uniform(-spread, spread, 3)
    return as_colour(chosen)


def colour(rng: np.random.Generator, least: int = 20) -> Colour:
    return as_colour(rng.integers(least, 250, 3))


def as_colour(levels: NDArray[np.generic]) -> Colour:
    red, green, blue = (int(level) for level in np.clip(levels, 0, 255))
    return red, green, blue
