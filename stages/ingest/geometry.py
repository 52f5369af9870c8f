"""Sizes, turns and boxes, decided on paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

from infinitedub.stages.errors import BadInput
from infinitedub.stages.records import Box

Size = tuple[int, int]  # width, height


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that was made safe."""

    upright: Size  # what the viewer of the original sees, which boxes are drawn on
    size: Size  # what was written
    n_frames: int


# The display matrix ((a, b), (c, d)) sends (x, y) to (a x + c y, b x + d y), y down; here by the signs of (a, b, c, d).
TURNS: dict[tuple[int, int, int, int], tuple[tuple[str, str], ...]] = {
    (1, 0, 0, 1): (),
    (-1, 0, 0, 1): (("hflip", ""),),
    (1, 0, 0, -1): (("vflip", ""),),
    (-1, 0, 0, -1): (("hflip", ""), ("vflip", "")),
    (0, 1, -1, 0): (("transpose", "clock"),),
    (0, -1, 1, 0): (("transpose", "cclock"),),
    (0, 1, 1, 0): (("transpose", "cclock_flip"),),
    (0, -1, -1, 0): (("transpose", "clock_flip"),),
}
"""FFmpeg's filters for each way that a camera can be held or mirrored."""

ASPECTS = (Fraction(1, 4), Fraction(4))
"""Pixels further from square than this are a broken header, not an anamorphic film."""


def turn(matrix: Sequence[int]) -> tuple[tuple[str, str], ...] | None:
    """The filters that set a picture upright, given the nine numbers of its display matrix; None for a matrix that is no quarter turn."""
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    reach = max(abs(a), abs(b), abs(c), abs(d))

    def sign(value: int) -> int:
        return 0 if abs(value) * 10 < reach else (value > 0) - (value < 0)

    return TURNS.get((sign(a), sign(b), sign(c), sign(d)))


def lies_down(filters: Sequence[tuple[str, str]]) -> bool:
    """Whether these filters swap width and height."""
    return any(name == "transpose" for name, _ in filters)


def upright_size(stored: Size, aspect: Fraction, turned: bool) -> Size:
    """The size a viewer sees: pixels made square by stretching the stored width by `aspect`, then turned."""
    width, height = max(1, round(stored[0] * aspect)), stored[1]
    return (height, width) if turned else (width, height)


def fitted_size(size: Size, max_side_px: int, *, even: bool) -> Size:
    """`size` scaled down until its longer side is at most `max_side_px`; with `even`, cut to even numbers, which 4:2:0 chroma wants."""
    scale = min(Fraction(1), Fraction(max_side_px, max(size)))
    width, height = (max(1, round(side * scale)) for side in size)
    return (max(2, width // 2 * 2), max(2, height // 2 * 2)) if even else (width, height)


def check_size(size: Size, max_pixels: int, min_side_px: int) -> None:
    """Raises BadInput for a picture that is too large to be decoded, or too small to show anybody."""
    if 0 in size:  # FFmpeg does not say how large a picture is that it would not look at
        raise BadInput(f"has a picture of no known size, or of more than {max_pixels} pixels: scale it down, or supply an undamaged file")
    said = f"is {size[0]}x{size[1]} px"
    if size[0] * size[1] > max_pixels:
        raise BadInput(f"{said}; at most {max_pixels} pixels are taken: scale it down, or raise ingest.max_pixels")
    if min(size) < min_side_px:
        raise BadInput(f"{said}; both sides must have at least {min_side_px} px: supply a larger picture")


def check_boxes(boxes: Sequence[Box | None], size: Size) -> None:
    """Raises BadInput for a box that marks nothing in a picture of this size, or two boxes that mark the same."""
    width, height = size
    for number, box in enumerate(boxes, 1):
        if box is None:
            continue
        said = f"box {number} is [{box.x_min}, {box.y_min}, {box.x_max}, {box.y_max}]"
        if box.x_min >= box.x_max or box.y_min >= box.y_max:
            raise BadInput(f"{said}, which is empty; wanted is [x_min, y_min, x_max, y_max] with x_min < x_max and y_min < y_max")
        if box.x_min < 0 or box.y_min < 0 or box.x_max > width or box.y_max > height:
            raise BadInput(f"{said}, which leaves the picture; the upright picture is {width}x{height} px, x to the right and y down")
    placed = [box for box in boxes if box is not None]
    if len(placed) == 2 and (_inside(*placed) or _inside(placed[1], placed[0])):
        raise BadInput(f"one speaker's box lies wholly inside the other's: {placed[0]}, {placed[1]}; draw one box around each face")
    if len(boxes) == 2 and len(placed) == 1:
        raise BadInput(f"box {boxes.index(None) + 1} is missing; where one of two speakers has a box the other needs one too")


def placed_box(box: Box, upright: Size, final: Size) -> Box:
    """A box of the upright picture in pixels of the final one: grown to whole pixels, never empty."""
    across, down = Fraction(final[0], upright[0]), Fraction(final[1], upright[1])
    return Box(floor(box.x_min * across), floor(box.y_min * down), ceil(box.x_max * across), ceil(box.y_max * down))


def _inside(inner: Box, outer: Box) -> bool:
    return outer.x_min <= inner.x_min and outer.y_min <= inner.y_min and inner.x_max <= outer.x_max and inner.y_max <= outer.y_max
