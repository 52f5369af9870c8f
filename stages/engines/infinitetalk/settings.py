"""Settings of InfiniteTalk."""

from typing import Literal

from pydantic import Field

from infinitedub.stages.model.settings import BaseWeights, LoraSettings, ModelSettings, SpeechWeights, WindowLength
from infinitedub.stages.settings import Decides, Weights


class InfiniteTalkModel(BaseWeights, SpeechWeights, ModelSettings):
    """The denoiser and its encoders."""

    engine: Decides[Literal["infinitetalk"]]
    """Which engine."""
    adapter: Weights
    """The safetensors file of InfiniteTalk's own weights: relative to `weights`, or an absolute path or URI."""
    teacache_coefficients: Decides[tuple[float, ...]] = Field(min_length=1)
    """Predicts the change of the blocks' output from a change of the embedded timestep: a polynomial, highest power first."""
    loras: Decides[tuple[LoraSettings, ...]]
    """Merged into the transformer, in any order."""


class InfiniteTalkPreparationSettings(BaseWeights, WindowLength):
    """What the preparation uses."""

    engine: Decides[Literal["infinitetalk"]]
    """Which engine."""
    dtype: Decides[Literal["fp32", "bf16"]]
    """Number format of the text and image encoders; the video autoencoder computes in float32."""
    compat: Decides[Literal["none", "upstream"]]
    """upstream: boxes are read as [y_min, x_min, y_max, x_max], and the film's first frame is the colour reference of all segments."""
