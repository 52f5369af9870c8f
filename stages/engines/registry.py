"""The engines by name: what the pipeline knows of each before it is opened.

To add one: a room beside this file with its settings, its preparation and its windows; an entry here; its two settings classes in the unions of
settings.py; a file in conf/generate/model. Heavy imports happen in the openers, which run in the process that does the work.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infinitedub.stages.contract import Rank
from infinitedub.stages.engines.device_bytes import DeviceBytes
from infinitedub.stages.engines.infinitetalk.memory import device_bytes
from infinitedub.stages.engines.infinitetalk.settings import InfiniteTalkModel, InfiniteTalkPreparationSettings
from infinitedub.stages.engines.settings import EngineSettings
from infinitedub.stages.engines.test_pattern.settings import PatternModel, PatternPreparationSettings
from infinitedub.stages.settings import Settings

if TYPE_CHECKING:
    from infinitedub.stages.engines.engine import Engine, Preparation
    from infinitedub.stages.model.shards import Shards


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """An engine as the pipeline knows it."""

    needs_speech: bool  # whether listen runs, and whether every row of the catalogue must name speech
    preparation_settings: type[Settings]
    open_preparation: "Callable[[Any, Rank, int], Preparation]"  # (preparation settings, rank, prompts to cache)
    device_bytes: "Callable[[EngineSettings], DeviceBytes | None]"  # on a GPU; None if the engine does not say
    open_engine: "Callable[[Any, EngineSettings, Rank, Shards], Engine[Any]]"  # (model record, engine settings, rank, shards)


def open_infinitetalk_preparation(settings: InfiniteTalkPreparationSettings, rank: Rank, remembered_prompts: int) -> "Preparation":
    from infinitedub.stages.engines.infinitetalk.preparation import open_preparation

    return open_preparation(settings, rank, remembered_prompts)


def open_infinitetalk(model: InfiniteTalkModel, settings: EngineSettings, rank: Rank, shards: "Shards") -> "Engine[Any]":
    from infinitedub.stages.engines.infinitetalk.window import open_engine

    return open_engine(model, settings, rank, shards)


def open_test_pattern_preparation(settings: PatternPreparationSettings, rank: Rank, remembered_prompts: int) -> "Preparation":
    from infinitedub.stages.engines.test_pattern.bars import ReferencePicture

    return ReferencePicture()


def open_test_pattern(model: PatternModel, settings: EngineSettings, rank: Rank, shards: "Shards") -> "Engine[Any]":
    from infinitedub.stages.engines.test_pattern.bars import MovingBars

    return MovingBars(rank)


def infinitetalk_device_bytes(settings: EngineSettings) -> DeviceBytes:
    """For the largest frames of the model."""
    pixels = max(height * width for height, width in settings.model.buckets.values())
    return device_bytes(pixels, settings.precision.dtype, settings.parallel.degree)


ENGINES: dict[str, EngineSpec] = {
    "infinitetalk": EngineSpec(True, InfiniteTalkPreparationSettings, open_infinitetalk_preparation, infinitetalk_device_bytes, open_infinitetalk),
    "test_pattern": EngineSpec(False, PatternPreparationSettings, open_test_pattern_preparation, lambda _: None, open_test_pattern),
}
