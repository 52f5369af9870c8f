"""Drawn people to learn from: anybody, anywhere, alone or two together, who move and talk before a camera."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from infinitedub.assets.demo.drawing import Colour, Frame, Paper, camera
from infinitedub.assets.demo.people import FACE_RX, FACE_RY, FEATURES, NECK, Hair, Looks, Pose, draw_person
from infinitedub.assets.tiny_bundle.voices import Curve
from infinitedub.stages.records import Box

Frames = NDArray[np.uint8]  # [n, height, width, 3]
Size = tuple[int, int]  # height and width in pixels

FPS = 25
SIDE = 96  # the short side of every picture
WIDE_OPEN = 1.45  # the opening, in the drawing's own unit, of openness 1

SKINS = ((255, 222, 196), (244, 202, 168), (230, 180, 138), (204, 150, 108), (166, 112, 78), (134, 92, 66), (110, 74, 56))
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
LIPS = np.array((204, 72, 82))


@dataclass(frozen=True)
class Odds:
    """How often people have what makes a face hard to read."""

    beard: float = 0.25  # of those whose hair is short
    glasses: float = 0.2


USUAL = Odds()


@dataclass(frozen=True)
class Sitter:
    """One of the people in a picture."""

    looks: Looks
    place: Frame  # of the head, in units of the picture's height


@dataclass(frozen=True)
class Portrait:
    """One or two people in a place, the left one first."""

    sitters: tuple[Sitter, ...]
    stretch: float  # of the whole picture, in width
    backdrop: int  # the seed of what is behind them
    size: Size

    @property
    def drawn_width(self) -> int:
        """The width at which it is drawn before it is stretched to its size."""
        return round(self.size[1] * self.stretch)


@dataclass(frozen=True)
class Motion:
    """How a head moves and its eyes blink: one value per frame."""

    x: Curve
    y: Curve
    turn: Curve
    shift: Curve
    lids: Curve
    brows: Curve

    def at(self, frames: Sequence[int] | NDArray[np.integer]) -> "Motion":
        return Motion(**{name: getattr(self, name)[frames] for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class Act:
    """What one person does: the mouth, 0 shut to 1 wide open and 0 round to 1 broad, and the head; one value per frame."""

    openness: Curve
    width: Curve
    moved: Motion


@dataclass(frozen=True)
class Camera:
    """Where the camera looks: parts of the room it has to either side, -0.5 to 0.5, and how much it magnifies; one value per frame."""

    x: Curve
    y: Curve
    zoom: Curve

    def at(self, frames: Sequence[int] | NDArray[np.integer]) -> "Camera":
        return Camera(self.x[frames], self.y[frames], self.zoom[frames])


def anybody(rng: np.random.Generator, size: Size = (SIDE, SIDE), odds: Odds = USUAL) -> Portrait:
    """Somebody alone, who was never there before."""
    across = size[1] / size[0]
    stretch = float(rng.uniform(0.92, 1.08))
    scale = float(rng.uniform(0.60, 0.80)) if across >= 1 else float(rng.uniform(0.46, 0.58))
    middle = across / 2 * stretch
    free = max(middle - 0.56 * scale, 0.0)
    x = middle + float(rng.uniform(-0.02, 0.02) + rng.uniform(-free, free) * 0.8)
    y = float(rng.uniform(0.46, 0.53)) if across >= 1 else float(rng.uniform(0.40, 0.55))
    return Portrait((Sitter(somebody(rng, odds), Frame(x, y, scale)),), stretch, int(rng.integers(2**31)), size)


def couple(rng: np.random.Generator, size: Size = (SIDE, SIDE * 3 // 2), odds: Odds = USUAL) -> Portrait:
    """Two people side by side."""
    across = size[1] / size[0]
    stretch = float(rng.uniform(0.95, 1.05))
    sitters = []
    for place in (0.265, 0.735):
        scale = float(rng.uniform(0.54, 0.63)) * across / 1.5
        x = (place + float(rng.uniform(-0.015, 0.015))) * across * stretch
        sitters.append(Sitter(somebody(rng, odds), Frame(x, float(rng.uniform(0.44, 0.54)), scale)))
    return Portrait(tuple(sitters), stretch, int(rng.integers(2**31)), size)


def somebody(rng: np.random.Generator, odds: Odds) -> Looks:
    looks = Looks(
        skin=near(rng, SKINS, 10),
        hair=near(rng, HAIRS, 14),
        iris=near(rng, IRISES, 16),
        lips=(0, 0, 0),
        coat=colour(rng),
        shirt=colour(rng, 120),
        cut=list(Hair)[int(rng.integers(len(Hair)))],
        beard=bool(rng.random() < odds.beard),
        glasses=bool(rng.random() < odds.glasses),
    )
    red = 0.30 * np.array(looks.skin) + 0.70 * LIPS + rng.uniform(-16, 16, 3)  # stands out on light skin and on dark
    return replace(looks, lips=as_colour(red), beard=looks.beard and looks.cut is Hair.SHORT)


def backdrop(portrait: Portrait) -> Image.Image:
    """A gradient with blurred shapes, at the drawing's large size."""
    rng = np.random.default_rng(portrait.backdrop)
    height = portrait.size[0]
    paper = Paper(portrait.drawn_width, height)
    paper.sky(colour(rng), colour(rng))
    for _ in range(int(rng.integers(0, 6))):
        x, y = rng.uniform(0, portrait.drawn_width / height), rng.uniform(0, 1)
        if rng.random() < 0.5:
            radius = rng.uniform(0.04, 0.25)
            paper.ellipse(x, y, radius, radius * rng.uniform(0.6, 1.4), colour(rng))
        else:
            paper.rectangle(x, y, rng.uniform(0.05, 0.5), rng.uniform(0.05, 0.5), colour(rng))
    return paper.image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.010, 0.03)) * paper.unit))


def motion(rng: np.random.Generator, openness: Curve, lively: float = 1.0) -> Motion:
    """Slow sway, a nod with the voice, a blink every few seconds; `lively` times as much sway as people who sit for a portrait."""
    frames = len(openness)

    def sway(size: float) -> Curve:
        return size * lively * waves(rng, frames, ((0.15, 1.0), (0.33, 0.6), (0.6, 0.2)))

    lids = np.ones(frames)
    blink = np.array([0.6, 0.1, 0.0, 0.2, 0.7])
    at = int(rng.uniform(0, 70))
    while at < frames:
        stop = min(at + len(blink), frames)
        lids[at:stop] = blink[: stop - at]
        at += int(rng.uniform(45, 120))
    voice = np.convolve(np.pad(openness, 4, mode="edge"), np.full(9, 1 / 9), "valid")
    return Motion(sway(0.008), sway(0.006) + 0.008 * voice, sway(0.018), sway(0.15), lids, 0.4 + 0.4 * voice)


def handheld(rng: np.random.Generator, frames: int) -> Camera:
    """A camera that pans and zooms slowly."""

    def wander(size: float) -> Curve:
        return size * waves(rng, frames, ((0.12, 0.75), (0.31, 0.25)))

    return Camera(wander(0.5), wander(0.5), 1.08 + wander(0.04))


def waves(rng: np.random.Generator, frames: int, parts: Sequence[tuple[float, float]]) -> Curve:
    """Sines of about the given rates (Hz) and sizes, each at a random phase."""
    seconds = np.arange(frames) / FPS
    return np.sum([part * np.sin(2 * np.pi * (rate * rng.uniform(0.8, 1.2) * seconds + rng.random())) for rate, part in parts], axis=0)


def draw(portrait: Portrait, acts: Sequence[Act], filmed: Camera | None = None) -> Frames:
    """The people as they talk and move, each by the act of the same number."""
    under, drawn = backdrop(portrait), []
    height, width = portrait.size
    for frame in range(len(acts[0].openness)):
        lens = lens_at(portrait, filmed, frame)
        if filmed is None:
            paper = Paper(portrait.drawn_width, height, under)
        else:
            seen = camera(under, float(filmed.x[frame]), float(filmed.y[frame]), float(filmed.zoom[frame]))
            paper = Paper(portrait.drawn_width, height, seen)
        scene = paper.within(lens)
        for sitter, act in zip(portrait.sitters, acts, strict=True):
            moved = act.moved
            where = replace(sitter.place, x=sitter.place.x + float(moved.x[frame]), y=sitter.place.y + float(moved.y[frame]))
            pose = Pose(
                turn=float(moved.turn[frame]),
                shift=float(moved.shift[frame]),
                mouth=WIDE_OPEN * float(act.openness[frame]),
                wide=float(act.width[frame]),
                lids=float(moved.lids[frame]),
                brows=float(moved.brows[frame]),
            )
            draw_person(scene.within(where), sitter.looks, pose)
        drawn.append(np.asarray(paper.image.resize((width, height), Image.Resampling.BILINEAR)))  # as soft as a lens
    return np.stack(drawn)


def lens_at(portrait: Portrait, filmed: Camera | None, frame: int) -> Frame:
    """Where the scene's own coordinates lie in a frame of the film."""
    if filmed is None:
        return Frame()
    zoom = float(filmed.zoom[frame])
    left = portrait.drawn_width / portrait.size[0] * (1 - 1 / zoom) * (0.5 + float(filmed.x[frame]))
    top = (1 - 1 / zoom) * (0.5 + float(filmed.y[frame]))
    return Frame(-left * zoom, -top * zoom, zoom)


def heads(portrait: Portrait, acts: Sequence[Act], filmed: Camera | None = None) -> Curve:
    """Where the faces are drawn: [people, frames, 3] of x and y of the middle between eyes and nose and the head's height, in pixels.

    A head turns about the neck, and its features move across it, both of which move the middle sideways.
    """
    height, width = portrait.size
    across = width / portrait.drawn_width
    found = np.zeros((len(acts), len(acts[0].openness), 3))
    for frame in range(found.shape[1]):
        lens = lens_at(portrait, filmed, frame)
        for person, (sitter, act) in enumerate(zip(portrait.sitters, acts, strict=True)):
            aside = NECK * np.sin(act.moved.turn[frame]) + FEATURES * act.moved.shift[frame]
            at = np.array([sitter.place.x + act.moved.x[frame] + sitter.place.scale * aside, sitter.place.y + act.moved.y[frame]])
            x, y = lens(at[None])[0] * height
            found[person, frame] = x * across, y, sitter.place.scale * lens.scale * height
    return found


def resting(frames: int) -> Motion:
    """Looking straight ahead."""
    rest = np.zeros(frames)
    return Motion(rest, rest, rest, rest, rest + 1, rest + 0.4)


def shut(frames: int) -> Act:
    """Doing nothing."""
    return Act(np.zeros(frames), np.full(frames, 0.5), resting(frames))


def still(portrait: Portrait, openness: Curve, width: Curve, person: int = 0) -> Frames:
    """The people looking straight ahead, the mouth of one of them as given, of the other shut."""
    acts = [shut(len(openness)) for _ in portrait.sitters]
    acts[person] = replace(acts[person], openness=openness, width=width)
    return draw(portrait, acts)


def mouth_boxes(portrait: Portrait, where: Curve, margin: float = 0.05) -> list[tuple[slice, slice]]:
    """Rows and columns of the picture where each mouth can be, `margin` heads around it included, with the heads [people, frames, 3]."""
    (height, width), across = portrait.size, portrait.size[1] / portrait.drawn_width
    boxes = []
    for x, y, scale in np.moveaxis(where, 2, 1):
        half = (0.18 + margin) * scale * across
        rows = slice(max(int((y + (0.20 - margin) * scale).min()), 0), min(int(np.ceil((y + (0.50 + margin) * scale).max())), height))
        boxes.append((rows, slice(max(int((x - half).min()), 0), min(int(np.ceil((x + half).max())), width))))
    return boxes


def mouth_box(portrait: Portrait, person: int = 0, margin: float = 0.05) -> tuple[slice, slice]:
    """The same for one person who looks straight ahead."""
    return mouth_boxes(portrait, heads(portrait, [shut(1) for _ in portrait.sitters]), margin)[person]


def face_box(portrait: Portrait, where: Curve) -> Box:
    """The box around one face, as a catalogue tells it, with the head (x, y, height) there."""
    (height, width), across = portrait.size, portrait.size[1] / portrait.drawn_width
    x, y, scale = (float(value) for value in where)
    left, top = max(round(x - FACE_RX * scale * across), 0), max(round(y - FACE_RY * scale), 0)
    return Box(left, top, min(round(x + FACE_RX * scale * across), width), min(round(y + FACE_RY * scale), height))


def near(rng: np.random.Generator, palette: tuple[Colour, ...], spread: float) -> Colour:
    """A colour like one of the palette's."""
    chosen = np.array(palette[int(rng.integers(len(palette)))]) + rng.uniform(-spread, spread, 3)
    return as_colour(chosen)


def colour(rng: np.random.Generator, least: int = 20) -> Colour:
    return as_colour(rng.integers(least, 250, 3))


def as_colour(levels: NDArray[np.generic]) -> Colour:
    red, green, blue = (int(level) for level in np.clip(levels, 0, 255))
    return red, green, blue
