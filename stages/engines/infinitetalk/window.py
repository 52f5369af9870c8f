"""Makes windows with InfiniteTalk: Wan2.1's image-to-video transformer with audio, with guidance.

Shapes as in window_inputs.py; k is the number of latent frames that are known from the window before. After MeiGen-AI/InfiniteTalk:
`generate_infinitetalk` in wan/multitalk.py.
"""

import logging
from pathlib import Path

import torch
from torch import Tensor

from infinitedub.stages.contract import Rank
from infinitedub.stages.engines.engine import Noise
from infinitedub.stages.engines.infinitetalk.settings import InfiniteTalkModel
from infinitedub.stages.engines.infinitetalk.window_inputs import ConditionedSegment, WindowInputs
from infinitedub.stages.engines.parallel import XfuserUlysses, from_first
from infinitedub.stages.engines.settings import EngineSettings
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.attention_kernels import attention_kernel, check_kernel
from infinitedub.stages.model.dit import PATCH, EmbeddedConditioning, InfiniteTalkTransformer
from infinitedub.stages.model.latent_codec import LatentCodec
from infinitedub.stages.model.shards import Shards, plan_shards
from infinitedub.stages.model.weights.bundle import open_bundle
from infinitedub.stages.model.weights.paths import resolve_weights
from infinitedub.stages.records import Segment
from infinitedub.stages.sampling.guidance import Guidance, Pass
from infinitedub.stages.sampling.samplers import SAMPLERS, SamplerSettings
from infinitedub.stages.sampling.schedules import TIMESTEPS, shifted_sigmas
from infinitedub.stages.sampling.step_cache import Cache, ResidualCache, TeaCache

logger = logging.getLogger(__name__)


class InfiniteTalk:
    """The denoiser on every rank; the codec between frames and latents on rank 0 only. Implements `Engine`."""

    def __init__(
        self,
        transformer: InfiniteTalkTransformer,
        codec: LatentCodec | None,
        *,
        sampler: SamplerSettings,
        guidance: Guidance,
        cache: Cache,
        shards: Shards,
        device: torch.device | str,
        attention: str = "native",
    ) -> None:
        """`attention`: one of `attention_kernels.BACKENDS`."""
        self._transformer = transformer
        self._codec = codec
        self._sampler = sampler
        self._guidance = guidance
        self._cache = cache
        self._shards = shards
        self._device = device
        self._attention = attention

    def open_segment(self, segment: Segment, conditions: Path, speech: Path | None) -> ConditionedSegment:
        if speech is None:
            raise RuntimeError("InfiniteTalk needs speech features, got none")
        audio_rows, upstream = self._transformer.config.audio_window, self._transformer.compat_upstream
        inputs = ConditionedSegment(segment, conditions, speech, self._device, audio_rows=audio_rows, compat_upstream=upstream)
        _, _, frames, height, width = inputs.latent_shape
        frame_tokens = height // PATCH * (width // PATCH)
        plan_shards(frames * frame_tokens, frame_tokens, self._transformer.config.num_attention_heads, self._shards.degree)
        return inputs

    @torch.inference_mode()
    def window(self, inputs: WindowInputs, motion_frames: Tensor | None, noise: Noise) -> Tensor | None:
        with attention_kernel(self._attention):
            latents = self.denoise(inputs, self._known_latents(inputs, motion_frames), noise(inputs.reference.shape))
        if not torch.isfinite(latents).all():  # the same on every rank
            raise FloatingPointError("the latents hold NaN or infinity after denoising; try generate/precision=fp32, or another seed")
        return None if self._codec is None else self._codec.decode(latents)

    def denoise(self, inputs: WindowInputs, known: Tensor, noise: Tensor) -> Tensor:
        """The window's latents [1, 16, T, h, w], the first k of which are `known` [1, 16, k, h, w]."""
        k = known.shape[2]
        sigmas = shifted_sigmas(self._sampler.steps, self._sampler.shift).to(known)
        condition = torch.cat([first_frame_mask(inputs.reference), inputs.reference], dim=1)
        conditioning = {each: self._embed(each, inputs) for each in self._guidance.passes}
        caches = self._step_caches(sigmas[:-1] * TIMESTEPS)
        combine = self._guidance.start()

        def flow(latents: Tensor, sigma: Tensor, step: int) -> Tensor:
            fixed = torch.cat([known, latents[:, :, k:]], dim=2)
            channels = torch.cat([fixed, condition], dim=1)
            timestep = (sigma * TIMESTEPS)[None]
            predictions = {
                each: self._transformer(
                    channels, timestep, conditioning[each], inputs.masks, shards=self._shards, step_cache=caches[each].at(step) if caches else None
                )
                for each in self._guidance.passes
            }
            return combine(predictions, step)

        latents = SAMPLERS[self._sampler.name](flow, noise.to(known), sigmas)
        return torch.cat([known, latents[:, :, k:]], dim=2)

    def _known_latents(self, inputs: WindowInputs, motion_frames: Tensor | None) -> Tensor:
        """The latents that the window starts from: of the reference frame, or of the end of the window before.

        The codec is causal, so the first latent of a reference with grey after it is that of the reference alone.
        """
        if inputs.overlap_frames == 0:
            return inputs.reference[:, :, :1]
        encoded = None if self._codec is None or motion_frames is None else self._codec.encode(motion_frames)
        batch, channels, _, height, width = inputs.reference.shape
        latents = 1 + (inputs.overlap_frames - 1) // LatentCodec.temporal_factor
        return from_first(encoded, (batch, channels, latents, height, width), self._shards, inputs.reference.device)

    def _embed(self, each: Pass, inputs: WindowInputs) -> EmbeddedConditioning:
        text = inputs.text if each.uses_prompt else inputs.null_text
        audio = inputs.audio if each.uses_speech else torch.zeros_like(inputs.audio[-1:])  # without speech one person is enough
        return self._transformer.embed(text, inputs.image, audio)

    def _step_caches(self, timesteps: Tensor) -> dict[Pass, ResidualCache]:
        """A step cache for each pass, new for each window; empty if every step is computed."""
        if not isinstance(self._cache, TeaCache):
            return {}
        modulations = torch.cat([self._transformer.embed_time(timestep[None])[1] for timestep in timesteps])
        computed = self._cache.computed(modulations)
        return {each: ResidualCache(computed) for each in self._guidance.passes}


def first_frame_mask(reference: Tensor) -> Tensor:
    """Mask channels [1, 4, T, h, w]: 1 for the frame that the reference shows, the first. Frames known from the window before count as 0."""
    batch, _, frames, height, width = reference.shape
    mask = reference.new_zeros(batch, LatentCodec.temporal_factor, frames, height, width)
    mask[:, :, 0] = 1
    return mask


def open_engine(model: InfiniteTalkModel, settings: EngineSettings, rank: Rank, shards: Shards) -> InfiniteTalk:
    """Loads the transformer, and on rank 0 the codec, onto the rank's device."""
    if settings.attention != "native" and isinstance(shards, XfuserUlysses):
        raise ConfigError(
            f"generate.attention={settings.attention} is a kernel of torch; take generate.parallel.backend=torch, or generate.attention=native"
        )
    bundle = open_bundle(resolve_weights(model.weights), resolve_weights(model.adapter), resolve_weights(model.speech))
    transformer = bundle.transformer(
        torch.bfloat16 if settings.precision.dtype == "bf16" else torch.float32,
        rank.device,
        [(resolve_weights(lora.path), lora.scale) for lora in model.loras],
        compat_upstream=settings.compat == "upstream",
        low_memory=rank.low_memory,
    )
    check_kernel(settings.attention, transformer.config.attention_head_dim, transformer.dtype, rank.device)
    logger.info("attention kernel: %s; compiled blocks: %s", settings.attention, settings.compile)
    if settings.compile:
        compile_blocks(transformer)
    return InfiniteTalk(
        transformer,
        bundle.codec(torch.float32, rank.device) if rank.index == 0 else None,
        sampler=settings.sampler,
        guidance=settings.guidance,
        cache=settings.cache,
        shards=shards,
        device=rank.device,
        attention=settings.attention,
    )


def compile_blocks(transformer: InfiniteTalkTransformer) -> None:
    """Compiles the forward of each block. All share one graph; the hooks of offloading stay outside of it."""
    for block in transformer.blocks:
        block.forward = torch.compile(block.forward, fullgraph=True, dynamic=False)
