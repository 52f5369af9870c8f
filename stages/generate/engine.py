"""What a video model must do to be streamed: make one window."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

Noise = Callable[[Sequence[int]], Tensor]
"""Standard normal numbers of a shape: on every rank the same, and the same again each time they are drawn."""


@dataclass(frozen=True, slots=True)
class WindowInputs:
    """What is told for one window, on the engine's device. P persons, F frames, T latent frames, h x w latents."""

    text: Tensor  # [1, L, text_dim]: states of the prompt
    null_text: Tensor  # [1, L, text_dim]: states of the negative prompt
    image: Tensor  # [1, 257, clip_dim]: the reference frame as CLIP sees it
    reference: Tensor  # [1, 16, T, h, w]: latents of the reference frame and grey after it
    audio: Tensor  # [P, F, rows, layers, channels]: for each frame, the speech around it
    masks: Tensor | None  # [3, h, w]: person 1, person 2, background; None where one person speaks
    overlap_frames: int  # how many frames repeat the end of the window before; 0 in a segment's first


class Engine(Protocol):
    """Makes windows of frames. On a gang, every rank makes the same calls."""

    @property
    def audio_rows(self) -> int:
        """How many rows of speech features a frame hears."""

    def check(self, latent_shape: Sequence[int]) -> None:
        """Raises ConfigError where windows of [1, 16, T, h, w] latents cannot be made by as many ranks as there are; on all of them alike."""

    def window(self, cue: WindowInputs, motion: Tensor | None, noise: Noise) -> Tensor | None:
        """The frames [1, 3, F, H, W] in [-1, 1]; None on ranks other than 0.

        motion [1, 3, overlap_frames, H, W]: the end of the window before; rank 0 alone has it, and only where there was one.
        Raises FloatingPointError where numbers break.
        """
