"""Settings that engines share, and the choice of the engine by the model's record."""

from typing import Annotated, Literal

from pydantic import Field

from infinitedub.stages.engines.infinitetalk.settings import InfiniteTalkModel, InfiniteTalkPreparationSettings
from infinitedub.stages.engines.test_pattern.settings import PatternModel, PatternPreparationSettings
from infinitedub.stages.sampling.guidance import Guidance
from infinitedub.stages.sampling.samplers import SamplerSettings
from infinitedub.stages.sampling.step_cache import Cache
from infinitedub.stages.settings import Decides, Neutral, Settings

ModelRecord = Annotated[InfiniteTalkModel | PatternModel, Field(discriminator="engine")]
"""The one record of the model in a run's configuration (conf/generate/model). `engine` chooses its class."""

PreparationSettings = Annotated[InfiniteTalkPreparationSettings | PatternPreparationSettings, Field(discriminator="engine")]
"""What an engine's preparation uses, from the model's record and the precision."""


class ParallelSettings(Settings):
    """How many processes share a window."""

    degree: Decides[int] = Field(ge=1)
    """Processes, and so GPUs, of a gang. Must divide the model's attention heads and a window's tokens."""
    backend: Decides[Literal["auto", "torch", "xfuser"]]
    """torch: plain collectives, on any device; xfuser: its kernels, on CUDA only; auto: xfuser on CUDA, torch elsewhere."""
    timeout_seconds: Neutral[float] = Field(gt=0)
    """How long a process waits for the others in a collective before it considers them lost."""


class PrecisionSettings(Settings):
    """Number format of the transformer and of the text and image encoders. Latents and the video autoencoder stay in float32."""

    dtype: Decides[Literal["fp32", "bf16"]]
    """fp32: 32-bit floats; bf16: 16-bit floats except in modulation, norms and the timestep."""


class EngineSettings(Settings):
    """What an engine uses to make windows."""

    model: ModelRecord
    sampler: SamplerSettings
    guidance: Guidance
    parallel: ParallelSettings
    precision: PrecisionSettings
    cache: Cache
    device: Decides[Literal["cpu", "cuda"]]
    """What computes, in condition as well. CPUs and GPUs round differently; the pools must place both stages on such a device."""
    compat: Decides[Literal["none", "upstream"]]
    """upstream: reproduce the release: past its end, speech is played backwards; boxes are read as [y_min, x_min, y_max, x_max]; one colour reference
    for the whole film; the attention map of two persons is computed as in the release."""
    attention: Decides[Literal["native", "flash", "efficient", "cudnn", "math"]]
    """Torch's kernel for scaled dot-product attention; native: torch chooses. Kernels round differently. xfuser has its own."""
    compile: Decides[bool]
    """Whether torch compiles the transformer's blocks: costs minutes at the first window of each size; rounds differently."""
