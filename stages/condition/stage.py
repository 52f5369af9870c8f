"""Prepares everything the denoiser is told about a segment, so that its GPUs do nothing but denoise.

The file behind `Conditions.tensors` holds, D being the text encoder's width and T the latent frames of a window:

    text, null_text           [L, D]                   states of the prompt and of the negative prompt, without padding
    window_reference          [windows], int64         which reference each window has
    reference.{r}.latents     [1, 16, T, h/8, w/8]     a frame of the source and grey after it, encoded; float32
    reference.{r}.clip        [1, 257, clip_dim]       the same frame as CLIP sees it
    color_reference           [3, h, w], uint8         the picture whose colours the segment keeps
    masks                     [3, h/8, w/8], bool      person 1, person 2, background; only where two persons speak
"""

from typing import TYPE_CHECKING

from infinitedub.stages.condition.settings import ConditionSettings
from infinitedub.stages.contract import Files, Rank
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.records import Conditions, Prompt, Segment, Source

if TYPE_CHECKING:
    from infinitedub.stages.condition.preparer import Preparer


class ConditionStage:
    """Source, segment and prompt in, the segment's conditions out."""

    def __init__(self, config: ConditionSettings) -> None:
        self.config = config
        self._preparer: Preparer | None = None

    def open(self, rank: Rank) -> None:
        import torch

        from infinitedub.stages.condition.preparer import Preparer
        from infinitedub.stages.model.offload import offload
        from infinitedub.stages.model.weights.bundle import open_bundle
        from infinitedub.stages.model.weights.paths import resolve_weights

        if torch.device(rank.device).type != self.config.device:
            raise ConfigError(f"condition.device is {self.config.device}, but the pool seats condition on {rank.device}; make both the same")
        dtype = torch.bfloat16 if self.config.dtype == "bf16" else torch.float32
        bundle = open_bundle(resolve_weights(self.config.weights))
        text_encoder = bundle.text_encoder(dtype, rank.device)
        if rank.low_memory:
            offload(text_encoder.model.encoder.block)
        self._preparer = Preparer(
            self.config, bundle.codec(torch.float32, rank.device), bundle.image_encoder(dtype, rank.device), text_encoder, rank.device
        )

    def __call__(self, source: Source, segment: Segment, prompt: Prompt, *, files: Files) -> Conditions:
        if self._preparer is None:
            raise RuntimeError("preparing begins with open()")
        path = files.scratch() / "conditions.safetensors"
        height, width = self._preparer.prepare(files.fetch(source.picture), source, segment, prompt, path)
        return Conditions(files.store(path, "tensors/safetensors"), height, width)

    def close(self) -> None:
        """Lets the encoders go."""
        self._preparer = None
