"""Media files whose bytes depend on nothing but the content and the settings."""

from fractions import Fraction
from pathlib import Path

import av
from av.codec.context import Flags as CodecFlags
from av.container import Flags as ContainerFlags
from av.container import OutputContainer
from av.video.stream import VideoStream

THREADS = 4  # x264's choices depend on the number of its threads: never left to the number of cores


def create(path: Path, kind: str) -> OutputContainer:
    """An output file without dates, random ids or version strings; `kind` is FFmpeg's name for it. An MP4 gets its index in front."""
    container = av.open(str(path), "w", format=kind, options={"movflags": "+faststart"} if kind == "mp4" else {})
    container.flags |= ContainerFlags.bitexact.value
    return container


def add_picture(
    container: OutputContainer, codec: str, pixel_format: str, fps: Fraction, size: tuple[int, int], options: dict[str, str]
) -> VideoStream:
    """A stream of x264 frames, `size` being (width, height), that come out the same on every machine."""
    # cpu-independent keeps x264 from picking other algorithms on other processors.
    stream = container.add_stream(codec, rate=fps, options={**options, "x264-params": "cpu-independent=1"})
    stream.width, stream.height = size
    stream.pix_fmt = pixel_format
    stream.time_base = 1 / fps
    stream.codec_context.thread_count = THREADS
    stream.codec_context.flags |= CodecFlags.bitexact
    return stream


def exact_rate(fps: float) -> Fraction:
    """The frame rate as containers write it: 29.97 is 30000/1001, and 2997/100 is not meant."""
    television = Fraction(round(fps * 1.001) * 1000, 1001)
    return television if abs(television - Fraction(fps)) < Fraction(1, 10_000) else Fraction(fps).limit_denominator(1001)
