"""Settings of the test pattern."""

from typing import Literal

from infinitedub.stages.model.settings import ModelSettings
from infinitedub.stages.settings import Decides, Settings


class PatternModel(ModelSettings):
    """Sizes alone: there are no weights."""

    engine: Decides[Literal["test_pattern"]]
    """Which engine."""


class PatternPreparationSettings(Settings):
    """What the preparation uses."""

    engine: Decides[Literal["test_pattern"]]
    """Which engine."""
