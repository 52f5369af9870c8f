"""Settings of generate."""

from pydantic import Field

from infinitedub.stages.engines.settings import EngineSettings
from infinitedub.stages.settings import Decides


class GenerateSettings(EngineSettings):
    """How a segment's frames are made: the engine, and how its windows are matched to each other."""

    color_strength: Decides[float] = Field(ge=0, le=1)
    """How much of each frame's colour statistics is replaced by those of the segment's reference; prevents colour drift over many windows."""
    seam_frames: Decides[int] = Field(ge=0)
    """Frames after the border of two windows over which the autoencoder's change at the border is faded out; 0 as in the release."""
