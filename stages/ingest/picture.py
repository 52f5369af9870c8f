"""A photograph or footage? Whatever it is, made safe."""

import warnings
from fractions import Fraction
from pathlib import Path

from infinitedub.stages.ingest.footage import normalise_footage, write_footage
from infinitedub.stages.ingest.geometry import Picture
from infinitedub.stages.ingest.photograph import animation, moves, normalise_photograph, open_photograph
from infinitedub.stages.ingest.settings import IngestSettings


def normalise_picture(path: Path, folder: Path, settings: IngestSettings) -> tuple[Path, Picture, bool]:
    """The normalised file, what it shows, and whether it moves. What Pillow knows is a photograph or an animation; all else must be footage."""
    still, moving = folder / "picture.png", folder / "picture.mp4"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about what is strange in a file; what matters is raised
        image = open_photograph(path, settings)
        if image is None:
            return moving, normalise_footage(path, moving, settings), True
        with image:
            if moves(image):
                return moving, write_footage(animation(image, settings), Fraction(1), moving, settings), True
            return still, normalise_photograph(image, still, settings), False
