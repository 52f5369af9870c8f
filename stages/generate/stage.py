"""Makes the frames of a segment."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stages.contract import Files, Seat
from stages.errors import ConfigError
from stages.generate.settings import GenerateSettings
from stages.records import Chunk, Clip, Conditions, Seed, Segment, Speech

if TYPE_CHECKING:
    from torch import Tensor

    from stages.generate.engine import Engine
    from stages.model.shards import Shards


class GenerateStage:
    """Segment, conditions, speech and seed in; a `Chunk` per window out as it is made, and the `Clip` last.

    On a gang every rank is called alike; ranks other than 0 take part in the work, yield nothing and keep nothing.
    """

    def __init__(self, config: GenerateSettings) -> None:
        self.config = config
        self._seat = Seat()
        self._shards: Shards | None = None
        self._engine: Engine | None = None

    def open(self, seat: Seat) -> None:
        import torch

        from stages.generate.infinitetalk import InfiniteTalk
        from stages.generate.parallel import join
        from stages.model.weights.bundle import open_bundle
        from stages.model.weights.locate import locate

        if torch.device(seat.device).type != self.config.device:
            raise ConfigError(f"generate.device is {self.config.device}, but the pool seats generate on {seat.device}; make both the same")
        model = self.config.model
        bundle = open_bundle(locate(model.weights), locate(model.adapter), locate(model.speech))
        self._seat = seat
        self._shards = join(seat, self.config.parallel)
        transformer = bundle.transformer(
            torch.bfloat16 if self.config.precision.dtype == "bf16" else torch.float32,
            seat.device,
            [(locate(lora.path), lora.scale) for lora in model.loras],
            compat_upstream=self.config.compat == "upstream",
        )
        self._engine = InfiniteTalk(
            transformer,
            bundle.codec(torch.float32, seat.device) if seat.rank == 0 else None,
            sampler=self.config.sampler,
            guidance=self.config.guidance,
            cache=self.config.cache,
            shards=self._shards,
        )

    def __call__(self, segment: Segment, conditions: Conditions, speech: Speech, seed: Seed, *, files: Files) -> Iterator[Chunk | Clip]:
        from stages.generate.dubber import dub
        from stages.generate.noise import window_noise
        from stages.generate.script import Script
        from stages.generate.takes import to_bytes
        from stages.media.footage import write_lossless

        if self._engine is None:
            raise RuntimeError("generating begins with open()")
        upstream = self.config.compat == "upstream"
        script = Script(segment, files.fetch(conditions.tensors), files.fetch(speech.features), self._seat.device, compat_upstream=upstream)
        self._engine.check(script.latent_shape)
        folder = files.scratch()
        chunks: list[Chunk] = []

        def keep(fresh: "Tensor") -> Chunk:
            pictures = to_bytes(fresh)
            path = folder / "chunk.mkv"
            write_lossless(path, pictures, self.config.model.fps)
            return Chunk(len(chunks), files.keep(path, "chunk/mkv"), len(pictures))

        for chunk in dub(
            self._engine,
            segment,
            script,
            keep,
            color_strength=self.config.color_strength,
            motion_frames=self.config.model.motion_frames,
            noise=lambda window, shape: window_noise(seed, segment.index, window, shape),
        ):
            chunks.append(chunk)
            yield chunk
        if self._seat.rank == 0:
            yield Clip(segment.index, segment.span, tuple(chunks))

    def close(self) -> None:
        """Leaves the gang and lets the networks go."""
        from stages.generate.parallel import leave

        if self._shards is not None:
            leave(self._shards)
        self._shards = self._engine = None
