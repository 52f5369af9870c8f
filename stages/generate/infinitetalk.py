"""InfiniteTalk as an engine: Wan2.1's image-to-video transformer with audio, steered by classifier-free guidance.

Shapes as in engine.py; k are the latent frames that are known from the window before. After MeiGen-AI/InfiniteTalk: `generate_infinitetalk` in
wan/multitalk.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from infinitedub.stages.generate.engine import Noise, WindowInputs
from infinitedub.stages.generate.parallel import from_first
from infinitedub.stages.generate.sampling.guidance import Guidance, Pass
from infinitedub.stages.generate.sampling.samplers import SAMPLERS, SamplerSettings
from infinitedub.stages.generate.sampling.schedules import TIMESTEPS, shifted_sigmas
from infinitedub.stages.generate.sampling.step_cache import Cache, Residual, TeaCache
from infinitedub.stages.model.dit import PATCH, EmbeddedConditioning, InfiniteTalkTransformer
from infinitedub.stages.model.latent_codec import LatentCodec
from infinitedub.stages.model.shards import Shards, plan_shards


class InfiniteTalk:
    """The denoiser on this rank; the codec between frames and latents on rank 0 alone."""

    def __init__(
        self,
        transformer: InfiniteTalkTransformer,
        codec: LatentCodec | None,
        *,
        sampler: SamplerSettings,
        guidance: Guidance,
        cache: Cache,
        shards: Shards,
    ) -> None:
        self._transformer = transformer
        self._codec = codec
        self._sampler = sampler
        self._guidance = guidance
        self._cache = cache
        self._shards = shards

    @property
    def audio_rows(self) -> int:
        return self._transformer.config.audio_window

    def check(self, latent_shape: Sequence[int]) -> None:
        _, _, frames, height, width = latent_shape
        frame_tokens = height // PATCH * (width // PATCH)
        plan_shards(frames * frame_tokens, frame_tokens, self._transformer.config.num_attention_heads, self._shards.degree)

    @torch.inference_mode()
    def window(self, cue: WindowInputs, motion: Tensor | None, noise: Noise) -> Tensor | None:
        latents = self.denoise(cue, self._known(cue, motion), noise(cue.reference.shape))
        if not torch.isfinite(latents).all():  # the same on every rank
            raise FloatingPointError("the latents hold NaN or infinity after denoising; try generate/precision=fp32, or another seed")
        return None if self._codec is None else self._codec.decode(latents)

    def denoise(self, cue: WindowInputs, known: Tensor, noise: Tensor) -> Tensor:
        """The window's latents [1, 16, T, h, w], the first k of which are `known` [1, 16, k, h, w]."""
        k = known.shape[2]
        sigmas = shifted_sigmas(self._sampler.steps, self._sampler.shift).to(known)
        condition = torch.cat([first_frame_mask(cue.reference), cue.reference], dim=1)
        told = {each: self._tell(each, cue) for each in self._guidance.passes}
        skips = self._skips(sigmas[:-1] * TIMESTEPS)
        combine = self._guidance.start()

        def flow(latents: Tensor, sigma: Tensor) -> Tensor:
            fixed = torch.cat([known, latents[:, :, k:]], dim=2)
            shown = torch.cat([fixed, condition], dim=1)
            timestep = (sigma * TIMESTEPS)[None]
            answers = {
                each: self._transformer(shown, timestep, told[each], cue.masks, shards=self._shards, steps=skips[each])
                for each in self._guidance.passes
            }
            return combine(answers)

        latents = SAMPLERS[self._sampler.name](flow, noise.to(known), sigmas)
        return torch.cat([known, latents[:, :, k:]], dim=2)

    def _known(self, cue: WindowInputs, motion: Tensor | None) -> Tensor:
        """The latents that the window starts from: of the reference frame, or of the end of the window before.

        The codec is causal, so the first latent of a reference with grey after it is that of the reference alone.
        """
        if cue.overlap_frames == 0:
            return cue.reference[:, :, :1]
        encoded = None if self._codec is None or motion is None else self._codec.encode(motion)
        batch, channels, _, height, width = cue.reference.shape
        latents = 1 + (cue.overlap_frames - 1) // LatentCodec.temporal_factor
        return from_first(encoded, (batch, channels, latents, height, width), self._shards, cue.reference.device)

    def _tell(self, each: Pass, cue: WindowInputs) -> EmbeddedConditioning:
        text = cue.text if each.hears_prompt else cue.null_text
        audio = cue.audio if each.hears_speech else torch.zeros_like(cue.audio[-1:])  # nobody speaks: one person is enough
        return self._transformer.embed(text, cue.image, audio)

    def _skips(self, timesteps: Tensor) -> dict[Pass, Residual | None]:
        """A step cache for each pass, new for each window."""
        if not isinstance(self._cache, TeaCache):
            return dict.fromkeys(self._guidance.passes)
        modulations = torch.cat([self._transformer.embed_time(timestep[None])[1] for timestep in timesteps])
        computed = self._cache.computed(modulations)
        return {each: Residual(computed) for each in self._guidance.passes}


def first_frame_mask(reference: Tensor) -> Tensor:
    """The four channels [1, 4, T, h, w] that tell which frames the reference shows: the first. Frames known from the window before are not told."""
    batch, _, frames, height, width = reference.shape
    mask = reference.new_zeros(batch, LatentCodec.temporal_factor, frames, height, width)
    mask[:, :, 0] = 1
    return mask
