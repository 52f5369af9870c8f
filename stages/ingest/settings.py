"""Settings of ingest."""

from pydantic import Field

from infinitedub.stages.model.settings import FrameRate
from infinitedub.stages.settings import Decides, Settings


class IngestOptions(Settings):
    """Limits on a user's files, and what they are converted to: what conf/ingest sets."""

    max_side_px: Decides[int] = Field(ge=16)
    """Larger pictures are scaled down until their longer side is this, pixels."""
    min_side_px: Decides[int] = Field(ge=1)
    """Pictures whose shorter side is less than this are refused, pixels."""
    max_pixels: Decides[int] = Field(gt=0)
    """Pictures with more pixels than this, width times height as stored, are refused before they are decoded."""
    max_gigapixels: Decides[float] = Field(gt=0)
    """Footage whose frames together have more pixels than this, as stored, is refused, since it would take days, 10^9 pixels."""
    max_seconds: Decides[float] = Field(gt=0)
    """Footage and speech longer than this are refused, seconds."""
    min_decoded_fraction: Decides[float] = Field(gt=0, le=1)
    """Footage and speech are refused as cut short when less than this part of the announced duration can be decoded, 0..1."""
    alpha_color: Decides[tuple[int, int, int]]
    """Background of a transparent photograph: red, green, blue, 0..255."""
    crf: Decides[int] = Field(ge=0, le=51)
    """x264's constant rate factor for normalised footage: 0 is lossless, below 10 no loss is visible."""
    gop_frames: Decides[int] = Field(ge=1)
    """Frames from one key frame to the next in normalised footage: at most so many are decoded to read one."""


class IngestSettings(IngestOptions, FrameRate):
    """All settings of the stage."""
