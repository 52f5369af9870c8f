"""Loudness of a voice after ITU-R BS.1770, and the gain to a target loudness."""

import math
from collections.abc import Iterator

import numpy as np
from pyloudnorm import IIRfilter
from scipy.signal import lfilter

from infinitedub.stages.model.speech_encoder import SAMPLE_BLOCK, MonoSamples

BLOCK_SECONDS = 0.4
"""ITU-R BS.1770 measures in blocks of this length; shorter sound has no loudness."""
BLOCK_STEP = 0.25  # distance of successive blocks, as a fraction of a block
ABSOLUTE_GATE = -70.0  # LUFS
RELATIVE_GATE = -10.0  # LU, below the loudness of the blocks that pass the absolute gate
SILENT_AMPLITUDE = 1e-4  # -80 dB of full scale


def measure_loudness(samples: MonoSamples, rate: int) -> float | None:
    """Integrated loudness in LUFS of mono `samples` at `rate` Hz; None if they are silent or too short to measure.

    The result has the same bits as `pyloudnorm.Meter(rate).integrated_loudness`, which needs several copies of the whole sound in memory.
    """
    if len(samples) < BLOCK_SECONDS * rate:
        return None
    powers = np.fromiter(block_powers(samples, rate), np.float64)
    with np.errstate(divide="ignore"):
        loudness = -0.691 + 10 * np.log10(powers)
    if not (gated := powers[loudness >= ABSOLUTE_GATE]).size:
        return None
    gate = -0.691 + 10 * np.log10(np.mean(gated)) + RELATIVE_GATE
    lufs = float(-0.691 + 10 * np.log10(np.mean(powers[(loudness > gate) & (loudness > ABSOLUTE_GATE)])))
    return lufs if math.isfinite(lufs) else None


def block_powers(samples: MonoSamples, rate: int) -> Iterator[float]:
    """Mean square of each overlapping block of the K-weighted sound (BS.1770-4, equation 3)."""
    seconds = len(samples) / rate
    count = int(np.round((seconds - BLOCK_SECONDS) / (BLOCK_SECONDS * BLOCK_STEP)) + 1)
    spans = [(int(BLOCK_SECONDS * (j * BLOCK_STEP) * rate), int(BLOCK_SECONDS * (j * BLOCK_STEP + 1) * rate)) for j in range(count)]
    held, begin = np.zeros(0, np.float32), 0  # weighted samples from number `begin` on
    pieces = k_weighted(samples, rate)
    for start, stop in spans:
        while begin + len(held) < stop and (piece := next(pieces, None)) is not None:
            held, begin = np.concatenate([held[start - begin :], piece]), start
        yield (1.0 / (BLOCK_SECONDS * rate)) * np.sum(np.square(held[start - begin : stop - begin]))


def k_weighted(samples: MonoSamples, rate: int) -> Iterator[np.ndarray]:
    """The samples after the two filters of the K-weighting, which models perceived loudness (BS.1770-4, annex 1), in blocks."""
    shelf, high_pass = IIRfilter(4.0, 1 / np.sqrt(2), 1500.0, rate, "high_shelf"), IIRfilter(0.0, 0.5, 38.0, rate, "high_pass")
    filters = [(iir.b, iir.a) for iir in (shelf, high_pass)]
    states = [np.zeros(2) for _ in filters]
    for start in range(0, len(samples), SAMPLE_BLOCK):
        piece = samples[start : start + SAMPLE_BLOCK]
        for number, (b, a) in enumerate(filters):
            filtered, states[number] = lfilter(b, a, piece, zi=states[number])
            piece = filtered.astype(np.float32)
        yield piece


def is_silent(samples: MonoSamples, rate: int, lufs: float | None, silence_lufs: float) -> bool:
    """Whether a voice of this loudness contains no speech. Sound too short to measure is silent only below SILENT_AMPLITUDE."""
    if lufs is not None:
        return lufs < silence_lufs
    if len(samples) >= BLOCK_SECONDS * rate:
        return True
    return not np.any(np.abs(samples[: len(samples)]) > SILENT_AMPLITUDE)


def normalize_loudness(samples: np.ndarray, lufs: float | None, target_lufs: float) -> np.ndarray:
    """The samples scaled from `lufs` to `target_lufs`; unchanged if `lufs` is None. Peaks may exceed full scale: only the encoder reads them."""
    return samples if lufs is None else (samples * 10 ** ((target_lufs - lufs) / 20)).astype(np.float32)
