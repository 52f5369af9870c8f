"""Picture and sound into one MP4, piece by piece: what is held in memory does not grow with the film."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags as CodecFlags
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

from infinitedub.stages.assemble.settings import AssembleSettings
from infinitedub.stages.assemble.soundtrack import Soundtrack
from infinitedub.stages.media.encode import add_picture, create, exact_rate
from infinitedub.stages.media.sound import PACKED, as_float, as_frame, resampled

BT709 = 1  # the matrix, as H.264 numbers it (ITU-T H.273, table 4)
AAC_RATE = 48000  # for speech at a rate that AAC does not know
CAREFUL = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP


def write_film(path: Path, frames: Iterator[np.ndarray], fps: float, sound: Soundtrack, settings: AssembleSettings) -> int:
    """Encodes (height, width, 3) uint8 RGB frames, at least one, with the sound, and says how many frames they were.

    The same input gives the same bytes.
    """
    rate = exact_rate(fps)
    first = next(frames)
    size = (first.shape[1] + first.shape[1] % 2, first.shape[0] + first.shape[0] % 2)
    count, heard = 0, 0
    with create(path, "mp4") as container:
        picture = add_picture(container, "libx264", "yuv420p", rate, size, {"crf": str(settings.crf), "preset": settings.preset})
        codec = picture.codec_context
        codec.colorspace, codec.color_range = BT709, int(ColorRange.MPEG)
        codec.color_trc, codec.color_primaries = int(ColorTrc.BT709), int(ColorPrimaries.BT709)
        voice = add_voice(container, sound, settings)
        spoken = voice_frames(sound, voice.codec_context.sample_rate, settings)
        for pixels in chain([first], frames):
            frame = as_picture(pixels)
            frame.pts, frame.time_base = count, 1 / rate
            container.mux(picture.encode(frame))
            count += 1
            # Picture and sound advance together, or the muxer would have to hold one of them until the other comes.
            while heard * rate < count * voice.codec_context.sample_rate and (block := next(spoken, None)) is not None:
                block.pts, block.time_base = heard, Fraction(1, block.sample_rate)
                heard += block.samples
                container.mux(voice.encode(block))
        container.mux(picture.encode(None))
        container.mux(voice.encode(None))
    return count


def as_picture(pixels: np.ndarray) -> av.VideoFrame:
    """A frame as x264 takes it: BT.709 in video range; an odd side is made even by repeating its last row or column."""
    height, width = pixels.shape[:2]
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, interpolation=CAREFUL, threads=1)


def add_voice(container: OutputContainer, sound: Soundtrack, settings: AssembleSettings) -> av.AudioStream:
    """The film's sound stream."""
    if settings.sound_codec == "flac":
        first = next(sound.blocks())
        stream = container.add_stream("flac", rate=sound.sample_rate, layout=sound.layout, format=PACKED[first.dtype])
    else:
        rate = sound.sample_rate if sound.sample_rate in (av.Codec("aac", "w").audio_rates or ()) else AAC_RATE
        stream = container.add_stream("aac", rate=rate, layout=sound.layout)
        stream.bit_rate = settings.aac_kbps * 1000
    stream.codec_context.flags |= CodecFlags.bitexact
    return stream


def voice_frames(sound: Soundtrack, sample_rate: int, settings: AssembleSettings) -> Iterator[av.AudioFrame]:
    """The sound as the encoder takes it."""
    blocks = sound.blocks()
    if settings.sound_codec == "aac":
        blocks = resampled((as_float(block) for block in blocks), sound.layout, sound.sample_rate, sound.layout, sample_rate)
    for block in blocks:
        yield as_frame(block, sound.layout, sample_rate)
