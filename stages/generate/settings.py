"""What the denoising of a segment can be told."""

from typing import Literal

from pydantic import Field

from infinitedub.stages.generate.sampling.guidance import Guidance
from infinitedub.stages.generate.sampling.samplers import SamplerSettings
from infinitedub.stages.generate.sampling.step_cache import Cache
from infinitedub.stages.model.settings import ModelSettings
from infinitedub.stages.settings import Decides, Neutral, Settings


class ParallelSettings(Settings):
    """How many processes share a window."""

    degree: Decides[int] = Field(ge=1)
    """Processes, and so GPUs, of a gang. Must divide the model's attention heads and a window's tokens."""
    backend: Decides[Literal["auto", "torch", "xfuser"]]
    """torch: plain collectives, on any device; xfuser: its kernels, on CUDA only; auto: xfuser where there is CUDA."""
    timeout_seconds: Neutral[float] = Field(gt=0)
    """How long a process waits in a collective for the others before it takes them for lost."""


class PrecisionSettings(Settings):
    """What numbers the transformer and the text and image encoders compute with. Latents and the video autoencoder stay in float32."""

    dtype: Decides[Literal["fp32", "bf16"]]
    """fp32: 32-bit floats; bf16: 16-bit ones, but for modulation, norms and the timestep."""


class GenerateSettings(Settings):
    """How a segment's frames are made."""

    model: ModelSettings
    sampler: SamplerSettings
    guidance: Guidance
    parallel: ParallelSettings
    precision: PrecisionSettings
    cache: Cache
    device: Decides[Literal["cpu", "cuda"]]
    """What computes. CPUs and GPUs round differently; the pool must rank the stage on such a device."""
    color_strength: Decides[float] = Field(ge=0, le=1)
    """How much of each frame's colour statistics is replaced by those of the segment's first frame; holds off drift over many windows."""
    seam_frames: Decides[int] = Field(ge=0)
    """Over how many frames behind a window's border what the autoencoder changed there is let go, so that nothing snaps; 0 as in the release."""
    compat: Decides[Literal["none", "upstream"]]
    """upstream: past the end of the speech hear it backwards, one colour reference for the film, attention map of two persons as in the release."""
