"""MonoSamples on disk as input of the speech encoder: sliced like an array, with only the slice in memory."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from infinitedub.stages.listen.loudness import normalize_loudness
from infinitedub.stages.model.speech_encoder import MonoSamples


class SampleFile:
    """Mono float32 samples in a file."""

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


class NormalizedSamples:
    """MonoSamples at a target loudness, with silence before and after them."""

    def __init__(self, samples: MonoSamples, lufs: float | None, target_lufs: float, lead_samples: int, tail_samples: int) -> None:
        self._samples, self._lufs, self._target_lufs = samples, lufs, target_lufs
        self._lead_samples, self._tail_samples = lead_samples, tail_samples

    def __len__(self) -> int:
        return self._lead_samples + len(self._samples) + self._tail_samples

    def __getitem__(self, span: slice) -> np.ndarray:
        start, stop, _ = span.indices(len(self))
        result = np.zeros(max(0, stop - start), np.float32)
        lead = self._lead_samples
        first, last = max(start, lead), min(stop, lead + len(self._samples))
        if first < last:
            result[first - start : last - start] = normalize_loudness(self._samples[first - lead : last - lead], self._lufs, self._target_lufs)
        return result
