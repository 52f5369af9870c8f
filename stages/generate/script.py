"""What each window is told, read from the files that condition and listen have made."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from stages.generate.engine import Cue
from stages.generate.hearing import Speakers
from stages.records import Segment


class Script:
    """A segment's conditions and speech. Only one window's is in memory at a time."""

    def __init__(self, segment: Segment, conditions: Path, speech: Path, device: torch.device | str, *, compat_upstream: bool) -> None:
        self._segment = segment
        self._file = safe_open(conditions, framework="pt", device=str(device))
        self._speakers = Speakers(speech)
        self._device = device
        self._compat_upstream = compat_upstream

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """[1, 16, T, h, w] of a window."""
        return tuple(self._file.get_slice("reference.0.latents").get_shape())

    @property
    def color_reference(self) -> Tensor:
        """[3, H, W] in [0, 1]."""
        return self._file.get_tensor("color_reference") / 255

    def cues(self, audio_rows: int) -> Iterator[Cue]:
        """A cue for each window, in order; a frame hears `audio_rows` rows of features."""
        text, null_text = (self._file.get_tensor(name)[None] for name in ("text", "null_text"))
        masks = self._file.get_tensor("masks") if "masks" in self._file.keys() else None  # noqa: SIM118 - not a dict
        for window, reference in zip(self._segment.windows, self._file.get_tensor("window_reference").tolist(), strict=True):
            frames = window.span.frames + window.pad_frames
            last = window is self._segment.windows[-1]
            audio = self._speakers.hear(window.span.start, frames, audio_rows, last=last, compat_upstream=self._compat_upstream)
            yield Cue(
                text=text,
                null_text=null_text,
                image=self._file.get_tensor(f"reference.{reference}.clip"),
                reference=self._file.get_tensor(f"reference.{reference}.latents"),
                audio=audio.to(self._device),
                masks=masks,
                overlap_frames=window.overlap_frames,
            )
