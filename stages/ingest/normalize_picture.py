"""Normalises the picture of a job, whether it is a photograph, an animation or footage."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from PIL import Image

from infinitedub.stages.ingest.geometry import NormalizedPicture
from infinitedub.stages.ingest.normalize_footage import normalize_footage, write_footage
from infinitedub.stages.ingest.normalize_photograph import animation_frames, is_animated, normalize_photograph, open_photograph
from infinitedub.stages.ingest.settings import IngestSettings


def normalize_picture(path: Path, folder: Path, settings: IngestSettings) -> tuple[Path, NormalizedPicture, bool]:
    """The normalised file, its sizes, and whether it moves.

    A file that Pillow opens is a photograph or an animation; any other file must be footage.
    """
    photograph, footage = folder / "picture.png", folder / "picture.mp4"
    with pillow_limit(settings.max_pixels), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of oddities in a file; what matters is raised as an error
        image = open_photograph(path, settings)
        if image is None:
            return footage, normalize_footage(path, footage, settings), True
        with image:
            if is_animated(image):
                return footage, write_footage(animation_frames(image, settings), Fraction(1), footage, settings), True
            return photograph, normalize_photograph(image, photograph, settings), False


@contextmanager
def pillow_limit(max_pixels: int) -> Iterator[None]:
    """Raises Pillow's own limit on pixels, a global of the process, to `max_pixels` if that is larger."""
    own = Image.MAX_IMAGE_PIXELS
    if own is not None:
        Image.MAX_IMAGE_PIXELS = max(own, max_pixels)
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = own
