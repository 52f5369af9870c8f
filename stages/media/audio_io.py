"""Reads and writes samples of the product's own FLAC files. Only `stages/ingest` reads files of users.

A block is (channels, samples). Integer samples use the full range of their type: int16 for 16 bits, int32 for 24 bits, whose lowest byte
is zero. Float samples have full scale at 1.0.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from infinitedub.stages.media.encode import SAMPLE_FORMATS, add_flac_audio, open_output

logger = logging.getLogger(__name__)

CANCELLED = 0.1  # see `heard_channels`
MAX_24_BIT_SAMPLE = (2**23 - 1) / 2**23


@dataclass(frozen=True, slots=True)
class SoundFormat:
    """How the samples of a file are stored."""

    sample_rate: int
    layout: str  # FFmpeg's name for the channels, such as "mono", "stereo", "5.1"
    channels: int
    bits: int  # 16 or 24


def sound_format(path: Path) -> SoundFormat:
    """The format of the blocks that `sample_blocks` yields for this file."""
    with av.open(str(path)) as container:
        codec = container.streams.audio[0].codec_context
        return SoundFormat(codec.sample_rate, codec.layout.name, codec.layout.nb_channels, 16 if codec.format.name.startswith("s16") else 24)


def read_mono(path: Path, sample_rate: int) -> np.ndarray:
    """The whole file as one float32 channel at `sample_rate`, full scale at 1.0: see `heard_channels`."""
    blocks = list(mono_blocks(path, sample_rate))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def mono_blocks(path: Path, sample_rate: int) -> Iterator[np.ndarray]:
    """`read_mono` in blocks (samples,), for audio of any length; n samples at rate r become exactly round(n * sample_rate / r)."""
    heard = heard_channels(path)
    averaged = (to_float(block)[heard].mean(axis=0, keepdims=True) for block in sample_blocks(path))
    for block in resample(averaged, "mono", sound_format(path).sample_rate, "mono", sample_rate):
        yield block[0]


def heard_channels(path: Path) -> slice:
    """The channels whose average is heard: all of them, or the loudest one alone if they cancel each other in the average.

    Right = -left averages to silence, and a voice in one of many channels almost. The average counts as cancelled below `CANCELLED` of the loudest
    channel's energy; a voice in one of two channels has a quarter of it.
    """
    channels = sound_format(path).channels
    if channels == 1:
        return slice(None)
    energies, average = np.zeros(channels), 0.0
    for block in sample_blocks(path):
        samples = to_float(block).astype(np.float64)
        energies += np.square(samples).sum(axis=1)
        average += float(np.square(samples.mean(axis=0)).sum())
    loudest = int(energies.argmax())
    if average >= CANCELLED * energies[loudest]:
        return slice(None)
    logger.warning("%s: its channels cancel each other when they are averaged; channel %d of %d is heard alone", path.name, loudest + 1, channels)
    return slice(loudest, loudest + 1)


def sample_blocks(path: Path) -> Iterator[np.ndarray]:
    """Every sample as stored, int16 or int32, in blocks."""
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.audio[0]):
            yield planar_samples(frame)


def planar_samples(frame: av.AudioFrame) -> np.ndarray:
    """The samples of a decoded frame as (channels, samples)."""
    samples = frame.to_ndarray()
    return samples if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels).T


def to_audio_frame(block: np.ndarray, layout: str, sample_rate: int) -> av.AudioFrame:
    """A block as an FFmpeg frame of interleaved samples."""
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block.T).reshape(1, -1), format=SAMPLE_FORMATS[block.dtype], layout=layout)
    frame.sample_rate = sample_rate
    return frame


def to_float(block: np.ndarray) -> np.ndarray:
    """Integer samples as float32, which represents 24 bits exactly."""
    return block.astype(np.float32) / np.float32(-float(np.iinfo(block.dtype).min))


def gain_for_24_bits(peak: float) -> float:
    """The factor that keeps float samples with this peak from clipping at 24 bits; 1 if they fit."""
    return min(1.0, MAX_24_BIT_SAMPLE / peak) if peak > 0 else 1.0


def to_24_bits(block: np.ndarray) -> np.ndarray:
    """Float samples rounded to 24 bits, as int32."""
    return np.clip(np.rint(block * 2.0**23), -(2**23), 2**23 - 1).astype(np.int32) << 8


def resample(blocks: Iterable[np.ndarray], layout: str, sample_rate: int, to_layout: str, to_sample_rate: int) -> Iterator[np.ndarray]:
    """Converts float blocks to another rate and channel layout; n samples become exactly round(n * to_sample_rate / sample_rate)."""
    if (layout, sample_rate) == (to_layout, to_sample_rate):
        yield from blocks
        return
    resampler = av.AudioResampler(format="fltp", layout=to_layout, rate=to_sample_rate)
    n_in = n_out = 0
    silence = None
    for block in blocks:
        n_in += block.shape[1]
        silence = np.zeros((block.shape[0], sample_rate // 10 + 1), block.dtype)
        for frame in resampler.resample(to_audio_frame(block, layout, sample_rate)):
            n_out += frame.samples
            yield frame.to_ndarray()
    if silence is None:
        return
    # The filter looks ahead, and swresample drops samples of a very short sound that are still inside it: trailing silence flushes all of them.
    missing = round(Fraction(n_in * to_sample_rate, sample_rate)) - n_out
    for frame in [*resampler.resample(to_audio_frame(silence, layout, sample_rate)), *resampler.resample(None)]:
        if missing > 0:
            yield frame.to_ndarray()[:, :missing]
            missing -= frame.samples


def write_flac(path: Path, blocks: Iterable[np.ndarray], sample_rate: int, layout: str) -> int:
    """Writes int16 or int32 blocks losslessly (the upper 24 bits of an int32) and returns the number of samples per channel.

    The same samples give the same bytes. Raises ValueError if there are no blocks.
    """
    count = 0
    with open_output(path, "flac") as container:
        stream = None
        for block in blocks:
            if stream is None:
                stream = add_flac_audio(container, sample_rate, layout, block.dtype)
            frame = to_audio_frame(block, layout, sample_rate)
            frame.pts, frame.time_base = count, Fraction(1, sample_rate)
            count += block.shape[1]
            container.mux(stream.encode(frame))
        if stream is None:
            raise ValueError(f"no samples to write to {path}")
        container.mux(stream.encode(None))
    return count
