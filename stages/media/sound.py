"""Samples out of and into our own FLAC files. Never for a user's file.

A block is (channels, samples). Whole numbers fill their type: int16 for 16 bits, int32 for 24, whose lowest byte is empty.
Floats have full scale at 1.0.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags as CodecFlags

from infinitedub.stages.media.encode import create

PACKED = {np.dtype(np.int16): "s16", np.dtype(np.int32): "s32", np.dtype(np.float32): "flt", np.dtype(np.float64): "dbl"}
LARGEST = (2**23 - 1) / 2**23  # of 24 bits


@dataclass(frozen=True, slots=True)
class SoundFormat:
    """How the samples of a file are laid out."""

    sample_rate: int
    layout: str  # FFmpeg's name for the channels, such as "mono", "stereo", "5.1"
    channels: int
    bits: int  # 16 or 24


def sound_format(path: Path) -> SoundFormat:
    """What `sample_blocks` of this file will give."""
    with av.open(str(path)) as container:
        codec = container.streams.audio[0].codec_context
        return SoundFormat(codec.sample_rate, codec.layout.name, codec.layout.nb_channels, 16 if codec.format.name.startswith("s16") else 24)


def read_mono(path: Path, sample_rate: int) -> np.ndarray:
    """The whole sound as one float32 channel at `sample_rate`, full scale at 1.0: the average of its channels."""
    blocks = list(mono_blocks(path, sample_rate))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def mono_blocks(path: Path, sample_rate: int) -> Iterator[np.ndarray]:
    """`read_mono` piece by piece, each (samples,), for sound of any length; n samples at rate r become exactly round(n * sample_rate / r)."""
    averaged = (as_float(block).mean(axis=0, keepdims=True) for block in sample_blocks(path))
    for block in resampled(averaged, "mono", sound_format(path).sample_rate, "mono", sample_rate):
        yield block[0]


def sample_blocks(path: Path) -> Iterator[np.ndarray]:
    """Every sample as it was given, int16 or int32, block by block."""
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.audio[0]):
            yield planar(frame)


def planar(frame: av.AudioFrame) -> np.ndarray:
    """The samples of a decoded frame as (channels, samples)."""
    samples = frame.to_ndarray()
    return samples if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels).T


def as_frame(block: np.ndarray, layout: str, sample_rate: int) -> av.AudioFrame:
    """A block as FFmpeg takes it."""
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block.T).reshape(1, -1), format=PACKED[block.dtype], layout=layout)
    frame.sample_rate = sample_rate
    return frame


def as_float(block: np.ndarray) -> np.ndarray:
    """A block of whole numbers as float32, which holds 24 bits exactly."""
    return block.astype(np.float32) / np.float32(-float(np.iinfo(block.dtype).min))


def gain_into_24_bits(peak: float) -> float:
    """The factor for floats of this peak to be held by 24 bits without clipping: 1 where they fit."""
    return min(1.0, LARGEST / peak) if peak > 0 else 1.0


def in_24_bits(block: np.ndarray) -> np.ndarray:
    """Floats rounded to 24 bits, as int32."""
    return np.clip(np.rint(block * 2.0**23), -(2**23), 2**23 - 1).astype(np.int32) << 8


def resampled(blocks: Iterable[np.ndarray], layout: str, sample_rate: int, to_layout: str, to_sample_rate: int) -> Iterator[np.ndarray]:
    """Float blocks at another rate and in other channels; n samples become exactly round(n * to_sample_rate / sample_rate)."""
    if (layout, sample_rate) == (to_layout, to_sample_rate):
        yield from blocks
        return
    resampler = av.AudioResampler(format="fltp", layout=to_layout, rate=to_sample_rate)
    taken = given = 0
    silence = None
    for block in blocks:
        taken += block.shape[1]
        silence = np.zeros((block.shape[0], sample_rate // 10 + 1), block.dtype)
        for frame in resampler.resample(as_frame(block, layout, sample_rate)):
            given += frame.samples
            yield frame.to_ndarray()
    if silence is None:
        return
    # The filter looks ahead, and swresample drops what a very short sound leaves in it: some silence brings all of it out.
    missing = round(Fraction(taken * to_sample_rate, sample_rate)) - given
    for frame in [*resampler.resample(as_frame(silence, layout, sample_rate)), *resampler.resample(None)]:
        if missing > 0:
            yield frame.to_ndarray()[:, :missing]
            missing -= frame.samples


def write_flac(path: Path, blocks: Iterable[np.ndarray], sample_rate: int, layout: str) -> int:
    """Writes int16 or int32 blocks without loss (of an int32 the upper 24 bits) and says how many samples per channel they were.

    The same samples give the same bytes. Raises ValueError for no blocks.
    """
    count = 0
    with create(path, "flac") as container:
        stream = None
        for block in blocks:
            if stream is None:
                stream = container.add_stream("flac", rate=sample_rate, layout=layout, format=PACKED[block.dtype])
                stream.codec_context.flags |= CodecFlags.bitexact
            frame = as_frame(block, layout, sample_rate)
            frame.pts, frame.time_base = count, Fraction(1, sample_rate)
            count += block.shape[1]
            container.mux(stream.encode(frame))
        if stream is None:
            raise ValueError(f"no samples to write to {path}")
        container.mux(stream.encode(None))
    return count
