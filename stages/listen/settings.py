"""What listening can be told."""

from pydantic import Field

from stages.settings import Decides, Neutral, Settings


class ListenSettings(Settings):
    """How speech becomes features. Where the weights lie is neutral: the digest of their bytes is part of every key."""

    weights: Neutral[str]
    """Folder or URI of the model's files."""
    adapter: Neutral[str]
    """As for the denoiser; opened with the model, not read."""
    speech: Neutral[str]
    """Release layout only: the folder of the wav2vec2 encoder. Empty where `weights` holds everything."""
    target_lufs: Decides[float] = Field(ge=-70, le=0)
    """Integrated loudness the encoder hears, LUFS (ITU-R BS.1770)."""
    silence_lufs: Decides[float] = Field(ge=-70, le=0)
    """A voice softer than this is room noise and is heard as silence. The encoder scales whatever it hears to unit variance, so that noise
    would otherwise move the lips as much as speech; a limit on the gain could not prevent that."""
    chunk_seconds: Decides[float] = Field(ge=1)
    """Sound the encoder hears at once; longer speech is heard piece by piece."""
    context_seconds: Decides[float] = Field(ge=0)
    """Sound heard on either side of a piece, whose features are not kept."""
