"""Output files and every encoder that writes them, with its options. The bytes depend only on the content and the settings."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.codec.context import Flags as CodecFlags
from av.container import Flags as ContainerFlags
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from av.video.stream import VideoStream

BT709, SMPTE170M = 1, 6  # YUV matrices as H.264 numbers them (ITU-T H.273, table 4); the latter is that of BT.601
THREADS = 4  # x264's decisions depend on the number of its threads, so it is not left to the number of CPU cores
AAC_RATE = 48000  # Hz, for speech at a sample rate that AAC does not support
SAMPLE_FORMATS = {np.dtype(np.int16): "s16", np.dtype(np.int32): "s32", np.dtype(np.float32): "flt", np.dtype(np.float64): "dbl"}
"""FFmpeg's names of interleaved sample formats."""
ACCURATE_BICUBIC = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP


def open_output(path: Path, container_format: str) -> OutputContainer:
    """Opens an output file without dates, random ids or version strings; the format is FFmpeg's name. The index of an MP4 comes first."""
    container = av.open(str(path), "w", format=container_format, options={"movflags": "+faststart"} if container_format == "mp4" else {})
    container.flags |= ContainerFlags.bitexact.value
    return container


def add_footage_video(container: OutputContainer, fps: Fraction, size: tuple[int, int], crf: int, gop_frames: int) -> VideoStream:
    """A stream for normalised footage: H.264 in BT.601, which decord always assumes, without B-frames and with a key frame each `gop_frames`."""
    options = {"crf": str(crf), "preset": "veryfast", "g": str(gop_frames), "bf": "0"}
    stream = add_h264_stream(container, "libx264", "yuv420p", fps, size, options)
    tag_colors(stream, SMPTE170M)
    return stream


def add_lossless_video(container: OutputContainer, fps: Fraction, size: tuple[int, int]) -> VideoStream:
    """A stream that reads back exactly: RGB H.264 at quantiser 0. `size` is (width, height)."""
    return add_h264_stream(container, "libx264rgb", "rgb24", fps, size, {"qp": "0", "preset": "veryfast", "g": "25"})


def add_film_video(container: OutputContainer, fps: Fraction, size: tuple[int, int], crf: int, preset: str) -> VideoStream:
    """A stream for a finished film: H.264 in BT.709. `size` is (width, height), both even; its frames are made by `to_film_frame`."""
    stream = add_h264_stream(container, "libx264", "yuv420p", fps, size, {"crf": str(crf), "preset": preset})
    tag_colors(stream, BT709)
    return stream


def to_film_frame(pixels: np.ndarray) -> av.VideoFrame:
    """Converts (height, width, 3) uint8 RGB to BT.709 in video range. An odd side is made even by repeating its last row or column."""
    height, width = pixels.shape[:2]
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return frame.reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, interpolation=ACCURATE_BICUBIC, threads=1
    )


def add_h264_stream(
    container: OutputContainer, codec: str, pixel_format: str, fps: Fraction, size: tuple[int, int], options: dict[str, str]
) -> VideoStream:
    """An x264 stream whose bytes are the same on every machine. `size` is (width, height)."""
    # cpu-independent keeps x264 from choosing other algorithms on other processors.
    stream = container.add_stream(codec, rate=fps, options={**options, "x264-params": "cpu-independent=1"})
    stream.width, stream.height = size
    stream.pix_fmt = pixel_format
    stream.time_base = 1 / fps
    stream.codec_context.thread_count = THREADS
    stream.codec_context.flags |= CodecFlags.bitexact
    return stream


def tag_colors(stream: VideoStream, matrix: int) -> None:
    """Declares the YUV matrix, video range, and the transfer curve and primaries of BT.709."""
    codec = stream.codec_context
    codec.colorspace, codec.color_range = matrix, int(ColorRange.MPEG)
    codec.color_trc, codec.color_primaries = int(ColorTrc.BT709), int(ColorPrimaries.BT709)


def add_flac_audio(container: OutputContainer, sample_rate: int, layout: str, sample_type: np.dtype) -> AudioStream:
    """A lossless audio stream for int16 samples, or for the upper 24 bits of int32 samples."""
    stream = container.add_stream("flac", rate=sample_rate, layout=layout, format=SAMPLE_FORMATS[sample_type])
    stream.codec_context.flags |= CodecFlags.bitexact
    return stream


def add_aac_audio(container: OutputContainer, sample_rate: int, layout: str, kbps: int) -> AudioStream:
    """A lossy audio stream at `sample_rate`, or at AAC_RATE if AAC does not support that rate."""
    rate = sample_rate if sample_rate in (av.Codec("aac", "w").audio_rates or ()) else AAC_RATE
    stream = container.add_stream("aac", rate=rate, layout=layout)
    stream.bit_rate = kbps * 1000
    stream.codec_context.flags |= CodecFlags.bitexact
    return stream


def exact_rate(fps: float) -> Fraction:
    """The frame rate as containers store it: 29.97 means 30000/1001, not 2997/100."""
    ntsc = Fraction(round(fps * 1.001) * 1000, 1001)
    return ntsc if abs(ntsc - Fraction(fps)) < Fraction(1, 10_000) else Fraction(fps).limit_denominator(1001)
