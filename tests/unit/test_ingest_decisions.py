"""The pure functions of ingest: constant frame rate, sizes, rotation and the boxes of speakers."""

from contextlib import suppress
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infinitedub.stages.errors import BadInput
from infinitedub.stages.ingest.frame_timing import TimedFrame, to_constant_rate
from infinitedub.stages.ingest.geometry import check_size, fit_size, rotation_filters, swaps_sides, upright_size
from infinitedub.stages.ingest.speaker_boxes import check_boxes, scale_box
from infinitedub.stages.records import Box


def visible_frames(starts: list[Fraction], last_duration: Fraction, fps: int = 25) -> list[int]:
    """The number of the source frame that each output frame shows."""
    ends = [*starts[1:], starts[-1] + last_duration]
    items = [TimedFrame(start, end - start, number) for number, (start, end) in enumerate(zip(starts, ends, strict=True))]
    return [number for number, count in to_constant_rate(items, Fraction(fps)) for _ in range(count)]


def visible_at_constant_rate(rate: Fraction | int, frames: int, offset: Fraction = Fraction(0)) -> list[int]:
    return visible_frames([offset + number / Fraction(rate) for number in range(frames)], 1 / Fraction(rate))


@pytest.mark.parametrize("offset", [Fraction(0), Fraction(7, 5), Fraction(-1, 3)])
def test_the_output_rate_passes_unchanged_at_any_time_offset(offset: Fraction) -> None:
    assert visible_at_constant_rate(25, 40, offset) == list(range(40))


def test_common_rates() -> None:
    assert visible_at_constant_rate(50, 8) == [0, 2, 4, 6]
    assert visible_at_constant_rate(30, 12) == [0, 1, 2, 4, 5, 6, 7, 8, 10, 11]
    assert visible_at_constant_rate(Fraction(25, 2), 3) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), 24, Fraction(30000, 1001), 30, 48, 50, Fraction(60000, 1001), 60, 10, 12])
def test_no_rate_drifts(rate: Fraction | int) -> None:
    """After ten minutes each frame is still within half an output frame of its time, and the output is as long as the footage."""
    seconds = 600
    frames = visible_at_constant_rate(rate, round(seconds * rate))
    assert abs(len(frames) - seconds * 25) <= 1
    for index, number in enumerate(frames):
        start, stop = number / Fraction(rate), (number + 1) / Fraction(rate)
        assert start - Fraction(1, 50) <= Fraction(index, 25) < stop + Fraction(1, 50)


@pytest.mark.parametrize("rate", [10, Fraction(24000, 1001), 30, Fraction(30000, 1001), 50, 60])
def test_the_same_frames_as_ffmpegs_fps_filter(rate: Fraction | int) -> None:
    graph = av.filter.Graph()
    source = graph.add("buffer", video_size="16x16", pix_fmt="gray", time_base=str(1 / Fraction(rate)), pixel_aspect="1/1")
    graph.link_nodes(source, graph.add("fps", "25"), graph.add("buffersink")).configure()
    for number in range(100):
        frame = av.VideoFrame.from_ndarray(np.full((16, 16), number, np.uint8), format="gray")
        frame.pts, frame.time_base, frame.duration = number, 1 / Fraction(rate), 1
        graph.push(frame)
    graph.push(None)
    chosen = []
    with suppress(av.error.EOFError):
        while True:
            chosen.append(int(graph.vpull().to_ndarray()[0, 0]))
    assert visible_at_constant_rate(rate, 100) == chosen


@given(st.lists(st.integers(1, 400), min_size=1, max_size=60), st.sampled_from([24, 25, 30]))
def test_any_time_stamps_keep_length_and_order(milliseconds: list[int], fps: int) -> None:
    starts = [Fraction(sum(milliseconds[:number]), 1000) for number in range(len(milliseconds))]
    frames = visible_frames(starts, Fraction(milliseconds[-1], 1000), fps)
    assert frames == sorted(frames)
    assert abs(len(frames) - Fraction(sum(milliseconds), 1000) * fps) <= Fraction(1, 2) or len(frames) == 1
    for index, number in enumerate(frames[:-1]):
        assert starts[number] <= Fraction(2 * index + 1, 2 * fps)


def test_jitter_below_half_a_frame_neither_repeats_nor_loses_a_frame() -> None:
    rng = np.random.default_rng(0)
    starts = [Fraction(number, 25) + Fraction(int(rng.integers(-18, 19)) if number else 0, 1000) for number in range(100)]
    assert visible_frames(starts, Fraction(1, 25)) == list(range(100))


def test_time_stamps_that_run_backwards_lose_frames_but_keep_the_order() -> None:
    frames = visible_frames([Fraction(0), Fraction(4, 25), Fraction(1, 25), Fraction(6, 25)], Fraction(1, 25))
    assert frames == [0, 0, 0, 0, 2, 2, 3]


def test_the_output_ends_when_the_last_frame_to_be_shown_ends() -> None:
    timed_frames = [TimedFrame(Fraction(0), Fraction(4, 25), 0), TimedFrame(Fraction(1, 25), Fraction(1, 25), 1)]
    assert list(to_constant_rate(timed_frames, Fraction(25))) == [(0, 1), (1, 3)]


def test_a_single_short_frame_is_a_film_of_one_frame() -> None:
    assert visible_frames([Fraction(3)], Fraction(1, 1000)) == [0]


def test_no_frames_give_no_frames() -> None:
    assert list(to_constant_rate([], Fraction(25))) == []


@pytest.mark.parametrize(
    ("size", "longest", "even", "wanted"),
    [
        ((640, 272), 1920, True, (640, 272)),
        ((641, 273), 1920, True, (640, 272)),
        ((641, 273), 1920, False, (641, 273)),
        ((3840, 2160), 1920, True, (1920, 1080)),
        ((1080, 3840), 1920, True, (540, 1920)),
        ((4000, 3), 1000, True, (1000, 2)),
    ],
)
def test_fit_size(size: tuple[int, int], longest: int, even: bool, wanted: tuple[int, int]) -> None:
    assert fit_size(size, longest, even=even) == wanted


def test_pixels_are_made_square_before_the_picture_is_rotated() -> None:
    assert upright_size((720, 576), Fraction(64, 45), sides_swapped=False) == (1024, 576)
    assert upright_size((720, 576), Fraction(64, 45), sides_swapped=True) == (576, 1024)


def test_a_display_matrix_is_read_by_its_signs() -> None:
    assert rotation_filters([65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30]) == ()
    assert swaps_sides(rotation_filters([0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30]) or ())
    assert rotation_filters([46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30]) is None


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([Box(10, 10, 10, 20)], "box 1 is .* empty"),
        ([Box(20, 10, 10, 20)], "box 1 is .* empty"),
        ([Box(0, 0, 101, 50)], "box 1 .* 100x50 px"),
        ([Box(0, 0, 10, 10), Box(-1, 0, 10, 10)], "box 2 .* 100x50 px"),
        ([Box(0, 0, 50, 50), Box(10, 10, 20, 20)], "entirely inside"),
        ([Box(10, 10, 20, 20), Box(0, 0, 50, 50)], "entirely inside"),
        ([Box(0, 0, 50, 50), Box(0, 0, 50, 50)], "entirely inside"),
        ([Box(0, 0, 50, 50), None], "box 2 is missing"),
    ],
)
def test_invalid_boxes_are_refused(boxes: list[Box | None], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check_boxes(boxes, (100, 50))


def test_valid_boxes_pass() -> None:
    check_boxes([Box(0, 0, 100, 50)], (100, 50))
    check_boxes([Box(0, 0, 60, 50), Box(40, 0, 100, 50)], (100, 50))
    check_boxes([None, None], (100, 50))


def test_a_box_is_scaled_with_its_picture_but_never_empty() -> None:
    assert scale_box(Box(100, 200, 300, 400), (2000, 1000), (1000, 500)) == Box(50, 100, 150, 200)
    assert scale_box(Box(1999, 999, 2000, 1000), (2000, 1000), (100, 50)) == Box(99, 49, 100, 50)


def test_sizes_out_of_bounds_are_refused() -> None:
    check_size((100, 100), 10000, 100)
    with pytest.raises(BadInput, match=r"100x101 px.*10000"):
        check_size((100, 101), 10000, 32)
    with pytest.raises(BadInput, match=r"1x1 px.*32"):
        check_size((1, 1), 10000, 32)
