"""Generate: makes the frames of a segment."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from infinitedub.stages.contract import Files, Rank
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.generate.settings import GenerateSettings
from infinitedub.stages.records import Chunk, Clip, Conditions, Seed, Segment, Speech

if TYPE_CHECKING:
    from infinitedub.stages.generate.engine import Engine
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
        self._engine: Engine | None = None

    def open(self, rank: Rank) -> None:
        import torch

        from infinitedub.stages.generate.infinitetalk import InfiniteTalk
        from infinitedub.stages.generate.parallel import join
        from infinitedub.stages.model.offload import offload
        from infinitedub.stages.model.weights.bundle import open_bundle
        from infinitedub.stages.model.weights.paths import locate

        if torch.device(rank.device).type != self.config.device:
            raise ConfigError(
                f"generate.device is {self.config.device}, but the pool placed generate on {rank.device}; take pools=cluster for cuda, others for cpu"
            )
        model = self.config.model
        bundle = open_bundle(locate(model.weights), locate(model.adapter), locate(model.speech))
        self._rank = rank
        self._shards = join(rank, self.config.parallel)
        transformer = bundle.transformer(
            torch.bfloat16 if self.config.precision.dtype == "bf16" else torch.float32,
            rank.device,
            [(locate(lora.path), lora.scale) for lora in model.loras],
            compat_upstream=self.config.compat == "upstream",
        )
        if rank.low_memory:
            offload(transformer.blocks)
        self._engine = InfiniteTalk(
            transformer,
            bundle.codec(torch.float32, rank.device) if rank.index == 0 else None,
            sampler=self.config.sampler,
            guidance=self.config.guidance,
            cache=self.config.cache,
            shards=self._shards,
        )

    def __call__(self, segment: Segment, conditions: Conditions, speech: Speech, seed: Seed, *, files: Files) -> Iterator[Chunk | Clip]:
        from infinitedub.stages.generate.checkpoints import CheckpointStore
        from infinitedub.stages.generate.noise import window_noise
        from infinitedub.stages.generate.parallel import raise_on_all_ranks
        from infinitedub.stages.generate.streaming import StreamOptions, generate_segment
        from infinitedub.stages.generate.window_inputs import SegmentInputs

        if self._engine is None or self._shards is None:
            raise RuntimeError("GenerateStage is called before open()")
        device = self._rank.device
        with raise_on_all_ranks(self._shards, device):
            upstream = self.config.compat == "upstream"
            inputs = SegmentInputs(segment, files.fetch(conditions.tensors), files.fetch(speech.features), device, compat_upstream=upstream)
            store = CheckpointStore(segment, files, self.config.model.fps, self._shards, device)
        self._engine.check(inputs.latent_shape)
        yield from generate_segment(
            self._engine,
            segment,
            inputs,
            store,
            StreamOptions(self.config.color_strength, self.config.seam_frames, self.config.model.motion_frames),
            noise=lambda window, shape: window_noise(seed, segment.index, window, shape),
        )

    def close(self) -> None:
        """Leaves the gang and lets the networks go."""
        from infinitedub.stages.generate.parallel import leave

        if self._shards is not None:
            leave(self._shards)
        self._shards = self._engine = None
