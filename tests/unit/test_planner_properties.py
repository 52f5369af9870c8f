"""From footage of any rate and speech of any length to windows and samples: nothing is lost, doubled or shared between shots.

`test_segment_plan.py` and `test_ingest_decisions.py` look at each decision alone; here they follow each other as in a run.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from infinitedub.stages.assemble.soundtrack import BLOCK_SAMPLES, pad_to_film
from infinitedub.stages.errors import BadInput
from infinitedub.stages.ingest.frame_timing import TimedFrame, output_frame_number, to_constant_rate
from infinitedub.stages.listen.frame_alignment import FRAME_RATE, align_to_frames
from infinitedub.stages.media.encode import exact_rate
from infinitedub.stages.model.speech_encoder import FRAME_SAMPLES, SAMPLE_RATE
from infinitedub.stages.records import Artifact, Length, Segment, Source, Span, Voice
from infinitedub.stages.segment.plan import film_frames, join_flashes, plan_segments

RATES = [Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(50), Fraction(60000, 1001), Fraction(60)]
MODEL_FPS = [25.0, 23.976, 24.0, 16.0, 29.97, 30.0, 50.0, 60.0]
SAMPLE_RATES = [8000, 11025, 16000, 22050, 44100, 48000, 96000]
NOTHING = Artifact("file:///nothing", "0" * 64, 0, "footage/mp4")

seconds = st.floats(0.2, 20) | st.floats(0.2, 400)  # two hours are looked at one by one, since they take a while
windows = st.sampled_from([(81, 9), (33, 9), (21, 9), (9, 5), (5, 1), (1, 0)]) | st.integers(2, 24).flatmap(
    lambda n: st.tuples(st.just(4 * n + 1), st.integers(0, n - 1).map(lambda m: 4 * m + 1))
)


# -- time: which frame of the footage is on the screen --------------------------------------------------------------------


def steady(rate: Fraction, duration: float, offset: Fraction) -> list[TimedFrame[int]]:
    return [TimedFrame(offset + n / rate, 1 / rate, n) for n in range(max(1, round(duration * rate)))]


def unsteady(lengths: list[Fraction], offset: Fraction) -> list[TimedFrame[int]]:
    """Variable frame rate: each frame is shown until the next one is."""
    starts = [Fraction(0), *accumulate(lengths)]
    return [TimedFrame(offset + start, length, n) for n, (start, length) in enumerate(zip(starts, lengths, strict=False))]


offsets = st.fractions(-10, 3600, max_denominator=90000)
footage = st.builds(steady, st.sampled_from(RATES), st.floats(0.2, 4), offsets) | st.builds(
    unsteady, st.lists(st.fractions(Fraction(1, 1000), 60, max_denominator=90000), min_size=1, max_size=80), offsets
)


@given(shown=footage, fps=st.sampled_from(MODEL_FPS))
def test_every_output_frame_shows_what_the_footage_shows_then(shown: list[TimedFrame[int]], fps: float) -> None:
    """Frames add up to the footage's duration; each is the one on the screen within half an output frame; none comes out of order."""
    rate = exact_rate(fps)
    origin, end = shown[0].start, shown[-1].start + shown[-1].duration
    counted = list(to_constant_rate(shown, rate))
    assert all(count > 0 for _, count in counted)
    assert all(a < b for (a, _), (b, _) in pairwise(counted))
    total = sum(count for _, count in counted)
    assert total == max(1, output_frame_number(end - origin, rate))
    assert abs(total - (end - origin) * rate) <= Fraction(1, 2) or total == 1
    number = 0
    for frame, count in counted:
        assert shown[frame].start - origin <= (number + Fraction(1, 2)) / rate
        number += count
        assert number == total or shown[frame].start + shown[frame].duration - origin > (number - 1 - Fraction(1, 2)) / rate


def test_decimal_rates_are_those_of_television() -> None:
    assert [exact_rate(fps) for fps in (23.976, 29.97, 59.94)] == [Fraction(n * 1000, 1001) for n in (24, 30, 60)]
    assert [exact_rate(fps) for fps in (24, 25.0, 12.5, 16, 23.98, 0.5)] == [24, 25, Fraction(25, 2), 16, Fraction(1199, 50), Fraction(1, 2)]
    assert exact_rate(30000 / 1001) == Fraction(30000, 1001)


@pytest.mark.parametrize("rate", RATES, ids=str)
def test_two_hours_do_not_drift(rate: Fraction) -> None:
    """Checked at moments all over the two hours; the rule gives each frame its place without the frames before it."""
    last = round(7200 * rate)
    for fps in MODEL_FPS:
        begins = [output_frame_number(number / rate, exact_rate(fps)) for number in range(0, last, 977)]
        exact = [number * float(exact_rate(fps) / rate) for number in range(0, last, 977)]
        assert np.abs(np.array(begins) - np.array(exact)).max() <= 0.5 + 1e-6


# -- the plan ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Film:
    """A planned film and all that it was planned from."""

    source: Source
    length: Length | None
    cuts: tuple[int, ...]
    extend: str
    window_frames: int
    overlap_frames: int
    n_frames: int
    segments: tuple[Segment, ...]


@st.composite
def films(draw: st.DrawFn) -> Film:
    fps = draw(st.sampled_from(MODEL_FPS))
    moving = draw(st.booleans())
    n_source = max(1, output_frame_number(Fraction(draw(seconds)), exact_rate(fps))) if moving else 1
    rates = draw(st.lists(st.sampled_from(SAMPLE_RATES), min_size=1, max_size=2))
    voices: list[Voice] = []
    for rate in rates:
        begins = voices[-1].stop_seconds if voices and draw(st.booleans()) else 0
        voices.append(Voice(NOTHING, rate, max(1, round(draw(seconds) * rate)), round(begins * rate), None))
    source = Source(NOTHING, moving, 64, 48, fps, n_source, tuple(voices))
    length = draw(st.sampled_from([None, Length.AUDIO, Length.SHORTEST, Length.VIDEO]))
    # Cuts anywhere, also where none can be: before the beginning, at it, beyond the end, in wild order, next to each other.
    anywhere = st.integers(-2, n_source + 2) | st.integers(0, min(40, n_source))
    cuts = join_flashes(draw(st.lists(anywhere, max_size=12)), n_source, draw(st.sampled_from([1, 4])))
    window_frames, overlap_frames = draw(windows)
    assume(overlap_frames > 0 or window_frames > 1 or n_source < 2000)
    extend = draw(st.sampled_from(["hold", "bounce"]))
    try:
        n_frames = film_frames(source, length)
    except BadInput:
        assume(False)
    assume(n_frames / (window_frames - overlap_frames) < 20_000)
    segments = plan_segments(n_frames, n_source, cuts, window_frames=window_frames, overlap_frames=overlap_frames, extend=extend)
    return Film(source, length, cuts, extend, window_frames, overlap_frames, n_frames, segments)


def frames_shown(film: Film) -> np.ndarray:
    """For every film frame the frame of the source that it shows, by another way than the planner's."""
    frames = np.arange(film.n_frames)
    n = film.source.n_frames
    if film.extend == "hold" or n == 1:
        return np.minimum(frames, n - 1)
    phase = frames % (2 * n - 2)
    return np.where(phase < n, phase, 2 * n - 2 - phase)


def edge(frame: int, sample_rate: int, fps: float) -> int:
    """The first sample of a film frame; of the frame after the last, the length of the film's sound."""
    return round(frame / exact_rate(fps) * sample_rate)


def check_samples(film: Film) -> None:
    """Every sample belongs to one segment or to the tail, which is what speech has left when the film ends: at most half a frame
    under `audio`, a frame under `video`, whatever it is under `shortest`."""
    fps = film.source.fps
    rule = film.length or (Length.VIDEO if film.source.moving else Length.AUDIO)
    if film.source.moving and rule != Length.AUDIO:
        assert film.n_frames <= film.source.n_frames
        assert film.n_frames == film.source.n_frames or rule == Length.SHORTEST
    for voice in film.source.voices:
        edges = [edge(segment.span.start, voice.sample_rate, fps) for segment in film.segments] + [edge(film.n_frames, voice.sample_rate, fps)]
        assert edges[0] == 0
        assert all(a < b for a, b in pairwise(edges))
        frame_samples = float(voice.sample_rate / exact_rate(fps))
        tail = max(0, voice.start_sample + voice.n_samples - edges[-1])
        # One sample for rounding, and where the rate is a decimal (29.97 for 30000/1001) what it differs over two hours.
        slack = 1 + voice.sample_rate * 7200 * 2 * abs(fps / float(exact_rate(fps)) - 1)
        if rule == Length.VIDEO:
            assert tail <= frame_samples + slack
        elif rule == Length.AUDIO or film.n_frames < film.source.n_frames or not film.source.moving:
            assert tail <= frame_samples / 2 + slack


@given(film=films())
def test_every_frame_and_sample_has_one_place_and_no_window_crosses_a_cut(film: Film) -> None:
    check_frames(film)
    check_samples(film)


def check_frames(film: Film) -> None:
    shown = frames_shown(film)
    shots = np.searchsorted(np.array(film.cuts, int), shown, side="right")
    end = 0
    for index, segment in enumerate(film.segments):
        assert segment.index == index
        assert segment.span.start == end
        assert segment.span.frames > 0
        end = segment.span.stop
        assert len(set(shots[segment.span.start : segment.span.stop].tolist())) == 1
        made = segment.span.start
        for number, window in enumerate(segment.windows):
            assert window.fresh.start == made
            assert window.fresh.frames > 0
            made = window.fresh.stop
            assert segment.span.start <= window.span.start
            assert window.span.frames + window.pad_frames == film.window_frames
            assert (window.span.frames + window.pad_frames) % 4 == 1
            assert 0 <= window.pad_frames < film.window_frames
            assert window.overlap_frames == (film.overlap_frames if number else 0)
            assert window.reference_frame == shown[window.span.start]
        assert made == segment.span.stop
        for before, after in pairwise(segment.windows):
            # What the second is told of the first are the first's own last frames: all real ones, none of padding.
            assert before.pad_frames == 0
            assert Span(after.span.start, after.fresh.start) == Span(before.span.stop - film.overlap_frames, before.span.stop)
    assert end == film.n_frames
    assert all(shots[segment.span.start] != shots[segment.span.start - 1] for segment in film.segments[1:])  # cut nowhere without need


@pytest.mark.parametrize("fps", MODEL_FPS)
@pytest.mark.parametrize("extend", ["hold", "bounce"])
def test_two_hours_of_speech_over_a_minute_of_footage(fps: float, extend: str) -> None:
    voice = Voice(NOTHING, 48000, 7200 * 48000, 0, None)
    source = Source(NOTHING, True, 64, 48, fps, output_frame_number(Fraction(60), exact_rate(fps)), (voice,))
    n_frames = film_frames(source, Length.AUDIO)
    cuts = (100, 101, 700)
    segments = plan_segments(n_frames, source.n_frames, cuts, window_frames=81, overlap_frames=9, extend=extend)
    film = Film(source, Length.AUDIO, cuts, extend, 81, 9, n_frames, segments)
    check_frames(film)
    check_samples(film)


def test_two_hours_at_a_variable_rate_with_cuts_anywhere() -> None:
    """All the way from the frames of a telephone to windows and samples."""
    chance = random.Random(0)
    lengths = [Fraction(chance.randrange(1500, 9000), 90000) for _ in range(123_500)]  # 1/60 to 1/10 s each
    duration = sum(lengths, Fraction(0))
    assert abs(duration - 7200) < 60
    n_source = sum(count for _, count in to_constant_rate(unsteady(lengths, Fraction(3, 7)), Fraction(25)))
    assert abs(n_source - duration * 25) <= Fraction(1, 2)
    voice = Voice(NOTHING, 48000, round(duration * 48000), 0, None)
    source = Source(NOTHING, True, 64, 48, 25.0, n_source, (voice,))
    cuts = join_flashes(chance.sample(range(n_source), 2000), n_source, 4)
    segments = plan_segments(film_frames(source, None), n_source, cuts, window_frames=81, overlap_frames=9, extend="hold")
    film = Film(source, None, cuts, "hold", 81, 9, film_frames(source, None), segments)
    assert len(segments) == len(cuts) + 1 > 1500
    check_frames(film)
    check_samples(film)


# -- sound ------------------------------------------------------------------------------------------------------------


@given(
    n_samples=st.integers(1, 3 * BLOCK_SAMPLES),
    start=st.integers(0, 2 * BLOCK_SAMPLES),
    total=st.integers(1, 4 * BLOCK_SAMPLES),
    pieces=st.lists(st.integers(1, BLOCK_SAMPLES), max_size=6),
)
@example(n_samples=1, start=0, total=1, pieces=[])
@example(n_samples=BLOCK_SAMPLES, start=BLOCK_SAMPLES, total=2 * BLOCK_SAMPLES, pieces=[])
def test_a_voice_lies_on_the_film_sample_for_sample(n_samples: int, start: int, total: int, pieces: list[int]) -> None:
    sound = np.arange(1, n_samples + 1, dtype=np.int32)[None]

    def blocks() -> Iterator[np.ndarray]:
        edges = [0, *(cut for cut in accumulate(pieces) if cut < n_samples), n_samples]
        yield from (sound[:, a:b] for a, b in pairwise(edges))

    track = np.concatenate(list(pad_to_film(blocks(), 1, start, total)), axis=1)
    wanted = np.zeros((1, total), np.int32)
    heard = min(n_samples, max(0, total - start))
    wanted[:, start : start + heard] = sound[:, :heard]
    assert np.array_equal(track, wanted)


@given(first=st.sampled_from(SAMPLE_RATES), second=st.sampled_from(SAMPLE_RATES), lengths=st.tuples(seconds, seconds))
def test_what_the_model_hears_of_a_voice_is_where_the_film_has_it(first: int, second: int, lengths: tuple[float, float]) -> None:
    """Feature rows are film frames: both begin within a sample of each other, also for a voice that waits for another of another rate."""
    n_first, n_second = (max(1, round(length * rate)) for length, rate in zip(lengths, (first, second), strict=True))
    start = round(n_first / first * second)
    alignment = align_to_frames(start, second, round(Fraction(n_second * SAMPLE_RATE, second)))
    begins = (alignment.first_frame * FRAME_SAMPLES + alignment.lead_samples) / SAMPLE_RATE
    assert abs(begins - start / second) <= 0.5 / SAMPLE_RATE + 1e-9
    frame = int(start / second * FRAME_RATE)  # the film frame in which it begins
    assert abs(alignment.first_frame - frame) <= (abs(begins * FRAME_RATE - round(begins * FRAME_RATE)) < 1e-2)
    ends = (alignment.first_frame + alignment.frames) / FRAME_RATE
    assert 0 <= ends - (start + n_second) / second + 1.5 / SAMPLE_RATE <= 1 / FRAME_RATE + 3 / SAMPLE_RATE
