"""What the preparation of a segment can be told."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from infinitedub.stages.model.settings import absolute_places, whole_latents, whole_tokens
from infinitedub.stages.settings import Decides, Neutral, Settings, Weights


class ConditionSettings(Settings):
    """For which denoiser text, image and masks are encoded."""

    weights: Weights
    """The model's folder or URI."""
    buckets: Decides[dict[float, tuple[int, int]]] = Field(min_length=1)
    """The frame sizes in pixels, [height, width], by the ratio height/width they are for."""
    window_frames: Decides[int] = Field(ge=5)
    """Frames that a reference is encoded for, of the form 4n+1."""
    dtype: Decides[Literal["fp32", "bf16"]]
    """What numbers the text and image encoders compute with; the video autoencoder computes in float32."""
    device: Decides[Literal["cpu", "cuda"]]
    """What computes; the pool must rank the stage on such a device."""
    compat: Decides[Literal["none", "upstream"]]
    """upstream: boxes are read as [y_min, x_min, y_max, x_max], and the film's first frame is the colour reference of all segments."""
    remembered_prompts: Neutral[int] = Field(ge=0)
    """Encoded prompts that are kept in the process: the text encoder is the dearest part of this stage."""

    @model_validator(mode="before")
    @classmethod
    def _places_are_absolute(cls, given: Any) -> Any:
        return absolute_places(given)

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        whole_latents("window_frames", self.window_frames)
        whole_tokens(self.buckets)
        return self
