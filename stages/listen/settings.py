"""What listening can be told."""

from typing import Any

from pydantic import Field, model_validator

from infinitedub.stages.model.settings import absolute_places
from infinitedub.stages.settings import Decides, Neutral, Settings, Weights


class ListenSettings(Settings):
    """How speech becomes features."""

    weights: Neutral[str]
    """The model's folder or URI; only `speech` is seen from there."""
    speech: Weights
    """The folder of the wav2vec2 encoder: seen from `weights`, or an absolute path or URI."""
    target_lufs: Decides[float] = Field(ge=-70, le=0)
    """Integrated loudness the encoder hears, LUFS (ITU-R BS.1770)."""
    silence_lufs: Decides[float] = Field(ge=-70, le=0)
    """A voice softer than this is room noise and is heard as silence. The release scales whatever it hears to unit variance, so that noise
    would otherwise move the lips as much as speech; a limit on the gain could not prevent that."""
    chunk_seconds: Decides[float] = Field(ge=1)
    """Sound the encoder hears at once; longer speech is heard piece by piece."""
    context_seconds: Decides[float] = Field(ge=0)
    """Sound heard on either side of a piece, whose features are not kept."""

    @model_validator(mode="before")
    @classmethod
    def _places_are_absolute(cls, given: Any) -> Any:
        return absolute_places(given, "speech")
