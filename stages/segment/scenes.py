"""Where footage jumps from one shot to the next."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode, SceneDetector

from infinitedub.stages.segment.settings import SegmentSettings

WIDTH = 256
"""Pixels across while looking for cuts: PySceneDetect's own choice; smaller pictures also average noise and compression away."""
NEIGHBOURS = 2
"""Frames on either side that the adaptive detector compares a frame with: PySceneDetect's default."""


def find_cuts(footage: Path, settings: SegmentSettings) -> tuple[tuple[int, ...], int]:
    """The first frame of every shot but the first, and the number of frames seen.

    The detector is fed here frame by frame, so that a cut is a frame's number in the file and not a time to be rounded. It cannot judge
    frames without neighbours; the first and the last are therefore shown to it a few times more.
    """
    detector = _detector(settings)
    cuts: list[int] = []
    seen = -NEIGHBOURS  # number of the frame that is shown next
    frame: np.ndarray | None = None
    for frame in _small_frames(footage):
        for _ in range(1 + NEIGHBOURS if seen < 0 else 1):
            cuts += _ask(detector, seen, frame)
            seen += 1
    if frame is None:
        return (), 0
    for late in range(NEIGHBOURS):
        cuts += _ask(detector, seen + late, frame)
    return tuple(cuts), seen


def _ask(detector: SceneDetector, number: int, frame: np.ndarray) -> list[int]:
    timecode = FrameTimecode(number + NEIGHBOURS, fps=1.0)  # one frame a second: the timecode is a frame number
    return [cut.frame_num - NEIGHBOURS for cut in detector.process_frame(timecode, frame)]


def _detector(settings: SegmentSettings) -> SceneDetector:
    # min_scene_len=0: which shots are too short to stand alone is decided in plan.py, where the flash goes to the shot before it
    if settings.detector == "content":
        return ContentDetector(threshold=settings.min_change, min_scene_len=0)
    return AdaptiveDetector(adaptive_threshold=settings.min_ratio, min_scene_len=0, window_width=NEIGHBOURS, min_content_val=settings.min_change)


def _small_frames(footage: Path) -> Iterator[np.ndarray]:
    """Every frame as BGR bytes [height, width, 3], the way PySceneDetect wants them."""
    with av.open(str(footage)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            width = min(WIDTH, frame.width)
            height = max(1, round(frame.height * width / frame.width))
            yield frame.reformat(width, height, "bgr24", interpolation="AREA").to_ndarray()
