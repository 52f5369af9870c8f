"""Which model, and the sizes it was trained for."""

from typing import Any, Self

from pydantic import Field, model_validator

from infinitedub.stages.model.weights.paths import absolute_location, join_location
from infinitedub.stages.settings import Decides, Settings, Weights

GRANULE = 16
"""Pixels that one token of the transformer is high and wide: 8 of the autoencoder times 2 of the patch."""


def whole_latents(name: str, frames: int) -> None:
    """Raises ValueError unless `frames` is of the form 4n+1."""
    if frames % 4 != 1:
        below = max(1, (frames - 1) // 4 * 4 + 1)
        raise ValueError(f"{name} is {frames}; the video autoencoder packs 4 frames into one after the first: take {below} or {below + 4}")


def windows_move(window_frames: int, name: str, repeated_frames: int) -> None:
    """Raises ValueError unless both are of the form 4n+1, and a window of which `name` frames repeat the one before brings new ones."""
    whole_latents("window_frames", window_frames)
    whole_latents(name, repeated_frames)
    if repeated_frames >= window_frames:
        raise ValueError(f"{name} is {repeated_frames}, which leaves nothing new in windows of {window_frames} frames")


def whole_tokens(buckets: dict[float, tuple[int, int]]) -> None:
    """Raises ValueError unless all sides are multiples of what a token covers."""
    for ratio, (height, width) in buckets.items():
        if min(height, width) < GRANULE or height % GRANULE or width % GRANULE:
            raise ValueError(f"bucket {ratio} is [{height}, {width}]; height and width must be multiples of {GRANULE} pixels")


def absolute_places(given: Any, *names: str) -> Any:
    """Raw settings whose `weights`, and the places of the given names seen from there, mean the same in every process."""
    if not isinstance(given, dict) or not isinstance(given.get("weights"), str):
        return given  # pydantic says what is wrong
    weights = absolute_location(given["weights"])
    return given | {"weights": weights} | {name: join_location(weights, given[name]) for name in names if isinstance(given.get(name), str)}


class LoraSettings(Settings):
    """Weights that are merged into the transformer's."""

    path: Weights
    """A safetensors file, path or URI."""
    scale: Decides[float]
    """What its changes are multiplied by."""


class ModelSettings(Settings):
    """A denoiser with its encoders."""

    weights: Weights
    """A folder or URI in the release's or in diffusers' layout, or `bundled:NAME` for one that comes with the package."""
    adapter: Weights
    """The safetensors file of InfiniteTalk's own weights: seen from `weights`, or an absolute path or URI."""
    speech: Weights
    """The folder of the wav2vec2 encoder: seen from `weights`, or an absolute path or URI. Here it only tells how many features there are."""
    fps: Decides[float] = Field(gt=0)
    """Frames per second that the model was trained at."""
    window_frames: Decides[int] = Field(ge=5)
    """Frames the denoiser makes in one pass, of the form 4n+1."""
    motion_frames: Decides[int] = Field(ge=1)
    """Frames at the end of a window that the next one starts from, of the form 4n+1."""
    buckets: Decides[dict[float, tuple[int, int]]] = Field(min_length=1)
    """The frame sizes in pixels, [height, width], by the ratio height/width they are for."""
    teacache_coefficients: Decides[tuple[float, ...]] = Field(min_length=1)
    """How a change of the embedded timestep foretells a change of the blocks' output: a polynomial, highest power first."""
    loras: Decides[tuple[LoraSettings, ...]]
    """Merged into the transformer, in any order."""

    @model_validator(mode="before")
    @classmethod
    def _places_are_absolute(cls, given: Any) -> Any:
        return absolute_places(given, "adapter", "speech")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        windows_move(self.window_frames, "motion_frames", self.motion_frames)
        whole_tokens(self.buckets)
        return self
