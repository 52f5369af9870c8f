"""The model's record: what it is, and the sizes it was trained for.

conf/generate/model is the one place where these values are set. A stage that needs some of them declares the classes below as further bases of its
settings, and pipeline/run/stage_registry.py fills them in from the record. So no two stages can disagree about the model.
"""

from typing import Any, Self

from pydantic import Field, model_validator

from infinitedub.stages.model.weights.paths import absolute_location, join_location
from infinitedub.stages.settings import Decides, Settings, Weights

GRANULE = 16
"""Pixels that one token of the transformer is high and wide: 8 of the autoencoder times 2 of the patch."""


def check_whole_latents(name: str, frames: int) -> None:
    """Raises ValueError unless `frames` is of the form 4n+1."""
    if frames % 4 != 1:
        below = max(1, (frames - 1) // 4 * 4 + 1)
        raise ValueError(f"{name} is {frames}; the video autoencoder packs 4 frames into one after the first: take {below} or {below + 4}")


def absolute_places(given: Any, *names: str) -> Any:
    """Raw settings in which `weights`, and the places `names` and the LoRAs relative to it, mean the same in every process."""
    if not isinstance(given, dict) or not isinstance(given.get("weights"), str):
        return given  # pydantic reports what is wrong
    weights = absolute_location(given["weights"])
    if isinstance(loras := given.get("loras"), list):
        given = given | {"loras": [_lora_at(weights, lora) for lora in loras]}
    return given | {"weights": weights} | {name: join_location(weights, given[name]) for name in names if isinstance(given.get(name), str)}


def _lora_at(weights: str, lora: Any) -> Any:
    if not isinstance(lora, dict) or not isinstance(lora.get("path"), str):
        return lora
    return lora | {"path": join_location(weights, lora["path"])}


class FrameRate(Settings):
    """Frame rate of the model."""

    fps: Decides[float] = Field(gt=0, le=240)
    """Frames per second that the model was trained at, that films have and that footage is converted to."""


class WindowLength(Settings):
    """Length of a window."""

    window_frames: Decides[int] = Field(ge=5)
    """Frames that the denoiser makes in one pass, of the form 4n+1."""

    @model_validator(mode="after")
    def _whole_latents(self) -> Self:
        check_whole_latents("window_frames", self.window_frames)
        return self


class WindowSizes(WindowLength):
    """Length of a window and of its overlap with the window before."""

    motion_frames: Decides[int] = Field(ge=1)
    """Frames at the end of a window that the next one repeats and starts from, of the form 4n+1."""

    @model_validator(mode="after")
    def _windows_advance(self) -> Self:
        check_whole_latents("motion_frames", self.motion_frames)
        if self.motion_frames >= self.window_frames:
            raise ValueError(f"motion_frames is {self.motion_frames}, which leaves nothing new in windows of {self.window_frames} frames")
        return self


class FrameSizes(Settings):
    """Sizes of the frames that the model makes."""

    buckets: Decides[dict[float, tuple[int, int]]] = Field(min_length=1)
    """The frame sizes in pixels, [height, width], by the ratio height/width they are for."""

    @model_validator(mode="after")
    def _whole_tokens(self) -> Self:
        for ratio, (height, width) in self.buckets.items():
            if min(height, width) < GRANULE or height % GRANULE or width % GRANULE:
                raise ValueError(f"bucket {ratio} is [{height}, {width}]; height and width must be multiples of {GRANULE} pixels")
        return self


class BaseWeights(Settings):
    """Files of the base model."""

    weights: Weights
    """A folder or URI in the release's or in diffusers' layout, or `bundled:NAME` for one that comes with the package."""

    @model_validator(mode="before")
    @classmethod
    def _places_are_absolute(cls, given: Any) -> Any:
        return absolute_places(given, "adapter", "speech")


class SpeechWeights(Settings):
    """Files of the speech encoder."""

    speech: Weights
    """The folder of the wav2vec2 encoder: relative to `weights`, or an absolute path or URI."""


class LoraSettings(Settings):
    """Weights that are merged into the transformer's."""

    path: Weights
    """A safetensors file: relative to `weights`, or an absolute path or URI."""
    scale: Decides[float]
    """Factor on its changes."""


class ModelSettings(FrameRate, WindowSizes, FrameSizes):
    """What every engine's model declares. The engines' own classes are in stages/engines."""
