"""Settings of listen."""

from pydantic import Field

from infinitedub.stages.model.settings import SpeechWeights
from infinitedub.stages.settings import Decides, Settings


class ListenOptions(Settings):
    """How speech becomes features: what conf/listen sets."""

    target_lufs: Decides[float] = Field(ge=-70, le=0)
    """Integrated loudness of the encoder's input, LUFS (ITU-R BS.1770)."""
    silence_lufs: Decides[float] = Field(ge=-70, le=0)
    """A voice softer than this is room noise and is treated as silence. The release scales all input to unit variance, so that noise
    would otherwise move the lips as much as speech; a limit on the gain could not prevent that."""
    chunk_seconds: Decides[float] = Field(ge=1)
    """Length of the pieces in which longer speech is encoded."""
    context_seconds: Decides[float] = Field(ge=0)
    """Sound encoded with a piece on either side of it; its features are dropped."""


class ListenSettings(ListenOptions, SpeechWeights):
    """All settings of the stage."""
