"""Normalises footage of any format: upright, square pixels, a constant frame rate, and frames that can be reached quickly."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from logging import getLogger
from pathlib import Path

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData

from infinitedub.stages.errors import BadInput
from infinitedub.stages.ingest.color_space import complete_color_tags, scale_arguments
from infinitedub.stages.ingest.filter_graph import Filters, apply_filters
from infinitedub.stages.ingest.frame_timing import TimedFrame, to_constant_rate
from infinitedub.stages.ingest.geometry import (
    PIXEL_ASPECT_RANGE,
    NormalizedPicture,
    check_size,
    fit_size,
    rotation_filters,
    swaps_sides,
    upright_size,
)
from infinitedub.stages.ingest.media_decoder import StreamDecoder, open_media, video_stream
from infinitedub.stages.ingest.settings import IngestSettings
from infinitedub.stages.media.encode import add_footage_video, exact_rate, open_output

log = getLogger(__name__)

MIN_FRAME_PIXELS = 1 << 16  # a smaller frame costs as much work as one with this many pixels
INTERLACED = frozenset({2, 3, 4, 5})  # FFmpeg's AV_FIELD_TT, BB, TB, BT


def normalize_footage(path: Path, target: Path, settings: IngestSettings) -> NormalizedPicture:
    """Writes footage of a user as H.264 in MP4. Raises BadInput if it has no video, or is too large, too long or cut short."""
    with open_media(path, settings.max_pixels) as container:
        stream = video_stream(container, settings.max_pixels)
        stream.thread_type = "AUTO"
        check_size((stream.codec_context.width, stream.codec_context.height), settings.max_pixels, settings.min_side_px)
        pixel_aspect = Fraction(stream.sample_aspect_ratio or 1)
        if not PIXEL_ASPECT_RANGE[0] <= pixel_aspect <= PIXEL_ASPECT_RANGE[1]:
            log.warning("%s: the pixel aspect ratio %s is implausible; pixels are treated as square", path.name, pixel_aspect)
            pixel_aspect = Fraction(1)
        decoder = StreamDecoder(container, stream)
        default_duration = 1 / Fraction(stream.average_rate or exact_rate(settings.fps))
        frames = deinterlace(decoder, stream.codec_context.field_order in INTERLACED)
        picture = write_footage(add_times(frames, default_duration), pixel_aspect, target, settings)
        decoder.check_complete(picture.n_frames / exact_rate(settings.fps), settings.min_decoded_fraction)
    return picture


def deinterlace(frames: Iterable[av.VideoFrame], interlaced: bool) -> Iterator[av.VideoFrame]:
    """The frames, deinterlaced if the stream or its first frame is marked as interlaced."""
    remaining = iter(frames)
    first = next(remaining, None)
    if first is None:
        return
    all_frames = chain([first], remaining)
    if interlaced or first.interlaced_frame:
        yield from apply_filters(all_frames, lambda frame: (("bwdif", "mode=send_frame"),))
    else:
        yield from all_frames


def add_times(frames: Iterable[av.VideoFrame], default_duration: Fraction) -> Iterator[TimedFrame[av.VideoFrame]]:
    """The frames with their display times; a frame without a duration in the file lasts `default_duration` seconds."""
    end = Fraction(0)
    for frame in frames:
        time_base = Fraction(frame.time_base or default_duration)
        start = end if frame.pts is None else frame.pts * time_base
        duration = frame.duration * time_base if frame.duration else default_duration
        end = start + duration
        yield TimedFrame(start, duration, frame)


def write_footage(
    timed_frames: Iterable[TimedFrame[av.VideoFrame]], pixel_aspect: Fraction, target: Path, settings: IngestSettings
) -> NormalizedPicture:
    """Writes timed frames as normalised footage; `pixel_aspect` is the ratio of width to height of a stored pixel."""
    rate = exact_rate(settings.fps)
    remaining = to_constant_rate(limit_work(timed_frames, settings.max_seconds, settings.max_gigapixels), rate)
    head = next(remaining, None)
    if head is None:
        raise BadInput("holds a video of which no frame could be decoded; supply an undamaged file")
    first: av.VideoFrame = head[0]
    rotation = frame_rotation(first)
    upright = upright_size((first.width, first.height), pixel_aspect, swaps_sides(rotation))
    check_size(upright, upright[0] * upright[1], settings.min_side_px)  # as displayed, which may be narrower than as stored
    final_size = fit_size(upright, settings.max_side_px, even=True)
    scaled_size = fit_size(upright, settings.max_side_px, even=False)
    # The sizes before the rotation, which comes last.
    crop_width, crop_height = final_size[::-1] if swaps_sides(rotation) else final_size
    scale_width, scale_height = scaled_size[::-1] if swaps_sides(rotation) else scaled_size
    repeats: list[int] = []  # how often to write each frame that is inside the filters

    def tagged_frames() -> Iterator[av.VideoFrame]:
        for frame, count in chain([head], remaining):
            check_size((frame.width, frame.height), settings.max_pixels, settings.min_side_px)
            repeats.append(count)
            yield complete_color_tags(frame)

    def choose_filters(frame: av.VideoFrame) -> Filters:
        # An odd row or column is cropped; scaling it away would blur the whole picture.
        scale = scale_arguments(frame, max(scale_width, crop_width), max(scale_height, crop_height))
        return (("scale", scale), ("format", "yuv420p"), ("crop", f"{crop_width}:{crop_height}:0:0"), *rotation)

    n_frames = 0
    with open_output(target, "mp4") as container:
        stream = add_footage_video(container, rate, final_size, settings.crf, settings.gop_frames)
        for frame in apply_filters(tagged_frames(), choose_filters):
            for _ in range(repeats.pop(0)):
                frame.pts, frame.time_base = n_frames, 1 / rate
                container.mux(stream.encode(frame))
                n_frames += 1
        container.mux(stream.encode(None))
    return NormalizedPicture(upright, final_size, n_frames)


def limit_work(timed_frames: Iterable[TimedFrame[av.VideoFrame]], max_seconds: float, max_gigapixels: float) -> Iterator[TimedFrame[av.VideoFrame]]:
    """Passes the frames on. Raises BadInput when they exceed `max_seconds` or, summed over all frames, `max_gigapixels`."""
    origin: Fraction | None = None
    pixels = 0
    for timed in timed_frames:
        pixels += max(timed.frame.width * timed.frame.height, MIN_FRAME_PIXELS)
        if pixels > max_gigapixels * 1e9:
            raise BadInput(f"is footage of more than {max_gigapixels:g} gigapixels in all; scale it down, cut it, or raise ingest.max_gigapixels")
        origin = timed.start if origin is None else origin
        if timed.start + timed.duration - origin > max_seconds:
            raise BadInput(f"is footage of more than {max_seconds:g} s; cut it, or raise ingest.max_seconds")
        yield timed


def frame_rotation(frame: av.VideoFrame) -> Filters:
    """The filters that turn a frame upright, according to the display matrix of its file."""
    matrix = frame.side_data.get(SideData.DISPLAYMATRIX)
    if matrix is None:
        return ()
    numbers = np.frombuffer(bytes(matrix), np.int32)
    filters = rotation_filters(numbers.tolist())
    if filters is None:
        log.warning("a display matrix that is not a multiple of a quarter turn is ignored: %s", numbers.tolist())
        return ()
    return filters
