"""The stages of the house, by name: which class does the verb, what it gives, and how old its way of doing it is."""

from dataclasses import dataclass
from typing import Any

from infinitedub.pipeline.config import RunConfig
from infinitedub.stages.assemble.stage import AssembleStage
from infinitedub.stages.condition.stage import ConditionStage
from infinitedub.stages.contract import Stage
from infinitedub.stages.generate.stage import GenerateStage
from infinitedub.stages.ingest.stage import IngestStage
from infinitedub.stages.listen.stage import ListenStage
from infinitedub.stages.publish.stage import PublishStage
from infinitedub.stages.records import Clip, Conditions, Film, Receipt, Segment, Source, Speech
from infinitedub.stages.segment.stage import SegmentStage


@dataclass(frozen=True)
class StageSpec:
    """A stage as the pipeline knows it."""

    name: str
    stage: Stage
    result: Any  # the type of its record
    version: int = 1  # raised when the code changes what comes out: older results are then not found any more


def stage_specs(config: RunConfig) -> dict[str, StageSpec]:
    """Every verb of a run, in the order of the flow."""
    verbs = (
        StageSpec("ingest", IngestStage(config.ingest), Source),
        StageSpec("segment", SegmentStage(config.segment), tuple[Segment, ...]),
        StageSpec("listen", ListenStage(config.listen), Speech),
        StageSpec("condition", ConditionStage(config.condition), Conditions),
        StageSpec("generate", GenerateStage(config.generate), Clip),
        StageSpec("assemble", AssembleStage(config.assemble), Film),
        StageSpec("publish", PublishStage(config.publish), Receipt),
    )
    return {verb.name: verb for verb in verbs}
