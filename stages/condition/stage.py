"""Condition: prepares a segment's conditioning, so that the denoiser's GPUs do nothing but denoise."""

from typing import TYPE_CHECKING

from infinitedub.stages.condition.settings import ConditionSettings
from infinitedub.stages.contract import Files, Rank
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.records import Conditions, Prompt, Segment, Source

if TYPE_CHECKING:
    from infinitedub.stages.engines.engine import Preparation


class ConditionStage:
    """Source, segment and prompt in, the segment's conditions out. The engine knows what they are."""

    def __init__(self, config: ConditionSettings) -> None:
        self.config = config
        self._preparation: Preparation | None = None

    def open(self, rank: Rank) -> None:
        import torch

        from infinitedub.stages.engines.registry import ENGINES
        from infinitedub.stages.model.determinism import use_deterministic_kernels

        if torch.device(rank.device).type != self.config.device:
            raise ConfigError(f"condition.device is {self.config.device}, but the pool placed condition on {rank.device}; make both the same")
        use_deterministic_kernels()
        settings = self.config.preparation
        self._preparation = ENGINES[settings.engine].open_preparation(settings, rank, self.config.remembered_prompts)

    def __call__(self, source: Source, segment: Segment, prompt: Prompt, *, files: Files) -> Conditions:
        from infinitedub.stages.engines.framing import choose_bucket

        if self._preparation is None:
            raise RuntimeError("ConditionStage is called before open()")
        size = choose_bucket(source.height, source.width, self.config.buckets)
        path = files.scratch() / "conditions.safetensors"
        self._preparation.prepare(files.fetch(source.picture), source, segment, prompt, size, path)
        return Conditions(files.store(path, "tensors/safetensors"), *size)

    def close(self) -> None:
        """Releases the encoders."""
        self._preparation = None
