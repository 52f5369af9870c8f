"""Reads and writes frames of the product's own video files: upright, at a constant rate, from time 0. Only `stages/ingest` reads files of users."""

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from infinitedub.stages.media.encode import add_lossless_video, exact_rate, open_output

DECORD_CODECS = frozenset({"h264", "hevc", "vp9", "mpeg4"})  # the FFmpeg inside decord 0.6 has no AV1 decoder
DECORD_MIN_WIDTH = 96  # in narrower frames decord can read the padding of a row as a fourth channel
MAX_SKIPPED_FRAMES = 16  # decoding this many frames is cheaper than seeking


def read_frames(path: Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Frames by number, in the order of `indices`: (height, width, 3), uint8 RGB. Raises IndexError for a frame that does not exist.

    decord reads the files that it supports, PyAV the others. Both convert with the BT.601 matrix, which is fixed in decord and which
    normalised footage is encoded with, so their pixels are identical.
    """
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        # In Matroska, decord returns a neighbour of the requested frame once it has to seek.
        decord_reads = "mp4" in container.format.name and codec.name in DECORD_CODECS and codec.width >= DECORD_MIN_WIDTH
    if decord_reads and importlib.util.find_spec("decord") is not None:
        return read_with_decord(path, indices)
    return read_with_pyav(path, indices)


def read_with_decord(path: Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """`read_frames` with decord, which keeps an index of key frames."""
    import decord

    decord.logging.set_level(decord.logging.ERROR)
    reader = decord.VideoReader(str(path), num_threads=1)
    for index in indices:
        if not 0 <= index < len(reader):
            raise IndexError(f"frame {index} was requested, {path} has {len(reader)} frames, counted from 0")
        yield reader[index].asnumpy()


def read_with_pyav(path: Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """`read_frames` with PyAV: seeks to the key frame before a frame and decodes from there."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate, time_base = Fraction(stream.average_rate or 0), Fraction(stream.time_base or 0)
        frames = container.decode(stream)
        position, current = -1, None  # the last decoded frame and its number
        for index in indices:
            if index < 0:
                raise IndexError(f"frame {index} of {path} was requested; frames are counted from 0")
            if not position <= index <= position + MAX_SKIPPED_FRAMES:
                container.seek(int(index / rate / time_base), stream=stream, backward=True)
                frames, position = container.decode(stream), -1
            while position < index:
                frame = next(frames, None)
                if frame is None:
                    raise IndexError(f"frame {index} was requested, {path} has fewer than {index + 1} frames")
                position, current = round((frame.pts or 0) * time_base * rate), frame
            if position != index or current is None:
                raise ValueError(f"{path} has no frame with number {index}; its frame rate is not constant")
            yield to_rgb(current)


def read_all(path: Path) -> Iterator[np.ndarray]:
    """Every frame in order, one at a time: (height, width, 3), uint8 RGB."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            yield to_rgb(frame)


def to_rgb(frame: av.VideoFrame) -> np.ndarray:
    """A decoded frame as (height, width, 3), uint8 RGB."""
    return frame.to_ndarray(format="rgb24")


def write_lossless(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Writes (height, width, 3) uint8 RGB frames so that they read back exactly; the same frames give the same bytes.

    The file is Matroska (.mkv). Raises ValueError if there are no frames, or if their shapes or types differ.
    """
    rate = exact_rate(fps)
    with open_output(path, "matroska") as container:
        stream = None
        for number, pixels in enumerate(frames):
            if stream is None:
                height, width = pixels.shape[:2]
                stream = add_lossless_video(container, rate, (width, height))
            if pixels.shape != (height, width, 3) or pixels.dtype != np.uint8:
                raise ValueError(f"frame {number} is {pixels.dtype} {pixels.shape}, the first one was uint8 {(height, width, 3)}")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        if stream is None:
            raise ValueError(f"no frames to write to {path}")
        container.mux(stream.encode(None))
