"""Settings of the assemble stage."""

from typing import Literal

from pydantic import Field

from infinitedub.stages.settings import Decides, Settings


class AssembleSettings(Settings):
    """How the finished film is encoded."""

    crf: Decides[int] = Field(ge=0, le=51)
    """Constant rate factor of x264: a lower value gives better quality and a larger file."""
    preset: Decides[Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]]
    """How long x264 may search for smaller files."""
    sound_codec: Decides[Literal["flac", "aac"]]
    """flac keeps every sample of the speech; aac plays in players that do not support FLAC in MP4."""
    aac_kbps: Decides[int] = Field(ge=16, le=512)
    """Bit rate of the audio, kbit/s; used by aac only."""
