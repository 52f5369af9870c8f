"""The masks of two speakers: which part of the picture shows which person."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from infinitedub.stages.engines.framing import frame_masks
from infinitedub.stages.errors import BadInput
from infinitedub.stages.model.latent_codec import LatentCodec
from infinitedub.stages.model.settings import GRANULE
from infinitedub.stages.model.speakers import token_classes
from infinitedub.stages.records import Box

MARGIN = 0.05
"""Part of a half picture that is left free on each side if no box is given; InfiniteTalk's face_scale."""


def speaker_masks(boxes: Sequence[Box], height: int, width: int, size: tuple[int, int]) -> Tensor:
    """Person 1, person 2 and the background [3, h/8, w/8] of a picture at `size`. Raises BadInput if a person is outside of it."""
    persons = torch.zeros(len(boxes), height, width)
    for person, box in zip(persons, boxes, strict=True):
        check_box(box, height, width)
        person[box.y_min : box.y_max, box.x_min : box.x_max] = 1
    background = (persons.sum(dim=0) == 0).float()
    framed = frame_masks(torch.cat([persons, background[None]]), size)
    factor = LatentCodec.spatial_factor
    masks = F.interpolate(framed[None], size=(size[0] // factor, size[1] // factor), mode="nearest")[0] > 0
    tokens = token_classes(masks, size[0] // GRANULE, size[1] // GRANULE).sum(dim=1)
    for number, (box, left) in enumerate(zip(boxes, tokens, strict=False), start=1):
        if left == 0:
            raise BadInput(
                f"speaker {number}: nothing is left of box {box_text(box)} when the {width}x{height} picture is cut to {size[1]}x{size[0]} and "
                f"divided into tokens of {GRANULE}x{GRANULE} pixels; give a larger box, or a picture whose faces are larger and nearer the middle"
            )
    return masks


def halves(height: int, width: int) -> tuple[Box, Box]:
    """A box in the left half of the picture and one in the right half."""
    top, bottom = int(height * MARGIN), int(height * (1 - MARGIN))
    half = width // 2
    left, right = int(half * MARGIN), int(half * (1 - MARGIN))
    return Box(left, top, right, bottom), Box(half + left, top, half + right, bottom)


def choose_boxes(given: Sequence[Box | None], height: int, width: int, rows_first: bool) -> tuple[Box, ...]:
    """The boxes of two persons: as given, or left and right if none is given. Raises BadInput if only one is given.

    rows_first reads the four numbers of a box as y_min, x_min, y_max, x_max, as the original release does in spite of their names.
    """
    boxes = [box for box in given if box is not None]
    if not boxes:
        return halves(height, width)
    if len(boxes) != len(given):
        missing = [box is None for box in given].index(True) + 1
        raise BadInput(f"speaker {missing} has no box but the other one has; give both, or none (then they are taken to be left and right)")
    if not rows_first:
        return tuple(boxes)
    swapped = tuple(Box(box.y_min, box.x_min, box.y_max, box.x_max) for box in boxes)
    for number, box in enumerate(boxes, start=1):
        if box.y_max > width or box.x_max > height:
            raise BadInput(
                f"box {number} is {box_text(box)}, which compat=upstream reads as [y_min, x_min, y_max, x_max], outside the {width}x{height} "
                "picture; give the numbers in that order, or set generate.compat=none"
            )
    return swapped


def check_box(box: Box, height: int, width: int) -> None:
    """Raises BadInput unless `box` is not empty and is within the picture."""
    if not (0 <= box.x_min < box.x_max <= width and 0 <= box.y_min < box.y_max <= height):
        raise BadInput(
            f"box {box_text(box)} is not within the {width}x{height} picture; wanted [x_min, y_min, x_max, y_max] in pixels of the upright picture, "
            "minima below maxima"
        )


def box_text(box: Box) -> str:
    """The box as messages show it."""
    return f"[{box.x_min}, {box.y_min}, {box.x_max}, {box.y_max}]"
