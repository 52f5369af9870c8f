"""The speech features of a window."""

from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from torch import Tensor

from infinitedub.stages.model.audio_conditioning import window_indices

Tail = Literal["silence", "hold", "mirror"]
"""What follows the last row: silence, that row again, or the speech backwards from there (the last two as in the original release)."""

SILENCE = -1


def feature_rows(start: int, frames: int, available: int, rows: int, tail: Tail) -> Tensor:
    """The numbers [frames, rows] of the feature rows around each film frame; `SILENCE` stands for silence.

    Before the film the first of the `available` rows is repeated.
    """
    wanted = window_indices(start, frames, start + frames + rows, rows)  # not clamped at the end, where `tail` decides
    beyond = wanted - available
    match tail:
        case "silence":
            return torch.where(beyond < 0, wanted, SILENCE)
        case "hold":
            return wanted.clamp(max=available - 1)
        case "mirror":
            return torch.where(beyond < 0, wanted, (available - 1 - beyond).clamp(min=0))


class SpeechFeatures:
    """The features of a film's speech, in the file behind `Speech.features`; read window by window.

    The file is opened for each window, since the pages that have been read of an open file count as memory of this process, in the end all of it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
        self._names = [name for number in range(len(names)) if (name := f"speaker_{number}") in names]

    def read(self, start: int, frames: int, rows: int, *, last: bool, compat_upstream: bool) -> Tensor:
        """The features [P, frames, rows, layers, channels] around the film frames from `start` on; `last`: no window follows in the segment."""
        with safe_open(self._path, framework="pt") as file:
            silence = file.get_tensor("silence")
            of_speakers = []
            for name in self._names:
                features = file.get_slice(name)
                available = features.get_shape()[0]
                tail: Tail = "silence"
                if compat_upstream:
                    tail = "mirror" if last and start + frames >= available else "hold"
                indices = feature_rows(start, frames, available, rows, tail)
                spoken = indices[indices != SILENCE]
                if not len(spoken):
                    of_speakers.append(silence.expand(frames, rows, *silence.shape))
                    continue
                first = int(spoken.min())
                piece = torch.cat([features[first : int(spoken.max()) + 1], silence[None]])  # silence is its last row
                of_speakers.append(piece[torch.where(indices == SILENCE, len(piece) - 1, indices - first)])
            return torch.stack(of_speakers)
