"""Footage of any make, as a file of ours: upright, square pixels, one frame rate, frames quickly found."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from logging import getLogger
from pathlib import Path

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData

from infinitedub.stages.errors import BadInput
from infinitedub.stages.ingest.color_space import scaling, settled
from infinitedub.stages.ingest.filters import Filters, filtered
from infinitedub.stages.ingest.geometry import ASPECTS, Picture, check_size, fitted_size, lies_down, turn, upright_size
from infinitedub.stages.ingest.opening import Decoding, open_media, picture_stream
from infinitedub.stages.ingest.settings import IngestSettings
from infinitedub.stages.ingest.timing import Shown, at_constant_rate
from infinitedub.stages.media.encode import add_footage_video, exact_rate, open_output

log = getLogger(__name__)

FRAME_PIXELS = 1 << 16  # a smaller frame is as much work as one of so many pixels
INTERLACED = frozenset({2, 3, 4, 5})  # FFmpeg's AV_FIELD_TT, BB, TB, BT


def normalise_footage(path: Path, target: Path, settings: IngestSettings) -> Picture:
    """Writes a user's footage as H.264 in MP4. Raises BadInput for what is no footage, or is too large, too long or cut short."""
    with open_media(path, settings.max_pixels) as container:
        stream = picture_stream(container, settings.max_pixels)
        stream.thread_type = "AUTO"
        check_size((stream.codec_context.width, stream.codec_context.height), settings.max_pixels, settings.min_side_px)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        if not ASPECTS[0] <= aspect <= ASPECTS[1]:
            log.warning("%s: pixels of aspect %s are taken as square", path.name, aspect)
            aspect = Fraction(1)
        decoding = Decoding(container, stream)
        nominal = 1 / Fraction(stream.average_rate or exact_rate(settings.fps))
        frames = deinterlaced(decoding, stream.codec_context.field_order in INTERLACED)
        picture = write_footage(timed(frames, nominal), aspect, target, settings)
        decoding.check_complete(picture.n_frames / exact_rate(settings.fps), settings.min_decoded_fraction)
    return picture


def deinterlaced(frames: Iterable[av.VideoFrame], interlaced: bool) -> Iterator[av.VideoFrame]:
    """The frames, made of whole pictures where they were woven of two fields."""
    remaining = iter(frames)
    first = next(remaining, None)
    if first is None:
        return
    every = chain([first], remaining)
    yield from filtered(every, lambda frame: (("bwdif", "mode=send_frame"),)) if interlaced or first.interlaced_frame else every


def timed(frames: Iterable[av.VideoFrame], nominal: Fraction) -> Iterator[Shown[av.VideoFrame]]:
    """When each frame is shown; `nominal` seconds long where the file does not say."""
    end = Fraction(0)
    for frame in frames:
        tick = Fraction(frame.time_base or nominal)
        start = end if frame.pts is None else frame.pts * tick
        duration = frame.duration * tick if frame.duration else nominal
        end = start + duration
        yield Shown(start, duration, frame)


def write_footage(shown: Iterable[Shown[av.VideoFrame]], aspect: Fraction, target: Path, settings: IngestSettings) -> Picture:
    """Writes frames with their times as normalised footage; `aspect` is width to height of a stored pixel."""
    rate = exact_rate(settings.fps)
    remaining = at_constant_rate(within(shown, settings.max_seconds, settings.max_gigapixels), rate)
    head = next(remaining, None)
    if head is None:
        raise BadInput("holds a picture of which no frame could be decoded; supply an undamaged file")
    first: av.VideoFrame = head[0]
    turns = turned(first)
    upright = upright_size((first.width, first.height), aspect, lies_down(turns))
    check_size(upright, upright[0] * upright[1], settings.min_side_px)  # as it is shown, which may be narrower than it is stored
    size = fitted_size(upright, settings.max_side_px, even=True)
    even, fitted = ((side[::-1] if lies_down(turns) else side) for side in (size, fitted_size(upright, settings.max_side_px, even=False)))
    counts: list[int] = []  # of the one frame that is inside the filters

    def sources() -> Iterator[av.VideoFrame]:
        for frame, count in chain([head], remaining):
            check_size((frame.width, frame.height), settings.max_pixels, settings.min_side_px)
            counts.append(count)
            yield settled(frame)

    def choose(frame: av.VideoFrame) -> Filters:
        # An odd row or column is cut off rather than scaled away, which would blur the whole picture.
        scale = scaling(frame, max(fitted[0], even[0]), max(fitted[1], even[1]))
        return (("scale", scale), ("format", "yuv420p"), ("crop", f"{even[0]}:{even[1]}:0:0"), *turns)

    n_frames = 0
    with open_output(target, "mp4") as container:
        stream = add_footage_video(container, rate, size, settings.crf, settings.gop_frames)
        for frame in filtered(sources(), choose):
            for _ in range(counts.pop(0)):
                frame.pts, frame.time_base = n_frames, 1 / rate
                container.mux(stream.encode(frame))
                n_frames += 1
        container.mux(stream.encode(None))
    return Picture(upright, size, n_frames)


def within(shown: Iterable[Shown[av.VideoFrame]], max_seconds: float, max_gigapixels: float) -> Iterator[Shown[av.VideoFrame]]:
    """Passes everything on until it has lasted for too long or been too much work, then raises BadInput."""
    origin: Fraction | None = None
    pixels = 0
    for item in shown:
        pixels += max(item.frame.width * item.frame.height, FRAME_PIXELS)
        if pixels > max_gigapixels * 1e9:
            raise BadInput(f"is footage of more than {max_gigapixels:g} gigapixels in all; scale it down, cut it, or raise ingest.max_gigapixels")
        origin = item.start if origin is None else origin
        if item.start + item.duration - origin > max_seconds:
            raise BadInput(f"is footage of more than {max_seconds:g} s; cut it, or raise ingest.max_seconds")
        yield item


def turned(frame: av.VideoFrame) -> Filters:
    """The filters that set a frame upright as its file demands."""
    matrix = frame.side_data.get(SideData.DISPLAYMATRIX)
    if matrix is None:
        return ()
    numbers = np.frombuffer(bytes(matrix), np.int32)
    filters = turn(numbers.tolist())
    if filters is None:
        log.warning("a display matrix that is no quarter turn is ignored: %s", numbers.tolist())
        return ()
    return filters
