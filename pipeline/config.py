"""The whole configuration of a run, checked once: the same paths as the folders of conf/."""

import re
from collections.abc import Callable
from functools import partial
from typing import BinaryIO, Literal, Self

from pydantic import model_validator

from infinitedub.pipeline.catalogue.rows import Catalogue, RowSettings, read_catalogue
from infinitedub.pipeline.pools.settings import ClusterSettings, PoolsSettings, RaySettings
from infinitedub.pipeline.storage.storage import StorageSettings
from infinitedub.stages.assemble.settings import AssembleSettings
from infinitedub.stages.condition.settings import ConditionOptions
from infinitedub.stages.engines.registry import ENGINES, EngineSpec
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.generate.settings import GenerateSettings
from infinitedub.stages.ingest.settings import IngestOptions
from infinitedub.stages.listen.settings import ListenOptions
from infinitedub.stages.publish.settings import PublishSettings
from infinitedub.stages.segment.settings import SegmentOptions
from infinitedub.stages.settings import Neutral, Settings

PLAIN = re.compile(r"([a-z0-9]+:/)?/[A-Za-z0-9/._:@+-]*")


def quoted(value: str) -> str:
    """The text as the value of an override: in quotes if Hydra's grammar would otherwise interpret it."""
    if PLAIN.fullmatch(value):
        return value
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # no interpolation
    return "'" + re.sub(r"(\\+)(?='|$)", r"\1\1", value).replace("'", "\\'") + "'"


class RunConfig(Settings):
    """All settings of `dub run`."""

    catalogue: Neutral[str]
    """The rows to dub: a JSONL, CSV or Parquet file, local or any fsspec URI."""
    on_bad_row: Neutral[Literal["stop", "skip"]]
    """stop: refuse the run before it starts; skip: dub the good rows and report the bad ones."""
    rows: RowSettings
    ingest: IngestOptions
    segment: SegmentOptions
    listen: ListenOptions
    condition: ConditionOptions
    generate: GenerateSettings
    assemble: AssembleSettings
    publish: PublishSettings
    storage: StorageSettings
    pools: PoolsSettings
    cluster: ClusterSettings

    @property
    def engine(self) -> EngineSpec:
        """The engine that the model's record names."""
        return ENGINES[self.generate.model.engine]

    def read_rows(self, opener: Callable[[str], BinaryIO]) -> Catalogue:
        """The rows of the catalogue, checked against what the engine and its model need. Raises ConfigError as `read_catalogue`."""
        voices_fault = partial(self.engine.voices_fault, self.generate.model)
        return read_catalogue(self.catalogue, opener, self.rows, needs_speech=self.engine.needs_speech, voices_fault=voices_fault)

    @model_validator(mode="after")
    def _pools_have_the_device(self) -> Self:
        pools = self.pools
        if not isinstance(pools, RaySettings):  # in one process, every stage takes the device that it asks for
            return self
        placed = {
            "condition": (self.condition.device, pools.condition.gpus, "pools.condition.gpus"),
            "generate": (self.generate.device, pools.generate.gpus_per_rank, "pools.generate.gpus_per_rank"),
        }
        for name, (device, gpus, setting) in placed.items():
            if device == "cuda" and gpus == 0:
                raise ConfigError(f"{name}.device is cuda, but the pools give {name} no GPU; take pools=cluster, or {name}.device=cpu")
            if device == "cpu" and gpus != 0:
                only_condition = name == "condition" and self.generate.device == "cuda"
                mend = f"{setting}=0" if only_condition else "pools=local, or a preset for GPUs such as preset=infinitetalk_480"
                raise ConfigError(f"{name}.device is cpu, but the pools give {name} GPUs; take {mend}, or {name}.device=cuda")
        return self
