"""The inputs of InfiniteTalk's windows, read from the files of the preparation and of listen."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from infinitedub.stages.engines.infinitetalk.speech_windows import SpeechFeatures
from infinitedub.stages.records import Segment


@dataclass(frozen=True, slots=True)
class WindowInputs:
    """The inputs of one window, on the engine's device. P persons, F frames, T latent frames, h x w latents."""

    text: Tensor  # [1, L, text_dim]: states of the prompt
    null_text: Tensor  # [1, L, text_dim]: states of the negative prompt
    image: Tensor  # [1, 257, clip_dim]: the reference frame encoded by CLIP
    reference: Tensor  # [1, 16, T, h, w]: latents of the reference frame and grey after it
    audio: Tensor  # [P, F, rows, layers, channels]: for each frame, the speech features around it
    masks: Tensor | None  # [3, h, w]: person 1, person 2, background; None if one person speaks
    overlap_frames: int  # how many frames repeat the end of the window before; 0 in a segment's first


class ConditionedSegment:
    """A segment's conditions and speech. Implements `SegmentInputs`.

    Only one window's inputs are in memory at a time. The files are opened for each window, since the pages that have been read of an open file
    count as memory of this process.
    """

    def __init__(
        self, segment: Segment, conditions: Path, speech: Path, device: torch.device | str, *, audio_rows: int, compat_upstream: bool
    ) -> None:
        """`audio_rows`: rows of speech features that the transformer takes per frame."""
        self._segment = segment
        self._conditions = conditions
        self._speech = SpeechFeatures(speech)
        self._device = device
        self._audio_rows = audio_rows
        self._compat_upstream = compat_upstream

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """[1, 16, T, h, w] of a window."""
        with self._open() as file:
            return tuple(file.get_slice("reference.0.latents").get_shape())

    @property
    def color_reference(self) -> Tensor:
        """[3, H, W] in [0, 1]."""
        with self._open() as file:
            return file.get_tensor("color_reference") / 255

    def window(self, number: int) -> WindowInputs:
        window = self._segment.windows[number]
        frames = window.span.frames + window.pad_frames
        last = number == len(self._segment.windows) - 1
        audio = self._speech.read(window.span.start, frames, self._audio_rows, last=last, compat_upstream=self._compat_upstream)
        with self._open() as file:
            reference = f"reference.{int(file.get_tensor('window_reference')[number])}"
            return WindowInputs(
                text=file.get_tensor("text")[None],
                null_text=file.get_tensor("null_text")[None],
                image=file.get_tensor(f"{reference}.clip"),
                reference=file.get_tensor(f"{reference}.latents"),
                audio=audio.to(self._device),
                masks=file.get_tensor("masks") if "masks" in file.keys() else None,  # noqa: SIM118 - not a dict
                overlap_frames=window.overlap_frames,
            )

    def _open(self) -> Any:
        return safe_open(self._conditions, framework="pt", device=str(self._device))
