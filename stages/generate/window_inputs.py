"""What each window is told, read from the files that condition and listen have made."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from infinitedub.stages.generate.engine import WindowInputs
from infinitedub.stages.generate.speech_windows import Speakers
from infinitedub.stages.records import Segment


class SegmentInputs:
    """A segment's conditions and speech. Only one window's is in memory at a time: the files are opened anew for each, since what has been read of
    an open one counts as memory of this process."""

    def __init__(self, segment: Segment, conditions: Path, speech: Path, device: torch.device | str, *, compat_upstream: bool) -> None:
        self._segment = segment
        self._conditions = conditions
        self._speakers = Speakers(speech)
        self._device = device
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

    def window(self, number: int, audio_rows: int) -> WindowInputs:
        """The inputs of window number `number`; each frame gets `audio_rows` rows of speech features."""
        window = self._segment.windows[number]
        frames = window.span.frames + window.pad_frames
        last = number == len(self._segment.windows) - 1
        audio = self._speakers.hear(window.span.start, frames, audio_rows, last=last, compat_upstream=self._compat_upstream)
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
