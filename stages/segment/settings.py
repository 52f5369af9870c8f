"""What segmentation can be told."""

from typing import Literal, Self

from pydantic import Field, model_validator

from infinitedub.stages.model.settings import windows_move
from infinitedub.stages.settings import Decides, Settings


class SegmentSettings(Settings):
    """Where a film is cut, and into which windows."""

    window_frames: Decides[int] = Field(ge=5)
    """Frames the denoiser makes in one pass, of the form 4n+1."""
    overlap_frames: Decides[int] = Field(ge=1)
    """Frames of a window that repeat the end of the window before, of the form 4n+1."""
    detector: Decides[Literal["adaptive", "content", "off"]]
    """adaptive: a frame that differs far more from its predecessor than its neighbours do; content: one that differs much; off: no cuts."""
    min_change: Decides[float] = Field(gt=0, le=255)
    """The least change of hue, saturation and brightness that can be a cut, mean of the three over all pixels, in 8-bit levels."""
    min_ratio: Decides[float] = Field(ge=1)
    """adaptive only: how many times the mean change of the neighbouring frames a cut must be."""
    min_shot_frames: Decides[int] = Field(ge=1)
    """A shot shorter than this is a flash and stays with the shot before it. 1 keeps every shot."""
    extend: Decides[Literal["hold", "bounce"]]
    """What footage shows after its end where the speech is longer: its last frame, or itself backwards and forwards in turn."""

    @model_validator(mode="after")
    def _windows_move(self) -> Self:
        windows_move(self.window_frames, "overlap_frames", self.overlap_frames)
        return self
