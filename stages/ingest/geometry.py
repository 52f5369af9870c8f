"""Sizes and rotations of pictures, as pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from infinitedub.stages.errors import BadInput

Size = tuple[int, int]  # width, height


@dataclass(frozen=True, slots=True)
class NormalizedPicture:
    """The sizes and length of a picture that was written by ingest."""

    upright_size: Size  # as the viewer of the original sees it; the boxes of speakers refer to it
    stored_size: Size  # as written
    n_frames: int


# The display matrix ((a, b), (c, d)) maps (x, y) to (a x + c y, b x + d y), y down; here by the signs of (a, b, c, d).
ROTATION_FILTERS: dict[tuple[int, int, int, int], tuple[tuple[str, str], ...]] = {
    (1, 0, 0, 1): (),
    (-1, 0, 0, 1): (("hflip", ""),),
    (1, 0, 0, -1): (("vflip", ""),),
    (-1, 0, 0, -1): (("hflip", ""), ("vflip", "")),
    (0, 1, -1, 0): (("transpose", "clock"),),
    (0, -1, 1, 0): (("transpose", "cclock"),),
    (0, 1, 1, 0): (("transpose", "cclock_flip"),),
    (0, -1, -1, 0): (("transpose", "clock_flip"),),
}
"""FFmpeg's filters for each quarter turn and mirroring."""

PIXEL_ASPECT_RANGE = (Fraction(1, 4), Fraction(4))
"""A pixel aspect ratio outside of this range comes from a broken header, not from anamorphic footage."""


def rotation_filters(display_matrix: Sequence[int]) -> tuple[tuple[str, str], ...] | None:
    """The filters that turn a picture upright, given the nine numbers of its display matrix; None if it is not a multiple of a quarter turn."""
    a, b, c, d = display_matrix[0], display_matrix[1], display_matrix[3], display_matrix[4]
    largest = max(abs(a), abs(b), abs(c), abs(d))

    def sign(value: int) -> int:
        return 0 if abs(value) * 10 < largest else (value > 0) - (value < 0)

    return ROTATION_FILTERS.get((sign(a), sign(b), sign(c), sign(d)))


def swaps_sides(filters: Sequence[tuple[str, str]]) -> bool:
    """Whether these filters exchange width and height."""
    return any(name == "transpose" for name, _ in filters)


def upright_size(stored: Size, pixel_aspect: Fraction, sides_swapped: bool) -> Size:
    """The size that a viewer sees: the stored width is stretched by `pixel_aspect` to make pixels square, then the picture is rotated."""
    width, height = max(1, round(stored[0] * pixel_aspect)), stored[1]
    return (height, width) if sides_swapped else (width, height)


def fit_size(size: Size, max_side_px: int, *, even: bool) -> Size:
    """`size` scaled down until its longer side is at most `max_side_px`; with `even`, cut to even numbers, which 4:2:0 chroma needs."""
    scale = min(Fraction(1), Fraction(max_side_px, max(size)))
    width, height = (max(1, round(side * scale)) for side in size)
    return (max(2, width // 2 * 2), max(2, height // 2 * 2)) if even else (width, height)


def check_size(size: Size, max_pixels: int, min_side_px: int) -> None:
    """Raises BadInput for a picture that is too large to decode or too small to show a face."""
    if 0 in size:  # FFmpeg does not report the size of a picture that it refused to decode
        raise BadInput(f"has a picture of unknown size, or of more than {max_pixels} pixels: scale it down, or supply an undamaged file")
    label = f"is {size[0]}x{size[1]} px"
    if size[0] * size[1] > max_pixels:
        raise BadInput(f"{label}; the limit is {max_pixels} pixels: scale it down, or raise ingest.max_pixels")
    if min(size) < min_side_px:
        raise BadInput(f"{label}; both sides must have at least {min_side_px} px: supply a larger picture")
