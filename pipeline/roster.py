"""The stages of the house, by name: which class does the verb, what it gives, and how old its way of doing it is."""

from dataclasses import dataclass
from typing import Any

from pipeline.config import RunConfig
from stages.assemble.stage import AssembleStage
from stages.condition.stage import ConditionStage
from stages.contract import Stage
from stages.generate.stage import GenerateStage
from stages.ingest.stage import IngestStage
from stages.listen.stage import ListenStage
from stages.publish.stage import PublishStage
from stages.records import Clip, Conditions, Film, Receipt, Segment, Source, Speech
from stages.segment.stage import SegmentStage


@dataclass(frozen=True)
class Verb:
    """A stage as the pipeline knows it."""

    name: str
    stage: Stage
    result: Any  # the type of its record
    version: int = 1  # raised when the code changes what comes out: older results are then not found any more


def roster(config: RunConfig) -> dict[str, Verb]:
    """Every verb of a run, in the order of the flow."""
    verbs = (
        Verb("ingest", IngestStage(config.ingest), Source),
        Verb("segment", SegmentStage(config.segment), tuple[Segment, ...]),
        Verb("listen", ListenStage(config.listen), Speech),
        Verb("condition", ConditionStage(config.condition), Conditions),
        Verb("generate", GenerateStage(config.generate), Clip),
        Verb("assemble", AssembleStage(config.assemble), Film),
        Verb("publish", PublishStage(config.publish), Receipt),
    )
    return {verb.name: verb for verb in verbs}
