"""Where a segment's work is taken up again, behind the windows that are remembered."""

import logging
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from infinitedub.stages.contract import Files
from infinitedub.stages.errors import Transient
from infinitedub.stages.records import Artifact, Segment, WindowCheckpoint

logger = logging.getLogger(__name__)

FRAMES = "frames"


def resume(first: int, segment: Segment, files: Files, device: str) -> tuple[list[WindowCheckpoint], Tensor | None]:
    """The longest run of remembered windows from the given one on whose last motion frames are sound, and those frames on `device`."""
    takes: list[WindowCheckpoint] = []
    while (number := first + len(takes)) < len(segment.windows) and (take := files.load_checkpoint(number, WindowCheckpoint)) is not None:
        takes.append(take)
    while takes and (behind := takes[-1].motion) is not None:
        try:
            return takes, load_file(files.fetch(behind), device=device)[FRAMES]
        except Transient as error:
            logger.warning("segment %d: window %d is made again, its motion frames cannot be had: %s", segment.index, first + len(takes) - 1, error)
            takes.pop()
    return takes, None


def keep_motion(motion: Tensor, folder: Path, files: Files) -> Artifact:
    """Stores motion frames as they are, in float32: rounded to the levels of a picture they would lead to another film."""
    path = folder / "motion.safetensors"
    save_file({FRAMES: motion.contiguous().cpu()}, path)
    return files.store(path, "motion/safetensors")
