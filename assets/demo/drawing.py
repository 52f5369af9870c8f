"""Flat shapes in scene units, drawn large and averaged down so that their edges are smooth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Points = NDArray[np.float64]  # [n, 2], x to the right and y down
Colour = tuple[int, int, int]
SUPERSAMPLING = 4


@dataclass(frozen=True)
class Frame:
    """Where a shape's own coordinates lie on the paper: turned by `angle` (radians, clockwise), scaled, then moved to (x, y)."""

    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    angle: float = 0.0

    def __call__(self, points: Points) -> Points:
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return points @ np.array([[cos, sin], [-sin, cos]]) * self.scale + (self.x, self.y)

    def inside(self, outer: "Frame") -> "Frame":
        """This frame, when its surroundings are themselves drawn in `outer`."""
        x, y = outer(np.array([[self.x, self.y]]))[0]
        return Frame(float(x), float(y), self.scale * outer.scale, self.angle + outer.angle)


class Paper:
    """A picture in the making. Its unit is the height of the finished picture; x runs from 0 to width / height."""

    def __init__(self, width: int, height: int, under: Image.Image | None = None) -> None:
        self.size = (width, height)
        self.large = (width * SUPERSAMPLING, height * SUPERSAMPLING)
        self.unit = height * SUPERSAMPLING
        self.image = Image.new("RGB", self.large) if under is None else under.convert("RGB")
        self.pen = ImageDraw.Draw(self.image)
        self.frame = Frame()

    def within(self, frame: Frame) -> "Paper":
        """The same paper, seen through `frame`."""
        other = object.__new__(Paper)
        other.__dict__.update(self.__dict__)
        other.frame = frame.inside(self.frame)
        return other

    def fill(self, points: Points, colour: Colour) -> None:
        """A filled outline."""
        self.pen.polygon(self._pixels(points), fill=colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        self.fill(oval(x, y, rx, ry), colour)

    def rectangle(self, x: float, y: float, width: float, height: float, colour: Colour) -> None:
        self.fill(np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]]), colour)

    def stroke(self, points: Points, width: float, colour: Colour) -> None:
        """An open line with round ends."""
        pixels = self._pixels(points)
        thick = max(1, round(width * self.frame.scale * self.unit))
        self.pen.line(pixels, fill=colour, width=thick, joint="curve")
        for x, y in (pixels[:2], pixels[-2:]):
            self.pen.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=colour)

    def glow(self, x: float, y: float, radius: float, colour: Colour, strength: float) -> None:
        """Light that falls off to nothing at `radius`."""
        centre = self.frame(np.array([[x, y]]))[0] * self.unit
        reach = radius * self.frame.scale * self.unit
        rows, columns = np.ogrid[: self.large[1], : self.large[0]]
        near = np.clip(1 - np.hypot(columns - centre[0], rows - centre[1]) / reach, 0, 1) ** 2 * strength
        light = Image.fromarray((near[..., None] * np.array(colour)).astype(np.uint8))
        self.image.paste(ImageChops.screen(self.image, light))

    def sky(self, top: Colour, bottom: Colour, until: float = 1.0) -> None:
        """A vertical gradient from the upper edge to `until`; below it the last colour goes on."""
        down = np.clip(np.arange(self.large[1]) / (until * self.unit), 0, 1)[:, None]
        rows = (1 - down) * np.array(top) + down * np.array(bottom)
        self.image.paste(Image.fromarray(np.repeat(rows[:, None].astype(np.uint8), self.large[0], axis=1)))

    def blurred(self, radius: float) -> Image.Image:
        """What is on the paper, out of focus, at the large size."""
        return self.image.filter(ImageFilter.GaussianBlur(radius * self.unit))

    def finished(self) -> Image.Image:
        """The picture at its own size."""
        return self.image.resize(self.size, Image.Resampling.BOX)

    def _pixels(self, points: Points) -> list[float]:
        """x and y of each point, one after the other, as Pillow wants them."""
        return (self.frame(points) * self.unit).ravel().tolist()


def oval(x: float, y: float, rx: float, ry: float) -> Points:
    """The outline of an ellipse."""
    t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], axis=1)


def smooth(points: Sequence[tuple[float, float]], *, closed: bool) -> Points:
    """A Catmull-Rom curve through the points."""
    p = np.array(points, dtype=np.float64)
    p = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([p[:1], p, p[-1:]])
    t = np.linspace(0, 1, 14, endpoint=False)[:, None]
    a, b, c, d = (p[start : len(p) - 3 + start, None] for start in range(4))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return np.concatenate([*curve, p[-1:]][: None if not closed else -1])


def mirrored(points: Points) -> Points:
    """The same on the other side of x = 0."""
    return points * (-1, 1)


def shade(colour: Colour, factor: float) -> Colour:
    """The colour, darker below 1 and lighter above."""
    return tuple(min(255, round(part * factor)) for part in colour)  # type: ignore[return-value]


def camera(under: Image.Image, x: float, y: float, zoom: float) -> Image.Image:
    """The picture as seen from (x, y) (parts of its width and height, 0 its centre), magnified; the same size as before."""
    width, height = under.size
    wide, high = width / zoom, height / zoom
    left, top = (width - wide) * (0.5 + x), (height - high) * (0.5 + y)
    return under.resize((width, height), Image.Resampling.BILINEAR, box=(left, top, left + wide, top + high))
