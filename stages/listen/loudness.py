"""How loud a voice is, and how loud the encoder is to hear it."""

import math
from collections.abc import Iterator

import numpy as np
from pyloudnorm import IIRfilter
from scipy.signal import lfilter

from infinitedub.stages.model.speech_encoder import SAMPLE_BLOCK, MonoSamples

BLOCK_SECONDS = 0.4
"""ITU-R BS.1770 measures in blocks of this length; shorter sound has no loudness."""
STEP = 0.25  # of a block, from one to the next
ABSOLUTE_GATE = -70.0  # LUFS
RELATIVE_GATE = -10.0  # LU, below what passes the absolute one


def measure(samples: MonoSamples, rate: int) -> float | None:
    """Integrated loudness in LUFS of mono `samples` at `rate` Hz; None where they are silent or too short to be measured.

    To the bit what `pyloudnorm.Meter(rate).integrated_loudness` gives, which however holds several copies of the whole sound in memory.
    """
    if len(samples) < BLOCK_SECONDS * rate:
        return None
    powers = np.fromiter(block_powers(samples, rate), np.float64)
    with np.errstate(divide="ignore"):
        loudness = -0.691 + 10 * np.log10(powers)
    if not (heard := powers[loudness >= ABSOLUTE_GATE]).size:
        return None
    gate = -0.691 + 10 * np.log10(np.mean(heard)) + RELATIVE_GATE
    lufs = float(-0.691 + 10 * np.log10(np.mean(powers[(loudness > gate) & (loudness > ABSOLUTE_GATE)])))
    return lufs if math.isfinite(lufs) else None


def block_powers(samples: MonoSamples, rate: int) -> Iterator[float]:
    """Mean square of each overlapping block of the weighted sound (BS.1770-4, equation 3)."""
    seconds = len(samples) / rate
    count = int(np.round((seconds - BLOCK_SECONDS) / (BLOCK_SECONDS * STEP)) + 1)
    spans = [(int(BLOCK_SECONDS * (j * STEP) * rate), int(BLOCK_SECONDS * (j * STEP + 1) * rate)) for j in range(count)]
    held, begin = np.zeros(0, np.float32), 0  # weighted samples from number `begin` on
    pieces = weighted(samples, rate)
    for start, stop in spans:
        while begin + len(held) < stop and (piece := next(pieces, None)) is not None:
            held, begin = np.concatenate([held[start - begin :], piece]), start
        yield (1.0 / (BLOCK_SECONDS * rate)) * np.sum(np.square(held[start - begin : stop - begin]))


def weighted(samples: MonoSamples, rate: int) -> Iterator[np.ndarray]:
    """The samples as loud as they seem, piece by piece: through the two filters of the K-weighting (BS.1770-4, annex 1)."""
    shelf, high_pass = IIRfilter(4.0, 1 / np.sqrt(2), 1500.0, rate, "high_shelf"), IIRfilter(0.0, 0.5, 38.0, rate, "high_pass")
    filters = [(one.b, one.a) for one in (shelf, high_pass)]
    states = [np.zeros(2) for _ in filters]
    for start in range(0, len(samples), SAMPLE_BLOCK):
        piece = samples[start : start + SAMPLE_BLOCK]
        for number, (b, a) in enumerate(filters):
            filtered, states[number] = lfilter(b, a, piece, zi=states[number])
            piece = filtered.astype(np.float32)
        yield piece


def is_silent(samples: MonoSamples, rate: int, lufs: float | None, silence_lufs: float) -> bool:
    """Whether a voice of that loudness holds nothing to be spoken. Sound too short to be measured is silent only where it is all but zero."""
    if lufs is not None:
        return lufs < silence_lufs
    if len(samples) >= BLOCK_SECONDS * rate:
        return True
    return not np.any(np.abs(samples[: len(samples)]) > 1e-4)  # -80 dB of full scale


def level(samples: np.ndarray, lufs: float | None, target_lufs: float) -> np.ndarray:
    """The samples at `target_lufs`; as they are where their loudness is unknown. Peaks may pass full scale: only the encoder hears this."""
    return samples if lufs is None else (samples * 10 ** ((target_lufs - lufs) / 20)).astype(np.float32)
