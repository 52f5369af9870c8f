"""A voice as the encoder hears it, on disk: sliced like an array, with nothing in memory but the slice."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from infinitedub.stages.listen.loudness import level
from infinitedub.stages.model.speech_encoder import MonoSamples


class Recording:
    """Mono float32 samples in a file of their own."""

    def __init__(self, path: Path, blocks: Iterable[np.ndarray]) -> None:
        """Writes the blocks to `path`."""
        self._path = path
        with path.open("wb") as file:
            for block in blocks:
                file.write(np.ascontiguousarray(block, np.float32).tobytes())
            self._n_samples = file.tell() // np.float32().itemsize

    def __len__(self) -> int:
        return self._n_samples

    def __getitem__(self, span: slice) -> np.ndarray:
        start, stop, _ = span.indices(len(self))
        return np.fromfile(self._path, np.float32, max(0, stop - start), offset=start * np.float32().itemsize)


class Levelled:
    """MonoSamples at the level they are to be heard at, with silence before and after them."""

    def __init__(self, samples: MonoSamples, lufs: float | None, target_lufs: float, lead: int, tail: int) -> None:
        self._samples, self._lufs, self._target_lufs = samples, lufs, target_lufs
        self._lead, self._tail = lead, tail

    def __len__(self) -> int:
        return self._lead + len(self._samples) + self._tail

    def __getitem__(self, span: slice) -> np.ndarray:
        start, stop, _ = span.indices(len(self))
        heard = np.zeros(max(0, stop - start), np.float32)
        first, last = max(start, self._lead), min(stop, self._lead + len(self._samples))
        if first < last:
            heard[first - start : last - start] = level(self._samples[first - self._lead : last - self._lead], self._lufs, self._target_lufs)
        return heard
