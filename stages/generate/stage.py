"""Makes the frames of a segment."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from infinitedub.stages.contract import Files, Rank
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.generate.settings import GenerateSettings
from infinitedub.stages.records import Chunk, Clip, Conditions, Seed, Segment, Speech, WindowCheckpoint

if TYPE_CHECKING:
    from torch import Tensor

    from infinitedub.stages.generate.engine import Engine
    from infinitedub.stages.model.shards import Shards


class GenerateStage:
    """Segment, conditions, speech and seed in; a `Chunk` per window out as it is made and remembered, and the `Clip` last.

    Windows that another call has remembered are not made again, wherever they lie: the work goes on behind them, with the same bits as if it had
    never stopped.
    On a gang every rank is called alike; ranks other than 0 take part in the work, yield nothing and keep nothing.
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
        from infinitedub.stages.model.weights.paths import resolve_weights

        if torch.device(rank.device).type != self.config.device:
            raise ConfigError(f"generate.device is {self.config.device}, but the pool seats generate on {rank.device}; make both the same")
        model = self.config.model
        bundle = open_bundle(resolve_weights(model.weights), resolve_weights(model.adapter), resolve_weights(model.speech))
        self._rank = rank
        self._shards = join(rank, self.config.parallel)
        transformer = bundle.transformer(
            torch.bfloat16 if self.config.precision.dtype == "bf16" else torch.float32,
            rank.device,
            [(resolve_weights(lora.path), lora.scale) for lora in model.loras],
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
        from infinitedub.stages.generate.checkpoints import keep_motion, resume
        from infinitedub.stages.generate.noise import window_noise
        from infinitedub.stages.generate.parallel import agree
        from infinitedub.stages.generate.streaming import dub
        from infinitedub.stages.generate.window_frames import to_bytes
        from infinitedub.stages.generate.window_inputs import SegmentInputs
        from infinitedub.stages.media.video import write_lossless

        if self._engine is None or self._shards is None:
            raise RuntimeError("generating begins with open()")
        upstream, shards = self.config.compat == "upstream", self._shards
        script = SegmentInputs(segment, files.fetch(conditions.tensors), files.fetch(speech.features), self._rank.device, compat_upstream=upstream)
        self._engine.check(script.latent_shape)
        takes: list[WindowCheckpoint] = []
        folder = files.scratch()

        def ahead(number: int) -> tuple[int, "Tensor | None"]:
            found, motion = resume(number, segment, files, self._rank.device) if self._rank.index == 0 else ([], None)
            takes.extend(found)
            return agree(number + len(found), shards, self._rank.device), motion

        def keep(fresh: "Tensor", motion: "Tensor") -> WindowCheckpoint:
            number = len(takes)
            pictures = to_bytes(fresh)
            path = folder / "chunk.mkv"
            write_lossless(path, pictures, self.config.model.fps)
            chunk = Chunk(number, files.store(path, "chunk/mkv"), len(pictures))
            last = number == len(segment.windows) - 1
            return files.save_checkpoint(number, WindowCheckpoint(chunk, None if last else keep_motion(motion, folder, files)))

        for take in dub(
            self._engine,
            segment,
            script,
            keep,
            color_strength=self.config.color_strength,
            seam_frames=self.config.seam_frames,
            motion_frames=self.config.model.motion_frames,
            noise=lambda window, shape: window_noise(seed, segment.index, window, shape),
            ahead=ahead,
        ):
            takes.append(take)
            yield take.chunk
        if self._rank.index == 0:
            yield Clip(segment.index, segment.span, tuple(take.chunk for take in takes))

    def close(self) -> None:
        """Leaves the gang and lets the networks go."""
        from infinitedub.stages.generate.parallel import leave

        if self._shards is not None:
            leave(self._shards)
        self._shards = self._engine = None
