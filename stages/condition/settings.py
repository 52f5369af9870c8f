"""Settings of the preparation of segments."""

from typing import Literal

from pydantic import Field

from infinitedub.stages.model.settings import BaseWeights, FrameSizes, WindowLength
from infinitedub.stages.settings import Decides, Neutral, Settings


class ConditionOptions(Settings):
    """What conf/condition sets."""

    remembered_prompts: Neutral[int] = Field(ge=0)
    """Encoded prompts that are cached in the process: the text encoder is the most expensive part of this stage."""


class ConditionSettings(ConditionOptions, BaseWeights, WindowLength, FrameSizes):
    """All settings of the stage."""

    dtype: Decides[Literal["fp32", "bf16"]]
    """What numbers the text and image encoders compute with; the video autoencoder computes in float32."""
    device: Decides[Literal["cpu", "cuda"]]
    """What computes; the pool must place the stage on such a device."""
    compat: Decides[Literal["none", "upstream"]]
    """upstream: boxes are read as [y_min, x_min, y_max, x_max], and the film's first frame is the colour reference of all segments."""
