"""The face boxes of a job's speakers: checked against the upright picture, and scaled with it."""

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, floor

from infinitedub.stages.errors import BadInput
from infinitedub.stages.ingest.geometry import Size
from infinitedub.stages.records import Box


def check_boxes(boxes: Sequence[Box | None], upright_size: Size) -> None:
    """Raises BadInput for a box that is empty or leaves the upright picture, for nested boxes, or if only one of two speakers has a box."""
    width, height = upright_size
    for number, box in enumerate(boxes, 1):
        if box is None:
            continue
        label = f"box {number} is [{box.x_min}, {box.y_min}, {box.x_max}, {box.y_max}]"
        if box.x_min >= box.x_max or box.y_min >= box.y_max:
            raise BadInput(f"{label}, which is empty; wanted is [x_min, y_min, x_max, y_max] with x_min < x_max and y_min < y_max")
        if box.x_min < 0 or box.y_min < 0 or box.x_max > width or box.y_max > height:
            raise BadInput(f"{label}, which leaves the picture; the upright picture is {width}x{height} px, x to the right and y down")
    given = [box for box in boxes if box is not None]
    if len(given) == 2 and (_contains(given[1], given[0]) or _contains(given[0], given[1])):
        raise BadInput(f"one speaker's box lies entirely inside the other's: {given[0]}, {given[1]}; draw one box around each face")
    if len(boxes) == 2 and len(given) == 1:
        raise BadInput(f"box {boxes.index(None) + 1} is missing; if one of two speakers has a box, the other needs one too")


def scale_box(box: Box, upright_size: Size, stored_size: Size) -> Box:
    """A box of the upright picture in pixels of the stored one: rounded outwards to whole pixels, never empty."""
    x_scale, y_scale = Fraction(stored_size[0], upright_size[0]), Fraction(stored_size[1], upright_size[1])
    return Box(floor(box.x_min * x_scale), floor(box.y_min * y_scale), ceil(box.x_max * x_scale), ceil(box.y_max * y_scale))


def _contains(outer: Box, inner: Box) -> bool:
    return outer.x_min <= inner.x_min and outer.y_min <= inner.y_min and inner.x_max <= outer.x_max and inner.y_max <= outer.y_max
