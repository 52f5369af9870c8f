"""The soundtrack of a film: the voices as ingested, each at its start time, padded and cut to the length of the film."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from logging import getLogger
from pathlib import Path

import numpy as np

from infinitedub.stages.media.audio_io import SoundFormat, gain_for_24_bits, resample, sample_blocks, sound_format, to_24_bits, to_float

log = getLogger(__name__)

BLOCK_SAMPLES = 1 << 14


@dataclass(frozen=True, slots=True)
class Soundtrack:
    """Samples to encode. Each call of `blocks` computes them again: int16 or int32 (channels, samples), `n_samples` per channel in all."""

    sample_rate: int
    layout: str
    n_samples: int
    blocks: Callable[[], Iterator[np.ndarray]]


@dataclass(frozen=True, slots=True)
class VoiceTrack:
    """A voice on disk, and where on the film it begins, in samples at its own rate."""

    path: Path
    start_sample: int


def build_soundtrack(tracks: Sequence[VoiceTrack], seconds: Fraction) -> Soundtrack:
    """One voice is left as it is. Two are mixed at the higher rate, in the layout with more channels, and attenuated only if their sum would clip."""
    formats = [sound_format(track.path) for track in tracks]
    if len(tracks) == 1:
        track, stored = tracks[0], formats[0]
        n_samples = round(seconds * stored.sample_rate)
        return Soundtrack(
            stored.sample_rate,
            stored.layout,
            n_samples,
            lambda: pad_to_film(sample_blocks(track.path), stored.channels, track.start_sample, n_samples),
        )
    rate = max(stored.sample_rate for stored in formats)
    widest = max(formats, key=lambda stored: stored.channels)
    n_samples = round(seconds * rate)

    def mixed_blocks() -> Iterator[np.ndarray]:
        voices = []
        for track, stored in zip(tracks, formats, strict=True):
            start = round(Fraction(track.start_sample * rate, stored.sample_rate))
            voices.append(pad_to_film(convert_for_mix(track.path, stored, widest, rate), widest.channels, start, n_samples))
        for blocks in zip(*voices, strict=True):
            yield np.asarray(np.sum(blocks, axis=0, dtype=np.float64))

    peak = max((float(np.abs(block).max()) for block in mixed_blocks()), default=0.0)
    gain = gain_for_24_bits(peak)
    if gain < 1:
        log.warning("the sum of the voices reaches %.3f of full scale and is attenuated by %.2f dB", peak, -20 * np.log10(gain))
    return Soundtrack(rate, widest.layout, n_samples, lambda: (to_24_bits(block * gain) for block in mixed_blocks()))


def pad_to_film(blocks: Iterable[np.ndarray], channels: int, start: int, n_samples: int) -> Iterator[np.ndarray]:
    """Places a voice at sample `start` of a track of `n_samples`: silence before and after it, cut at the end, in equal blocks."""
    voice = iter(blocks)
    first = next(voice, np.zeros((channels, 0), np.int16))
    pieces = chain(silent_blocks(channels, start, first.dtype), [first], voice, silent_blocks(channels, n_samples, first.dtype))
    rest, remaining = first[:, :0], n_samples
    while remaining > 0:
        size = min(BLOCK_SAMPLES, remaining)
        held = [rest]
        while sum(piece.shape[1] for piece in held) < size:
            held.append(next(pieces))
        block = np.concatenate(held, axis=1)
        yield block[:, :size]
        rest, remaining = block[:, size:], remaining - size


def silent_blocks(channels: int, samples: int, dtype: np.dtype) -> Iterator[np.ndarray]:
    """Digital silence of this many samples per channel, in blocks."""
    for begin in range(0, samples, BLOCK_SAMPLES):
        yield np.zeros((channels, min(BLOCK_SAMPLES, samples - begin)), dtype)


def convert_for_mix(path: Path, stored: SoundFormat, widest: SoundFormat, sample_rate: int) -> Iterator[np.ndarray]:
    """A voice as floats in the mix's rate and layout. Mono becomes stereo at full level, where FFmpeg would attenuate it by 3 dB."""
    blocks, layout = (to_float(block) for block in sample_blocks(path)), stored.layout
    if stored.channels == 1 and widest.channels == 2:
        return resample((block.repeat(2, axis=0) for block in blocks), widest.layout, stored.sample_rate, widest.layout, sample_rate)
    return resample(blocks, layout, stored.sample_rate, widest.layout, sample_rate)
