"""Frames out of and into our own files: upright, at a constant rate, starting at time 0. Never for a user's file."""

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from infinitedub.stages.media.encode import add_picture, create, exact_rate

DECORD_READS = frozenset({"h264", "hevc", "vp9", "mpeg4"})  # decord 0.6 carries an FFmpeg that finds no AV1
DECORD_MIN_WIDTH = 96  # in narrower pictures decord can take the padding of a row for a fourth channel
NEAR_FRAMES = 16  # decoding on is cheaper than seeking when the wanted frame is this close ahead


def read_frames(path: Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Frames by number, in the order asked: (height, width, 3), uint8 RGB. Raises IndexError for a frame that is not there.

    decord reads where it can, PyAV elsewhere. Both convert with the BT.601 matrix, which decord cannot be talked out of and which our
    footage is written with, and so agree to the bit.
    """
    with av.open(str(path)) as container:
        picture = container.streams.video[0].codec_context
        # In Matroska decord lands one frame beside the one asked for once it has to seek.
        suits_decord = "mp4" in container.format.name and picture.name in DECORD_READS and picture.width >= DECORD_MIN_WIDTH
    if suits_decord and importlib.util.find_spec("decord") is not None:
        return read_with_decord(path, indices)
    return read_with_pyav(path, indices)


def read_with_decord(path: Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """`read_frames` by decord, which keeps an index of key frames."""
    import decord

    decord.logging.set_level(decord.logging.ERROR)
    reader = decord.VideoReader(str(path), num_threads=1)
    for index in indices:
        if not 0 <= index < len(reader):
            raise IndexError(f"{path} has {len(reader)} frames, frame {index} was asked for")
        yield reader[index].asnumpy()


def read_with_pyav(path: Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """`read_frames` by PyAV: to the key frame before, and on from there."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate, tick = Fraction(stream.average_rate or 0), Fraction(stream.time_base or 0)
        frames = container.decode(stream)
        position, shown = -1, None  # number of the frame last decoded, and that frame
        for index in indices:
            if index < 0:
                raise IndexError(f"frames are counted from 0, frame {index} of {path} was asked for")
            if not position <= index <= position + NEAR_FRAMES:
                container.seek(int(index / rate / tick), stream=stream, backward=True)
                frames, position = container.decode(stream), -1
            while position < index:
                frame = next(frames, None)
                if frame is None:
                    raise IndexError(f"{path} has fewer than {index + 1} frames, frame {index} was asked for")
                position, shown = round((frame.pts or 0) * tick * rate), frame
            if position != index or shown is None:
                raise ValueError(f"{path} has no frame {index} of its own; its frame rate is not constant")
            yield as_rgb(shown)


def read_all(path: Path) -> Iterator[np.ndarray]:
    """Every frame in order, one at a time: (height, width, 3), uint8 RGB."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            yield as_rgb(frame)


def as_rgb(frame: av.VideoFrame) -> np.ndarray:
    """A decoded frame of ours as (height, width, 3), uint8 RGB."""
    return frame.to_ndarray(format="rgb24")


def write_lossless(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Writes (height, width, 3) uint8 RGB frames so that they read back exactly; the same frames give the same bytes.

    RGB H.264 at quantiser 0, for a Matroska file (.mkv). Raises ValueError for no frames, or frames of several shapes or types.
    """
    rate = exact_rate(fps)
    with create(path, "matroska") as container:
        stream = None
        for number, pixels in enumerate(frames):
            if stream is None:
                height, width = pixels.shape[:2]
                stream = add_picture(container, "libx264rgb", "rgb24", rate, (width, height), {"qp": "0", "preset": "veryfast", "g": "25"})
            if pixels.shape != (height, width, 3) or pixels.dtype != np.uint8:
                raise ValueError(f"frame {number} is {pixels.dtype} {pixels.shape}, the first one was uint8 {(height, width, 3)}")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        if stream is None:
            raise ValueError(f"no frames to write to {path}")
        container.mux(stream.encode(None))
