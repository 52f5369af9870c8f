"""The film's sound: the voices as they were given, each where it begins, from the film's first moment to its last."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from logging import getLogger
from pathlib import Path

import numpy as np

from infinitedub.stages.media.sound import SoundFormat, as_float, gain_into_24_bits, in_24_bits, resampled, sample_blocks, sound_format

log = getLogger(__name__)

BLOCK_SAMPLES = 1 << 14


@dataclass(frozen=True, slots=True)
class Soundtrack:
    """Samples to be encoded: `blocks` makes them anew at each call, int16 or int32 (channels, samples), `n_samples` per channel in all."""

    sample_rate: int
    layout: str
    n_samples: int
    blocks: Callable[[], Iterator[np.ndarray]]


@dataclass(frozen=True, slots=True)
class Part:
    """A voice on disk, and where on the film it begins, in samples of its own rate."""

    path: Path
    start_sample: int


def soundtrack(parts: Sequence[Part], seconds: Fraction) -> Soundtrack:
    """One voice untouched; two voices mixed at the higher rate in the richer channels, turned down only where their sum would clip."""
    formats = [sound_format(part.path) for part in parts]
    if len(parts) == 1:
        part, given = parts[0], formats[0]
        n_samples = round(seconds * given.sample_rate)
        return Soundtrack(
            given.sample_rate, given.layout, n_samples, lambda: placed(sample_blocks(part.path), given.channels, part.start_sample, n_samples)
        )
    rate = max(given.sample_rate for given in formats)
    richest = max(formats, key=lambda given: given.channels)
    n_samples = round(seconds * rate)

    def mixed() -> Iterator[np.ndarray]:
        tracks = []
        for part, given in zip(parts, formats, strict=True):
            start = round(Fraction(part.start_sample * rate, given.sample_rate))
            tracks.append(placed(in_common(part.path, given, richest, rate), richest.channels, start, n_samples))
        for blocks in zip(*tracks, strict=True):
            yield np.asarray(np.sum(blocks, axis=0, dtype=np.float64))

    peak = max((float(np.abs(block).max()) for block in mixed()), default=0.0)
    gain = gain_into_24_bits(peak)
    if gain < 1:
        log.warning("the voices together reach %.3f of full scale; their sum is turned down by %.2f dB", peak, -20 * np.log10(gain))
    return Soundtrack(rate, richest.layout, n_samples, lambda: (in_24_bits(block * gain) for block in mixed()))


def placed(blocks: Iterable[np.ndarray], channels: int, start: int, n_samples: int) -> Iterator[np.ndarray]:
    """The sound beginning at sample `start` of a track of `n_samples`: silence before and after, cut at the end, in equal blocks."""
    sound = iter(blocks)
    first = next(sound, np.zeros((channels, 0), np.int16))
    pieces = chain(silence(channels, start, first.dtype), [first], sound, silence(channels, n_samples, first.dtype))
    rest, remaining = first[:, :0], n_samples
    while remaining > 0:
        size = min(BLOCK_SAMPLES, remaining)
        held = [rest]
        while sum(piece.shape[1] for piece in held) < size:
            held.append(next(pieces))
        block = np.concatenate(held, axis=1)
        yield block[:, :size]
        rest, remaining = block[:, size:], remaining - size


def silence(channels: int, samples: int, dtype: np.dtype) -> Iterator[np.ndarray]:
    """So many samples of nothing, in blocks."""
    for begin in range(0, samples, BLOCK_SAMPLES):
        yield np.zeros((channels, min(BLOCK_SAMPLES, samples - begin)), dtype)


def in_common(path: Path, given: SoundFormat, richest: SoundFormat, sample_rate: int) -> Iterator[np.ndarray]:
    """A voice as floats at the mix's rate and in its channels. One channel goes to both sides at full level, where FFmpeg would take 3 dB."""
    blocks, layout = (as_float(block) for block in sample_blocks(path)), given.layout
    if given.channels == 1 and richest.channels == 2:
        return resampled((block.repeat(2, axis=0) for block in blocks), richest.layout, given.sample_rate, richest.layout, sample_rate)
    return resampled(blocks, layout, given.sample_rate, richest.layout, sample_rate)
