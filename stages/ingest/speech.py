"""Speech of any make, decoded once and kept as FLAC at its own rate and in its own channels."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from logging import getLogger
from pathlib import Path

import av
import numpy as np

from infinitedub.stages.errors import BadInput
from infinitedub.stages.ingest.opening import Decoding, open_media, sound_stream
from infinitedub.stages.ingest.settings import IngestSettings
from infinitedub.stages.media.audio_io import gain_for_24_bits, planar_samples, to_24_bits, write_flac

log = getLogger(__name__)

MAX_CHANNELS = 8  # FLAC's
GAP_SECONDS = Fraction(1, 10)  # a longer hole between time stamps is silence; shorter ones are rounding
MAX_PEAK = 2.0**31  # whole numbers stored as floats reach that far; beyond it the file is damaged
SAMPLES = frozenset({"u8", "s16", "s32", "flt", "dbl"})


@dataclass(frozen=True, slots=True)
class Recording:
    """What a first pass over the sound has found."""

    sample_rate: int
    layout: str
    n_samples: int  # per channel
    peak: float  # of float samples, full scale at 1.0; 0 for whole numbers


def normalise_speech(path: Path, target: Path, settings: IngestSettings) -> Recording:
    """Writes a user's speech as FLAC: 16 bits where it had no more, else 24. Raises BadInput for what cannot be heard in full."""
    found = survey(path, settings)
    gain = gain_for_24_bits(found.peak)
    if gain < 1:
        log.warning("%s reaches %.3f of full scale and is attenuated by %.2f dB", path.name, found.peak, -20 * np.log10(gain))
    with open_media(path, settings.max_pixels) as container:
        decoding = Decoding(container, sound_stream(container))
        blocks = (whole_numbers(block, gain) for block, _ in sounding(decoding))
        written = write_flac(target, blocks, found.sample_rate, found.layout)
    if written != found.n_samples:
        raise ValueError(f"{path} gave {found.n_samples} samples, and then {written}")
    return found


def survey(path: Path, settings: IngestSettings) -> Recording:
    """Decodes the sound once, keeping nothing: whether it is whole, how long it is and how loud it gets."""
    samples, peak = 0, 0.0
    rate, layout = 0, ""
    with open_media(path, settings.max_pixels) as container:
        decoding = Decoding(container, sound_stream(container))
        for block, frame in sounding(decoding):
            rate, layout = frame.sample_rate, frame.layout.name
            samples += block.shape[1]
            if samples > settings.max_seconds * rate:
                raise BadInput(f"is sound of more than {settings.max_seconds:g} s; cut it, or raise ingest.max_seconds")
            if block.dtype.kind == "f":
                peak = max(peak, float(np.abs(block).max(initial=0.0)))
                if not np.isfinite(block).all() or peak > MAX_PEAK:
                    raise BadInput(f"holds samples that are no numbers (NaN, infinite or absurd) near {samples / rate:.2f} s; export it again as PCM")
        if samples == 0:
            raise BadInput("holds no sound: not one sample could be decoded; supply an undamaged file")
        decoding.check_complete(Fraction(samples, rate), settings.min_decoded_fraction)
    return Recording(rate, layout, samples, peak)


def sounding(decoding: Decoding) -> Iterator[tuple[np.ndarray, av.AudioFrame]]:
    """Blocks of (channels, samples), each with a frame of the kind it comes from; silence where the time stamps leave a hole."""
    first: av.AudioFrame | None = None
    given = 0
    for frame in decoding:
        if first is None:
            check_playable(frame)
            first, begin = frame, at(frame) or Fraction(0)
        kinds = [(each.sample_rate, each.layout.name, each.format.name) for each in (first, frame)]
        if kinds[0] != kinds[1]:
            raise BadInput(f"changes from {kinds[0]} to {kinds[1]} after {given / first.sample_rate:.2f} s; convert it to one kind")
        rate, begins = frame.sample_rate, at(frame)
        hole = 0 if begins is None else round((begins - begin) * rate) - given
        block = planar_samples(frame)
        if hole > GAP_SECONDS * rate:
            log.warning("a hole of %.2f s in the sound after %.2f s is filled with silence", hole / rate, given / rate)
            given += hole
            while hole > 0:  # by the second, for a broken time stamp can ask for years
                silence = np.full((block.shape[0], min(hole, rate)), 128 if block.dtype == np.uint8 else 0, block.dtype)
                yield silence, frame
                hole -= silence.shape[1]
        given += block.shape[1]
        yield block, frame


def at(frame: av.AudioFrame) -> Fraction | None:
    """When a frame begins, in seconds of its file."""
    return None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base


def check_playable(frame: av.AudioFrame) -> None:
    """Raises BadInput for sound that FLAC cannot hold."""
    channels = frame.layout.nb_channels
    if channels > MAX_CHANNELS:
        raise BadInput(f"has {channels} channels, at most {MAX_CHANNELS} are taken; mix it down to stereo or mono")
    rate = frame.sample_rate
    if not 1000 <= rate <= 655350 or (rate > 65535 and rate % 10):
        raise BadInput(f"has a sample rate of {rate} Hz, which is no rate for speech, or none that FLAC can hold; convert it to 48000 Hz")
    if frame.format.packed.name not in SAMPLES:
        raise BadInput(f"has samples of format {frame.format.name}; convert it to PCM of 16 or 24 bits")


def whole_numbers(block: np.ndarray, gain: float) -> np.ndarray:
    """Samples as int16 where they have no more than 16 bits, else as int32 rounded to its upper 24; `gain` is for floats only."""
    if block.dtype == np.uint8:
        return (block.astype(np.int16) - 128) << 8
    if block.dtype == np.int16:
        return block
    if block.dtype == np.int32:
        return (np.minimum(block, 2**31 - 129) + 128) & ~0xFF
    return to_24_bits(block.astype(np.float64) * gain)
