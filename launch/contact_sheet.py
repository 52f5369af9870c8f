"""A contact sheet: films as rows of frames on one picture. `python -m infinitedub.launch.contact_sheet FOLDER OUT.png`"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont

from infinitedub.stages.media.video_io import read_frames

PAPER, INK, PALE = (22, 24, 29), (238, 240, 244), (142, 148, 160)
TILE_HEIGHT, GAP, MARGIN, LABEL = 132, 6, 32, 210  # pixels
PITCH = TILE_HEIGHT + 34  # from one film to the next


@dataclass(frozen=True)
class SheetRow:
    """What the sheet shows of a film."""

    name: str
    seconds: float
    fps: float
    width: int
    height: int
    tiles: tuple[Image.Image, ...]
    times: tuple[float, ...]  # of the tiles, seconds


def contact_sheet(films: Sequence[Path], out: Path, columns: int = 8) -> None:
    """Writes a PNG with `columns` evenly spaced frames of each film. Raises ValueError for no films or a film without frames."""
    if not films:
        raise ValueError("a contact sheet needs a film at least")
    rows = [read_row(film, columns) for film in films]
    breadth = max(sum(tile.width + GAP for tile in row.tiles) for row in rows)
    sheet = Image.new("RGB", (2 * MARGIN + LABEL + breadth - GAP, 2 * MARGIN + len(rows) * PITCH - 14), PAPER)
    for index, row in enumerate(rows):
        draw_row(sheet, MARGIN + index * PITCH, row)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, format="PNG", optimize=True)


def read_row(film: Path, columns: int) -> SheetRow:
    """A film's facts and its tiles; fewer than `columns` where it has fewer frames."""
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        fps, frames, width, height = float(stream.average_rate or 0), stream.frames, stream.width, stream.height
    if not frames or not fps:
        raise ValueError(f"{film} does not say how many frames it has; wanted an MP4 as `dub run` writes it")
    count = min(columns, frames)
    # The middle of each of `count` equal parts: neither the first frame, which a film shares with its source, nor a last one that fades.
    indices = [(2 * part + 1) * frames // (2 * count) for part in range(count)]
    size = (round(TILE_HEIGHT * width / height), TILE_HEIGHT)
    tiles = tuple(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS) for frame in read_frames(film, indices))
    return SheetRow(film.stem, frames / fps, fps, width, height, tiles, tuple(index / fps for index in indices))


def draw_row(sheet: Image.Image, top: int, row: SheetRow) -> None:
    """One film: what it is on the left, its tiles with their times on the right."""
    pen = ImageDraw.Draw(sheet)
    name_font, fact_font, time_font = (ImageFont.load_default(size) for size in (21, 15, 12))
    pen.text((MARGIN, top + 4), shortened(pen, row.name, name_font), font=name_font, fill=INK)
    for line, fact in enumerate((f"{row.seconds:.1f} s", f"{row.width} x {row.height}", f"{row.fps:g} fps")):
        pen.text((MARGIN, top + 40 + 22 * line), fact, font=fact_font, fill=PALE)
    x = MARGIN + LABEL
    for tile, time in zip(row.tiles, row.times, strict=True):
        sheet.paste(tile, (x, top))
        pen.text((x, top + TILE_HEIGHT + 4), f"{time:.2f}", font=time_font, fill=PALE)
        x += tile.width + GAP


def shortened(pen: ImageDraw.ImageDraw, name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As much of the name as fits beside the tiles."""
    room = LABEL - 16
    if pen.textlength(name, font=font) <= room:
        return name
    return next(cut for end in range(len(name), -1, -1) if pen.textlength(cut := name[:end] + "…", font=font) <= room)


def main() -> int:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    films = sorted(folder.rglob("*.mp4"))
    if not films:
        print(f"there are no films in {folder}", file=sys.stderr)
        return 1
    contact_sheet(films, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
