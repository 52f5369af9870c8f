"""Decides the length of the film, its cuts and its windows, from numbers alone.

A film frame shows a source frame (`source_frame`). A segment is a run of film frames within one shot. A window is a part of a segment.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import floor

from infinitedub.stages.errors import BadInput
from infinitedub.stages.records import Length, Segment, Source, Span, Window


def film_frames(source: Source, length: Length | None) -> int:
    """Frames of the film: the number nearest to the end of the speech, or that of the footage; at least one.

    Under `video` speech may outlast footage by up to one frame; that remainder of the sound is cut off.
    Raises BadInput if speech and footage cannot both be kept whole.
    """
    rule = length or (Length.VIDEO if source.moving else Length.AUDIO)
    if not source.voices and (rule is not Length.VIDEO or not source.moving):
        kind = "footage" if source.moving else "a photograph"
        raise BadInput(f"the row names no speech, so length={rule} of {kind} gives no length; name speech, or dub footage with length=video")
    speech_frames = max(1, floor(source.speech_seconds * source.fps + 0.5))
    if not source.moving:
        if rule == Length.VIDEO:
            raise BadInput("length=video was given for a photograph, which has no length of its own; use length=audio or leave it out")
        return speech_frames
    if rule == Length.AUDIO:
        return speech_frames
    if rule == Length.SHORTEST:
        return min(speech_frames, source.n_frames)
    if source.speech_seconds * source.fps > source.n_frames + 1:
        raise BadInput(
            f"the speech ends at {source.speech_seconds:.2f} s but the footage at {source.n_frames / source.fps:.2f} s, and length=video keeps "
            "the footage's length; choose length=audio (the footage is extended), length=shortest (the speech is cut) or give shorter speech"
        )
    return source.n_frames


def source_frame(frame: int, n_source: int, extend: str) -> int:
    """The frame of the source that film frame `frame` shows. `extend` decides what follows the source's last frame.

    hold: 0 1 2 3 3 3 3 ...   bounce: 0 1 2 3 2 1 0 1 ... (the turning frames are shown once)
    """
    if frame < n_source:
        return frame
    if extend == "hold" or n_source == 1:
        return n_source - 1
    period = 2 * (n_source - 1)
    phase = frame % period
    return min(phase, period - phase)


def join_flashes(cuts: Iterable[int], n_frames: int, min_shot_frames: int) -> tuple[int, ...]:
    """The cuts that remain when each shot shorter than `min_shot_frames` is joined to the shot before it; the first shot is never joined.

    A cut is the number of the first frame of a shot. A flash is joined to the earlier shot because a window is conditioned on its first frame.
    """
    ordered = sorted({cut for cut in cuts if 0 < cut < n_frames})
    return tuple(cut for cut, stop in pairwise([*ordered, n_frames]) if stop - cut >= min_shot_frames)


def plan_windows(span: Span, window_frames: int, overlap_frames: int) -> tuple[tuple[Span, int, int], ...]:
    """(span, overlap_frames, pad_frames) of each window of a segment, in order.

    Each window is `window_frames` long counting its padding and starts `window_frames - overlap_frames` after the one before; the last is
    the first to reach the end. 50 frames in windows of 21 that share 9 start at 0, 12, 24 and 36, the last padded by 7.
    """
    windows = []
    start, overlap = span.start, 0
    while True:
        stop = min(start + window_frames, span.stop)
        windows.append((Span(start, stop), overlap, start + window_frames - stop))
        if stop == span.stop:
            return tuple(windows)
        start, overlap = stop - overlap_frames, overlap_frames


def plan_segments(n_frames: int, n_source: int, cuts: Sequence[int], *, window_frames: int, overlap_frames: int, extend: str) -> tuple[Segment, ...]:
    """The film's segments in order, without gaps: a cut is between two neighbouring frames from different shots of the source.

    `cuts` are the first frames of the source's later shots, in order. When bounced footage reverses, the shot continues.
    """
    shown = [source_frame(frame, n_source, extend) for frame in range(n_frames)]
    shots = [bisect_right(cuts, frame) for frame in shown]
    starts = [0, *(frame for frame in range(1, n_frames) if shots[frame] != shots[frame - 1])]
    spans = [Span(start, stop) for start, stop in pairwise([*starts, n_frames])]
    return tuple(
        Segment(index, span, tuple(Window(*window, shown[window[0].start]) for window in plan_windows(span, window_frames, overlap_frames)))
        for index, span in enumerate(spans)
    )
