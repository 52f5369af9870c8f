"""Settings of segmentation."""

from typing import Literal

from pydantic import Field

from infinitedub.stages.model.settings import WindowSizes
from infinitedub.stages.settings import Decides, Settings


class SegmentOptions(Settings):
    """How shots are found: what conf/segment sets."""

    detector: Decides[Literal["adaptive", "content", "off"]]
    """adaptive: a frame that differs far more from its predecessor than its neighbours do; content: one that differs much; off: no cuts."""
    min_change: Decides[float] = Field(gt=0, le=255)
    """Least change of hue, saturation and brightness at a cut, mean of the three over all pixels, in 8-bit levels."""
    min_ratio: Decides[float] = Field(ge=1)
    """adaptive only: least ratio of the change at a cut to the mean change of the neighbouring frames."""
    min_shot_frames: Decides[int] = Field(ge=1)
    """A shot shorter than this is a flash and is joined to the shot before it. 1 keeps every shot."""
    extend: Decides[Literal["hold", "bounce"]]
    """What footage shows after its end if the speech is longer: its last frame, or itself backwards and forwards in turn."""


class SegmentSettings(SegmentOptions, WindowSizes):
    """All settings of the stage."""
