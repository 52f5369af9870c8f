"""Checkpoints of finished windows: where a segment is continued, in this process or another."""

import logging
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from infinitedub.stages.contract import Files
from infinitedub.stages.engines.parallel import broadcast_number, raise_on_all_ranks
from infinitedub.stages.errors import Damaged
from infinitedub.stages.generate.streaming import SegmentProgress, WindowFrames
from infinitedub.stages.generate.window_frames import to_bytes
from infinitedub.stages.media.video_io import write_lossless
from infinitedub.stages.model.shards import Shards
from infinitedub.stages.records import Artifact, Chunk, Segment, WindowCheckpoint

logger = logging.getLogger(__name__)

FRAMES = "frames"


class CheckpointStore:
    """The checkpoints of one segment. Implements `WindowStore`.

    In a gang, every rank makes the same calls. Rank 0 alone reads and writes; if that fails, every rank raises.
    """

    def __init__(self, segment: Segment, files: Files, fps: float, shards: Shards, device: torch.device | str) -> None:
        self._segment = segment
        self._files = files
        self._fps = fps
        self._shards = shards
        self._device = device
        self._folder = files.scratch()

    def resume(self, progress: SegmentProgress) -> SegmentProgress:
        found: list[WindowCheckpoint] = []
        motion_frames: Tensor | None = None
        with raise_on_all_ranks(self._shards, self._device):
            if self._shards.rank == 0:
                found, motion_frames = load_checkpoints(progress.window, self._segment, self._files, self._device)
        window = broadcast_number(progress.window + len(found), self._shards, self._device)
        if window == progress.window:
            return progress
        return SegmentProgress(window, motion_frames, (*progress.checkpoints, *found))

    def save(self, progress: SegmentProgress, made: WindowFrames | None) -> SegmentProgress:
        checkpoints = progress.checkpoints
        with raise_on_all_ranks(self._shards, self._device):
            if made is not None:
                checkpoints = (*checkpoints, self._write(progress.window, made))
        return SegmentProgress(progress.window + 1, None if made is None else made.motion_frames, checkpoints)

    def _write(self, window: int, made: WindowFrames) -> WindowCheckpoint:
        pictures = to_bytes(made.fresh)
        path = self._folder / "chunk.mkv"
        write_lossless(path, pictures, self._fps)
        chunk = Chunk(window, self._files.store(path, "chunk/mkv"), len(pictures))
        last = window == len(self._segment.windows) - 1
        motion = None if last else store_motion_frames(made.motion_frames, self._folder, self._files)
        return self._files.save_checkpoint(window, WindowCheckpoint(chunk, motion))


def load_checkpoints(first: int, segment: Segment, files: Files, device: torch.device | str) -> tuple[list[WindowCheckpoint], Tensor | None]:
    """The checkpoints of consecutive windows from `first` on, and the motion frames of the last one on `device`.

    A checkpoint whose motion frames are gone or damaged is left out. Raises Transient if the storage fails: the checkpoints are still there.
    """
    found: list[WindowCheckpoint] = []
    while (window := first + len(found)) < len(segment.windows) and (checkpoint := files.load_checkpoint(window, WindowCheckpoint)) is not None:
        found.append(checkpoint)
    while found and (motion := found[-1].motion) is not None:
        try:
            return found, load_file(files.fetch(motion), device=str(device))[FRAMES]
        except Damaged as error:
            window = first + len(found) - 1
            logger.warning("segment %d: window %d is made again, its motion frames are lost: %s", segment.index, window, error)
            found.pop()
    return found, None


def store_motion_frames(motion_frames: Tensor, folder: Path, files: Files) -> Artifact:
    """Stores motion frames in float32: rounded to 8 bits they would lead to another film."""
    path = folder / "motion.safetensors"
    save_file({FRAMES: motion_frames.contiguous().cpu()}, path)
    return files.store(path, "motion/safetensors")
