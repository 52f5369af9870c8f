"""Normalises speech of any format: decoded once and stored as FLAC at its own sample rate and channel layout."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from logging import getLogger
from pathlib import Path

import av
import numpy as np

from infinitedub.stages.errors import BadInput
from infinitedub.stages.ingest.media_decoder import StreamDecoder, audio_stream, open_media
from infinitedub.stages.ingest.settings import IngestSettings
from infinitedub.stages.media.audio_io import gain_for_24_bits, planar_samples, to_24_bits, write_flac

log = getLogger(__name__)

MAX_CHANNELS = 8  # of FLAC
MIN_GAP_SECONDS = Fraction(1, 10)  # a longer gap between time stamps is silence, a shorter one is rounding
MAX_PEAK = 2.0**31  # 32-bit integers stored as floats reach this value; a larger one means that the file is damaged
SAMPLE_FORMATS = frozenset({"u8", "s16", "s32", "flt", "dbl"})


@dataclass(frozen=True, slots=True)
class SpeechProperties:
    """What a first pass over the speech measures."""

    sample_rate: int
    layout: str
    n_samples: int  # per channel
    peak: float  # of float samples, full scale at 1.0; 0 for integer samples


def normalize_speech(path: Path, target: Path, settings: IngestSettings) -> SpeechProperties:
    """Writes speech of a user as FLAC: 16 bits if it has no more, else 24. Raises BadInput for speech that cannot be decoded in full."""
    measured = measure_speech(path, settings)
    gain = gain_for_24_bits(measured.peak)
    if gain < 1:
        log.warning("%s reaches %.3f of full scale and is attenuated by %.2f dB", path.name, measured.peak, -20 * np.log10(gain))
    with open_media(path, settings.max_pixels) as container:
        decoder = StreamDecoder(container, audio_stream(container))
        blocks = (to_integer_samples(block, gain) for block, _ in decode_blocks(decoder))
        n_written = write_flac(target, blocks, measured.sample_rate, measured.layout)
    if n_written != measured.n_samples:
        raise ValueError(f"{path} held {measured.n_samples} samples in the first pass and {n_written} in the second")
    return measured


def measure_speech(path: Path, settings: IngestSettings) -> SpeechProperties:
    """Decodes the speech once without keeping it: its length, its peak, and whether the file is complete."""
    n_samples, peak = 0, 0.0
    rate, layout = 0, ""
    with open_media(path, settings.max_pixels) as container:
        decoder = StreamDecoder(container, audio_stream(container))
        for block, frame in decode_blocks(decoder):
            rate, layout = frame.sample_rate, frame.layout.name
            n_samples += block.shape[1]
            if n_samples > settings.max_seconds * rate:
                raise BadInput(f"is sound of more than {settings.max_seconds:g} s; cut it, or raise ingest.max_seconds")
            if block.dtype.kind == "f":
                peak = max(peak, float(np.abs(block).max(initial=0.0)))
                if not np.isfinite(block).all() or peak > MAX_PEAK:
                    raise BadInput(
                        f"holds samples that are NaN, infinite or above {MAX_PEAK:g} near {n_samples / rate:.2f} s; export it again as PCM"
                    )
        if n_samples == 0:
            raise BadInput("holds no sound: not one sample could be decoded; supply an undamaged file")
        decoder.check_complete(Fraction(n_samples, rate), settings.min_decoded_fraction)
    return SpeechProperties(rate, layout, n_samples, peak)


def decode_blocks(decoder: StreamDecoder) -> Iterator[tuple[np.ndarray, av.AudioFrame]]:
    """Blocks of (channels, samples), each with the frame whose format it has. A gap between time stamps becomes silence."""
    first: av.AudioFrame | None = None
    n_samples = 0
    for frame in decoder:
        if first is None:
            check_format(frame)
            first, origin = frame, frame_start(frame) or Fraction(0)
        formats = [(each.sample_rate, each.layout.name, each.format.name) for each in (first, frame)]
        if formats[0] != formats[1]:
            raise BadInput(
                f"changes from {formats[0]} to {formats[1]} after {n_samples / first.sample_rate:.2f} s; convert it to one sample rate and layout"
            )
        rate, start = frame.sample_rate, frame_start(frame)
        gap = 0 if start is None else round((start - origin) * rate) - n_samples
        block = planar_samples(frame)
        if gap > MIN_GAP_SECONDS * rate:
            log.warning("a gap of %.2f s in the sound after %.2f s is filled with silence", gap / rate, n_samples / rate)
            n_samples += gap
            while gap > 0:  # in blocks of a second, since a damaged time stamp can announce a gap of years
                silence = np.full((block.shape[0], min(gap, rate)), 128 if block.dtype == np.uint8 else 0, block.dtype)
                yield silence, frame
                gap -= silence.shape[1]
        n_samples += block.shape[1]
        yield block, frame


def frame_start(frame: av.AudioFrame) -> Fraction | None:
    """When a frame begins, in seconds; None if it has no time stamp."""
    return None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base


def check_format(frame: av.AudioFrame) -> None:
    """Raises BadInput for sound that FLAC cannot store."""
    channels = frame.layout.nb_channels
    if channels > MAX_CHANNELS:
        raise BadInput(f"has {channels} channels, at most {MAX_CHANNELS} are supported; mix it down to stereo or mono")
    rate = frame.sample_rate
    if not 1000 <= rate <= 655350 or (rate > 65535 and rate % 10):
        raise BadInput(f"has a sample rate of {rate} Hz, which FLAC cannot store or which is too low for speech; convert it to 48000 Hz")
    if frame.format.packed.name not in SAMPLE_FORMATS:
        raise BadInput(f"has samples of format {frame.format.name}; convert it to PCM of 16 or 24 bits")


def to_integer_samples(block: np.ndarray, gain: float) -> np.ndarray:
    """Samples as int16 if they have at most 16 bits, else as int32 rounded to its upper 24; `gain` applies to floats only."""
    if block.dtype == np.uint8:
        return (block.astype(np.int16) - 128) << 8
    if block.dtype == np.int16:
        return block
    if block.dtype == np.int32:
        return (np.minimum(block, 2**31 - 129) + 128) & ~0xFF
    return to_24_bits(block.astype(np.float64) * gain)
