"""What assembly can be told."""

from typing import Literal

from pydantic import Field

from infinitedub.stages.settings import Decides, Settings


class AssembleSettings(Settings):
    """How the finished film is encoded."""

    crf: Decides[int] = Field(ge=0, le=51)
    """x264's constant rate factor: lower is better and larger."""
    preset: Decides[Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]]
    """How long x264 may search for smaller files."""
    sound_codec: Decides[Literal["flac", "aac"]]
    """flac keeps the given speech to the sample; aac plays where FLAC in MP4 does not."""
    aac_kbps: Decides[int] = Field(ge=16, le=512)
    """Bit rate of the sound, kbit/s; for aac only."""
