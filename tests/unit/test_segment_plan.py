"""Lengths, cuts and windows, with properties over random films."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from infinitedub.stages.errors import BadInput
from infinitedub.stages.records import Artifact, Length, Source, Span, Voice
from infinitedub.stages.segment.plan import film_frames, join_flashes, plan_segments, plan_windows, source_frame
from infinitedub.stages.segment.settings import SegmentSettings

NOTHING = Artifact("file:///nothing", "0" * 64, 0, "footage/mp4")


def material(*, moving: bool, n_frames: int, fps: float, n_samples: int, start_sample: int = 0) -> Source:
    voice = Voice(NOTHING, 16000, n_samples, start_sample, None)
    return Source(NOTHING, moving, 64, 48, fps, n_frames, (voice,))


def photograph(seconds: float, fps: float = 25.0) -> Source:
    return material(moving=False, n_frames=1, fps=fps, n_samples=round(seconds * 16000))


def footage(n_frames: int, speech_seconds: float, fps: float = 25.0) -> Source:
    return material(moving=True, n_frames=n_frames, fps=fps, n_samples=round(speech_seconds * 16000))


# -- how long -----------------------------------------------------------------------------------------------------------


def test_a_photograph_lasts_as_long_as_the_speech() -> None:
    assert film_frames(photograph(2.0), None) == 50
    assert film_frames(photograph(2.0), Length.AUDIO) == film_frames(photograph(2.0), Length.SHORTEST) == 50
    assert film_frames(photograph(0.04), None) == film_frames(photograph(0.001), None) == 1
    assert film_frames(photograph(2.019), None) == 50  # nearest frame
    assert film_frames(photograph(2.021), None) == 51


def test_a_photograph_has_no_length_of_its_own() -> None:
    with pytest.raises(BadInput, match="length=audio"):
        film_frames(photograph(2.0), Length.VIDEO)


def test_footage_keeps_its_length_by_default() -> None:
    assert film_frames(footage(100, 2.0), None) == film_frames(footage(100, 2.0), Length.VIDEO) == 100
    assert film_frames(footage(100, 2.0), Length.AUDIO) == film_frames(footage(100, 2.0), Length.SHORTEST) == 50
    assert film_frames(footage(40, 2.0), Length.AUDIO) == 50
    assert film_frames(footage(40, 2.0), Length.SHORTEST) == 40


def test_speech_that_outlasts_footage_is_never_cut_silently() -> None:
    assert film_frames(footage(49, 2.0), Length.VIDEO) == 49  # within a frame
    with pytest.raises(BadInput, match=r"2\.00 s.*1\.92 s.*length=audio.*length=shortest.*shorter speech"):
        film_frames(footage(48, 2.0), None)


def test_a_second_voice_that_starts_later_counts_to_its_end() -> None:
    source = material(moving=False, n_frames=1, fps=25.0, n_samples=16000, start_sample=24000)
    assert film_frames(source, None) == 63  # 2.5 s, 62.5 frames


def test_without_speech_only_footage_gives_a_length() -> None:
    moving, still = (replace(source, voices=()) for source in (footage(100, 2.0), photograph(2.0)))
    assert film_frames(moving, None) == film_frames(moving, Length.VIDEO) == 100
    for source, length in ((moving, Length.AUDIO), (moving, Length.SHORTEST), (still, None), (still, Length.AUDIO), (still, Length.VIDEO)):
        with pytest.raises(BadInput, match="the row names no speech"):
            film_frames(source, length)


@settings(deadline=None)
@given(
    fps=st.sampled_from([8.0, 16.0, 23.976, 24.0, 25.0, 29.97, 30.0]),
    n_samples=st.integers(1, 16000 * 7200),
    n_frames=st.integers(1, 200_000),
)
def test_every_length_policy_is_exact_to_one_frame(fps: float, n_samples: int, n_frames: int) -> None:
    still = material(moving=False, n_frames=1, fps=fps, n_samples=n_samples)
    moving = material(moving=True, n_frames=n_frames, fps=fps, n_samples=n_samples)
    speech = n_samples / 16000 * fps
    assert abs(film_frames(still, None) - speech) <= max(0.5, 1 - speech)
    assert film_frames(moving, Length.AUDIO) == film_frames(still, None)
    assert film_frames(moving, Length.SHORTEST) == min(n_frames, film_frames(still, None))
    if speech > n_frames + 1:
        with pytest.raises(BadInput):
            film_frames(moving, None)
    else:
        assert film_frames(moving, None) == n_frames


# -- which source frame -------------------------------------------------------------------------------------------------


def test_what_footage_shows_after_its_end() -> None:
    assert [source_frame(f, 4, "hold") for f in range(8)] == [0, 1, 2, 3, 3, 3, 3, 3]
    assert [source_frame(f, 4, "bounce") for f in range(10)] == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3]
    assert [source_frame(f, 1, "bounce") for f in range(3)] == [0, 0, 0]


@settings(deadline=None)
@given(n_source=st.integers(1, 50), frames=st.integers(1, 300))
def test_bounced_footage_never_jumps(n_source: int, frames: int) -> None:
    shown = [source_frame(f, n_source, "bounce") for f in range(frames)]
    assert all(0 <= frame < n_source for frame in shown)
    assert all(abs(a - b) == (n_source > 1) for a, b in pairwise(shown))


# -- cuts ---------------------------------------------------------------------------------------------------------------


def test_a_flash_is_joined_to_the_shot_before_it() -> None:
    assert join_flashes([10, 12, 30], 50, 4) == (12, 30)  # 10 and 11 are the flash: no shot of their own, and no start of one
    assert join_flashes([10, 12, 30], 50, 2) == (10, 12, 30)
    assert join_flashes([10, 48], 50, 4) == (10,)  # a flash at the end
    assert join_flashes([2, 30], 50, 4) == (2, 30)  # nothing before the first shot
    assert join_flashes([30, 10, 10, 0, 50, 70], 50, 4) == (10, 30)


# -- windows ------------------------------------------------------------------------------------------------------------


def test_windows_of_fifty_frames() -> None:
    windows = plan_windows(Span(0, 50), 21, 9)
    assert [w[0].start for w in windows] == [0, 12, 24, 36]
    assert [w[1] for w in windows] == [0, 9, 9, 9]
    assert [w[2] for w in windows] == [0, 0, 0, 7]


def test_windows_that_fit_are_not_padded() -> None:
    assert plan_windows(Span(0, 45), 21, 9) == ((Span(0, 21), 0, 0), (Span(12, 33), 9, 0), (Span(24, 45), 9, 0))
    assert plan_windows(Span(100, 121), 21, 9) == ((Span(100, 121), 0, 0),)
    assert plan_windows(Span(100, 103), 21, 9) == ((Span(100, 103), 0, 18),)


sizes = st.integers(1, 25).flatmap(lambda n: st.tuples(st.just(4 * n + 1), st.integers(0, n - 1).map(lambda m: 4 * m + 1)))


@settings(deadline=None)
@given(
    n_frames=st.integers(1, 600),
    n_source=st.integers(1, 400),
    cuts=st.sets(st.integers(1, 399), max_size=12),
    size=sizes,
    extend=st.sampled_from(["hold", "bounce"]),
)
def test_every_film_is_covered_once_and_no_window_crosses_a_cut(
    n_frames: int, n_source: int, cuts: set[int], size: tuple[int, int], extend: str
) -> None:
    window_frames, overlap_frames = size
    kept = join_flashes(cuts, n_source, 1)
    segments = plan_segments(n_frames, n_source, kept, window_frames=window_frames, overlap_frames=overlap_frames, extend=extend)
    assert [segment.index for segment in segments] == list(range(len(segments)))
    assert [frame for s in segments for frame in range(s.span.start, s.span.stop)] == list(range(n_frames))
    assert [f for s in segments for w in s.windows for f in range(w.fresh.start, w.fresh.stop)] == list(range(n_frames))
    for segment in segments:
        shots = {sum(cut <= source_frame(f, n_source, extend) for cut in kept) for f in range(segment.span.start, segment.span.stop)}
        assert len(shots) == 1
        assert segment.windows[0].overlap_frames == 0
        for before, window in pairwise(segment.windows):
            assert window.overlap_frames == overlap_frames
            assert before.pad_frames == 0
            assert window.span.start == before.span.stop - overlap_frames
        for window in segment.windows:
            assert window.span.frames + window.pad_frames == window_frames
            assert window.fresh.frames > 0
            assert segment.span.start <= window.span.start < window.span.stop <= segment.span.stop
            assert window.reference_frame == source_frame(window.span.start, n_source, extend)


def test_shots_are_mirrored_with_the_footage() -> None:
    segments = plan_segments(36, 20, (5,), window_frames=9, overlap_frames=1, extend="bounce")
    # 0..4 | 5..19, back 18..5 | 4..0 1..2
    assert [segment.span for segment in segments] == [Span(0, 5), Span(5, 34), Span(34, 36)]
    assert segments[2].windows[0].reference_frame == 4


def test_held_footage_continues_its_last_shot() -> None:
    segments = plan_segments(36, 20, (5,), window_frames=9, overlap_frames=1, extend="hold")
    assert [segment.span for segment in segments] == [Span(0, 5), Span(5, 36)]
    assert [window.reference_frame for window in segments[1].windows] == [5, 13, 19, 19]


def test_an_hour_of_photograph_is_one_segment_of_1250_windows() -> None:
    (segment,) = plan_segments(25 * 3600, 1, (), window_frames=81, overlap_frames=9, extend="hold")
    assert segment.span == Span(0, 90_000)
    assert len(segment.windows) == 1250
    assert {window.reference_frame for window in segment.windows} == {0}


# -- settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"window_frames": 80}, "window_frames is 80.*take 77 or 81"),
        ({"motion_frames": 8}, "motion_frames is 8.*take 5 or 9"),
        ({"motion_frames": 81}, "leaves nothing new"),
        ({"detector": "histogram"}, "adaptive"),
    ],
)
def test_impossible_settings_are_refused(changed: dict[str, object], message: str) -> None:
    values = {
        "window_frames": 81,
        "motion_frames": 9,
        "detector": "adaptive",
        "min_change": 15.0,
        "min_ratio": 3.0,
        "min_shot_frames": 4,
        "extend": "hold",
    }
    SegmentSettings.model_validate(values)
    with pytest.raises(ValidationError, match=message):
        SegmentSettings.model_validate(values | changed)
