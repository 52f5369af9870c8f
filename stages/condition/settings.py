"""Settings of condition."""

from typing import Literal

from pydantic import Field

from infinitedub.stages.engines.settings import PreparationSettings
from infinitedub.stages.model.settings import FrameSizes
from infinitedub.stages.settings import Decides, Neutral, Settings


class ConditionOptions(Settings):
    """What conf/condition sets."""

    device: Decides[Literal["cpu", "cuda"]]
    """What computes; the pool must place the stage on such a device. On a CPU a window's encoding takes minutes."""
    remembered_prompts: Neutral[int] = Field(ge=0)
    """Encoded prompts that are cached in the process: the text encoder is the most expensive part of this stage."""


class ConditionSettings(ConditionOptions, FrameSizes):
    """All settings of the stage."""

    preparation: PreparationSettings
