"""Generate: makes the frames of a segment."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from infinitedub.stages.contract import Files, Rank
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.generate.settings import GenerateSettings
from infinitedub.stages.records import Chunk, Clip, Conditions, Seed, Segment, Speech

if TYPE_CHECKING:
    from infinitedub.stages.engines.engine import Engine
    from infinitedub.stages.model.shards import Shards


class GenerateStage:
    """Makes a segment from its conditions, the speech and the seed: yields a `Chunk` per window as it is made and stored, and the `Clip` last.

    Windows with a checkpoint of an earlier call are not made again. The segment is continued after them and has the same bits as in one call.
    In a gang, every rank makes the same calls. Ranks other than 0 take part in the computation, yield nothing and store nothing.
    """

    def __init__(self, config: GenerateSettings) -> None:
        self.config = config
        self._rank = Rank()
        self._shards: Shards | None = None
        self._engine: Engine[Any] | None = None

    def open(self, rank: Rank) -> None:
        import torch

        from infinitedub.stages.engines.parallel import join
        from infinitedub.stages.engines.registry import ENGINES
        from infinitedub.stages.model.determinism import use_deterministic_kernels

        if torch.device(rank.device).type != self.config.device:
            raise ConfigError(f"generate.device is {self.config.device}, but the pool placed generate on {rank.device}; make both the same")
        use_deterministic_kernels()
        model = self.config.model
        self._rank = rank
        self._shards = join(rank, self.config.parallel)
        self._engine = ENGINES[model.engine].open_engine(model, self.config, rank, self._shards)

    def __call__(self, segment: Segment, conditions: Conditions, speech: Speech | None, seed: Seed, *, files: Files) -> Iterator[Chunk | Clip]:
        from infinitedub.stages.engines.parallel import raise_on_all_ranks
        from infinitedub.stages.generate.checkpoints import CheckpointStore
        from infinitedub.stages.generate.noise import window_noise
        from infinitedub.stages.generate.streaming import StreamOptions, generate_segment

        if self._engine is None or self._shards is None:
            raise RuntimeError("GenerateStage is called before open()")
        device = self._rank.device
        with raise_on_all_ranks(self._shards, device):
            features = None if speech is None else files.fetch(speech.features)
            inputs = self._engine.open_segment(segment, files.fetch(conditions.tensors), features)
            store = CheckpointStore(segment, files, self.config.model.fps, self._shards, device)
        yield from generate_segment(
            self._engine,
            segment,
            inputs,
            store,
            StreamOptions(self.config.color_strength, self.config.seam_frames, self.config.model.motion_frames),
            noise=lambda window, shape: window_noise(seed, segment.index, window, shape),
        )

    def close(self) -> None:
        """Leaves the gang and releases the networks."""
        from infinitedub.stages.engines.parallel import leave

        if self._shards is not None:
            leave(self._shards)
        self._shards = self._engine = None
