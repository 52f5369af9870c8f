"""What ingest can be told."""

from pydantic import Field

from infinitedub.stages.settings import Decides, Settings


class IngestSettings(Settings):
    """How far a user's files are trusted, and what they are turned into."""

    fps: Decides[float] = Field(gt=0, le=240)
    """Frame rate that footage is brought to and films are made at, frames per second."""
    max_side_px: Decides[int] = Field(ge=16)
    """Larger pictures are scaled down until their longer side is this, pixels."""
    min_side_px: Decides[int] = Field(ge=1)
    """Pictures whose shorter side is less than this are refused, pixels."""
    max_pixels: Decides[int] = Field(gt=0)
    """Pictures with more pixels than this, width times height as stored, are refused before they are decoded."""
    max_gigapixels: Decides[float] = Field(gt=0)
    """Footage whose frames together have more pixels than this, as stored, is refused: it would be days of work, 10^9 pixels."""
    max_seconds: Decides[float] = Field(gt=0)
    """Footage and speech longer than this are refused, seconds."""
    min_decoded_fraction: Decides[float] = Field(gt=0, le=1)
    """Footage and speech are refused as cut short when less than this part of the announced duration can be decoded, 0..1."""
    alpha_color: Decides[tuple[int, int, int]]
    """What shows through where a photograph is transparent: red, green, blue, 0..255."""
    crf: Decides[int] = Field(ge=0, le=51)
    """x264's constant rate factor for normalised footage: 0 none lost, below 10 no loss that is seen."""
    gop_frames: Decides[int] = Field(ge=1)
    """Frames from one key frame to the next in normalised footage: how many have to be decoded to reach any one."""
