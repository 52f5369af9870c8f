"""How loud a voice is, and how loud the encoder is to hear it."""

import math

import numpy as np
from pyloudnorm import Meter

BLOCK_SECONDS = 0.4
"""ITU-R BS.1770 measures in blocks of this length; shorter sound has no loudness."""


def measure(samples: np.ndarray, rate: int) -> float | None:
    """Integrated loudness in LUFS of mono `samples` at `rate` Hz; None where they are silent or too short to be measured."""
    if len(samples) < BLOCK_SECONDS * rate:
        return None
    lufs = float(Meter(rate).integrated_loudness(samples))
    return lufs if math.isfinite(lufs) else None  # below -70 LUFS nothing passes the standard's gate: -inf


def is_silent(samples: np.ndarray, rate: int, lufs: float | None, silence_lufs: float) -> bool:
    """Whether a voice of that loudness holds nothing to be spoken. Sound too short to be measured is silent only where it is all but zero."""
    if lufs is not None:
        return lufs < silence_lufs
    if len(samples) >= BLOCK_SECONDS * rate:
        return True
    return not np.any(np.abs(samples) > 1e-4)  # -80 dB of full scale


def level(samples: np.ndarray, lufs: float | None, target_lufs: float) -> np.ndarray:
    """The samples at `target_lufs`; as they are where their loudness is unknown. Peaks may pass full scale: only the encoder hears this."""
    return samples if lufs is None else (samples * 10 ** ((target_lufs - lufs) / 20)).astype(np.float32)
