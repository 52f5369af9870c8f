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
from infinitedub.stages.engines.infinitetalk.model_check import faults_before_start, voices_fault
from infinitedub.stages.engines.infinitetalk.settings import InfiniteTalkModel, InfiniteTalkPreparationSettings
from infinitedub.stages.engines.settings import EngineSettings
from infinitedub.stages.engines.test_pattern.settings import PatternModel, PatternPreparationSettings
from infinitedub.stages.settings import Settings

if TYPE_CHECKING:
    from infinitedub.stages.engines.engine import Engine, Preparation
    from infinitedub.stages.model.shards import Shards
    from infinitedub.stages.model.weights.file_check import WeightFiles


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """An engine as the pipeline knows it."""

    needs_speech: bool  # whether listen runs, and whether every row of the catalogue must name speech
    voices_fault: Callable[[Any, int], str]  # (model record, voices of a row): why it cannot be dubbed, or nothing
    faults_before_start: "Callable[[Any, EngineSettings, WeightFiles], list[str]]"  # (model record, engine settings, files of the model)
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
    "infinitetalk": EngineSpec(
        needs_speech=True,
        voices_fault=voices_fault,
        faults_before_start=faults_before_start,
        preparation_settings=InfiniteTalkPreparationSettings,
        open_preparation=open_infinitetalk_preparation,
        device_bytes=infinitetalk_device_bytes,
        open_engine=open_infinitetalk,
    ),
    "test_pattern": EngineSpec(
        needs_speech=False,
        voices_fault=lambda model, voices: "",
        faults_before_start=lambda model, settings, files: [],
        preparation_settings=PatternPreparationSettings,
        open_preparation=open_test_pattern_preparation,
        device_bytes=lambda _: None,
        open_engine=open_test_pattern,
    ),
}
