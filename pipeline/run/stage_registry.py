"""The registry of stages: the class of each, the type of its result, and its version."""

from dataclasses import dataclass
from typing import Any

from infinitedub.pipeline.config import RunConfig
from infinitedub.stages.assemble.stage import AssembleStage
from infinitedub.stages.condition.settings import ConditionSettings
from infinitedub.stages.condition.stage import ConditionStage
from infinitedub.stages.contract import Stage
from infinitedub.stages.generate.stage import GenerateStage
from infinitedub.stages.ingest.settings import IngestSettings
from infinitedub.stages.ingest.stage import IngestStage
from infinitedub.stages.listen.settings import ListenSettings
from infinitedub.stages.listen.stage import ListenStage
from infinitedub.stages.publish.stage import PublishStage
from infinitedub.stages.records import Clip, Conditions, Film, Receipt, Segment, Source, Speech
from infinitedub.stages.segment.settings import SegmentSettings
from infinitedub.stages.segment.stage import SegmentStage


@dataclass(frozen=True)
class StageSpec:
    """A stage as the pipeline knows it."""

    name: str
    stage: Stage
    result: Any  # the type of its record
    version: int = 1  # raised when the code changes its results: older results are then not found any more


def stage_specs(config: RunConfig) -> dict[str, StageSpec]:
    """Every stage of a run, in the order of the flow. A stage gets its own settings and the facts of the model that it declares.

    listen is there only if the engine needs speech.
    """
    generate, model, engine = config.generate, config.generate.model, config.engine
    specs = [
        StageSpec("ingest", IngestStage(IngestSettings.from_parts(config.ingest, model)), Source),
        StageSpec("segment", SegmentStage(SegmentSettings.from_parts(config.segment, model)), tuple[Segment, ...]),
        StageSpec("condition", ConditionStage(condition_settings(config)), Conditions, version=2),
        StageSpec("generate", GenerateStage(generate), Clip),
        StageSpec("assemble", AssembleStage(config.assemble), Film),
        StageSpec("publish", PublishStage(config.publish), Receipt),
    ]
    if engine.needs_speech:
        specs.insert(2, StageSpec("listen", ListenStage(ListenSettings.from_parts(config.listen, model)), Speech, version=2))
    return {spec.name: spec for spec in specs}


def condition_settings(config: RunConfig) -> ConditionSettings:
    """The settings of condition, with those of the engine's preparation."""
    generate = config.generate
    preparation = config.engine.preparation_settings.from_parts(generate.model, generate.precision, generate)
    return ConditionSettings(
        remembered_prompts=config.condition.remembered_prompts,
        buckets=generate.model.buckets,
        device=config.condition.device,
        preparation=preparation,
    )
