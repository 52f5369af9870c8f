"""Finds the cuts between the shots of footage."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode, SceneDetector

from infinitedub.stages.segment.settings import SegmentSettings

WIDTH = 256
"""Width of the pictures that the detector gets, pixels: PySceneDetect's default; downscaling also averages out noise and compression artefacts."""
NEIGHBOURS = 2
"""Frames on either side that the adaptive detector compares a frame with: PySceneDetect's default."""


def find_cuts(footage: Path, settings: SegmentSettings) -> tuple[tuple[int, ...], int]:
    """The first frame of every shot but the first, and the number of frames in the file.

    The detector gets every frame here, so that a cut is a frame number of the file and not a rounded time. It cannot judge frames without
    neighbours, so it gets the first and the last frame a few more times.
    """
    detector = _detector(settings)
    cuts: list[int] = []
    number = -NEIGHBOURS  # number of the next frame
    frame: np.ndarray | None = None
    for frame in _small_frames(footage):
        for _ in range(1 + NEIGHBOURS if number < 0 else 1):
            cuts += _cuts_at(detector, number, frame)
            number += 1
    if frame is None:
        return (), 0
    for repeat in range(NEIGHBOURS):
        cuts += _cuts_at(detector, number + repeat, frame)
    return tuple(cuts), number


def _cuts_at(detector: SceneDetector, number: int, frame: np.ndarray) -> list[int]:
    timecode = FrameTimecode(number + NEIGHBOURS, fps=1.0)  # one frame per second: the timecode is the frame number
    return [cut.frame_num - NEIGHBOURS for cut in detector.process_frame(timecode, frame)]


def _detector(settings: SegmentSettings) -> SceneDetector:
    # min_scene_len=0: plan.py joins short shots to the shot before them
    if settings.detector == "content":
        return ContentDetector(threshold=settings.min_change, min_scene_len=0)
    return AdaptiveDetector(adaptive_threshold=settings.min_ratio, min_scene_len=0, window_width=NEIGHBOURS, min_content_val=settings.min_change)


def _small_frames(footage: Path) -> Iterator[np.ndarray]:
    """Every frame as BGR bytes [height, width, 3], the format of PySceneDetect."""
    with av.open(str(footage)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            width = min(WIDTH, frame.width)
            height = max(1, round(frame.height * width / frame.width))
            yield frame.reformat(width, height, "bgr24", interpolation="AREA").to_ndarray()
