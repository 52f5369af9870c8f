"""A picture of films: some frames of each, and how the mouth follows the speech."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.talk.measures import Shown

SHOWN = 100  # frames of each film
HEIGHT, PLOT = 144, 50  # of a row, pixels
WIDTH = 1440


def write_sheet(rows: Sequence[Shown], path: Path) -> None:
    """Frames of each film, with the speech (red) and the mouth (blue) below."""
    pictures = [part for row in rows for part in (strip(row), plot(row))]
    Image.fromarray(np.concatenate(pictures)).save(path, optimize=True)


def strip(row: Shown) -> np.ndarray:
    height, width = row.film.shape[1:3]
    each = round(width * HEIGHT / height)
    count = WIDTH // each
    chosen = np.linspace(0, min(len(row.film), SHOWN) - 1, count).astype(int)
    frames = [np.asarray(Image.fromarray(row.film[index]).resize((each, HEIGHT), Image.Resampling.BICUBIC)) for index in chosen]
    joined = np.concatenate(frames, axis=1)
    return np.pad(joined, ((0, 0), (0, WIDTH - joined.shape[1]), (0, 0)), constant_values=255)


def plot(row: Shown) -> np.ndarray:
    drawn = Image.new("RGB", (WIDTH, PLOT), "white")
    pen = ImageDraw.Draw(drawn)
    frames = min(len(row.film), SHOWN)
    across = (np.arange(frames) + 0.5) * WIDTH / frames
    for curve, colour in ((row.truth, (200, 30, 30)), (row.opening, (30, 60, 200))):
        pen.line([(float(x), float(PLOT - 2 - (PLOT - 6) * y)) for x, y in zip(across, curve[:frames].clip(0, 1.05), strict=False)], colour, 2)
    return np.asarray(drawn)
