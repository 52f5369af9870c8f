"""The meters of stages/inspect: each sees the defect it is for in a film of a drawn person who talks, and nothing in the clean film."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infinitedub.assets.demo.drawing import Frame, Paper
from infinitedub.assets.demo.people import Pose, draw_person
from infinitedub.assets.demo.scenes import GUEST, HOST, REPORTER
from infinitedub.stages.inspect import drift, seams, stillness, sync
from infinitedub.stages.inspect.sync import Sync, correlation, speech_envelope
from infinitedub.stages.inspect.trace import Curve, Trace, mouth_in, read_trace
from infinitedub.stages.media.audio_io import mono_blocks, read_mono
from infinitedub.stages.records import Box, Span

DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo"
RATE, FPS, SIZE = 16000, 25, 64
HEAD = Frame(0.5, 0.5, 0.7)
FACE = Box(*(round((0.5 + at * HEAD.scale) * SIZE) for at in (-0.40, -0.50, 0.40, 0.50)))  # from the hair to the chin
MOUTH = mouth_in(FACE)


@dataclass(frozen=True)
class Talk:
    """A film, how far its mouth is open, and the speech."""

    frames: np.ndarray
    opening: Curve
    envelope: Curve
    other: Curve  # the same, of another speech

    @property
    def borders(self) -> list[int]:
        """Where windows of 33 frames begin that share nine."""
        return list(range(33, len(self.frames), 24))


def moments(opening: Curve, numbers: range, looks=REPORTER) -> np.ndarray:
    """Frames of somebody who sways, blinks, and opens the mouth as told."""
    drawn = []
    for number in numbers:
        seconds = number / FPS
        pose = Pose(
            turn=0.02 * np.sin(0.9 * seconds),
            shift=0.15 * np.sin(1.3 * seconds),
            mouth=1.2 * float(opening[number]),
            lids=(1.0, 0.1, 0.0, 0.5)[max(number % 70 - 66, 0)],
        )
        paper = Paper(SIZE, SIZE)
        paper.sky((90, 120, 150), (200, 190, 170))
        x, y = 0.008 * np.sin(1.1 * seconds) + 0.004 * np.sin(2.5 * seconds), 0.007 * np.sin(1.2 * seconds)
        draw_person(paper.within(replace(HEAD, x=HEAD.x + x, y=HEAD.y + y)), looks, pose)
        drawn.append(np.asarray(paper.image.resize((SIZE, SIZE), Image.Resampling.BOX)))
    return np.stack(drawn)


def opening_to(envelope: Curve) -> Curve:
    """Shut at 25 dB below the loud frames, wide at these."""
    level = 20 * np.log10(envelope / np.quantile(envelope, 0.95) + 1e-5)
    return np.convolve(np.pad(np.clip((level + 25) / 25, 0, 1), 1), (0.25, 0.5, 0.25), "valid")


@pytest.fixture(scope="module")
def talk() -> Talk:
    voices = [read_mono(DEMO / f"{name}.flac", RATE) for name in ("report", "greeting", "guest", "host")]
    pause = np.zeros(RATE, np.float32)
    said, other = np.concatenate([*voices[:1], pause, *voices[1:2]]), np.concatenate([*voices[2:], pause, voices[2]])
    frames = len(said) * FPS // RATE
    envelope = speech_envelope([said], RATE, FPS, frames)
    opening = opening_to(envelope)
    return Talk(moments(opening, range(frames)), opening, envelope, speech_envelope([other], RATE, FPS, frames))


def faults(frames: np.ndarray, talk: Talk) -> set[str]:
    """What a gate would say of a film, by the thresholds beside the meters."""
    trace = read_trace(frames, [MOUTH])
    heard = sync.sync(trace, talk.envelope)
    found = {
        "out of sync": heard.r < sync.LEAST_R or abs(heard.lag) > sync.LARGEST_LAG,
        "moves in silence": stillness.silence_motion(trace, talk.envelope) > stillness.LARGEST_SILENCE_MOTION,
        "frozen mouth": stillness.still_mouth(trace, talk.envelope) > stillness.LONGEST_STILL_MOUTH * FPS,
        "frozen picture": bool(stillness.still_pictures(trace, FPS)),
        "black": bool(stillness.black_pictures(trace)),
        "seam": seams.worst_seam(trace, talk.borders)[0] > seams.LARGEST_SEAM,
        "colour": drift.colour_drift(trace, FPS) > drift.LARGEST_COLOUR_DRIFT,
        "blurred": drift.sharpness_ratio(trace, FPS) < drift.LEAST_SHARPNESS,
    }
    return {name for name, wrong in found.items() if wrong}


# -- defects ----------------------------------------------------------------------------------------------------------


def moved_window(talk: Talk) -> np.ndarray:
    """One window a pixel beside the others."""
    frames = talk.frames.copy()
    frames[81:105] = np.roll(frames[81:105], 1, axis=2)
    return frames


def brighter_window(talk: Talk) -> np.ndarray:
    """One window brighter than the others by three levels."""
    frames = talk.frames.copy()
    frames[81:105] = np.minimum(frames[81:105], 252) + 3
    return frames


def late_mouth(talk: Talk) -> np.ndarray:
    return np.concatenate([talk.frames[:1].repeat(3, axis=0), talk.frames[:-3]])


def early_mouth(talk: Talk) -> np.ndarray:
    return np.concatenate([talk.frames[3:], talk.frames[-1:].repeat(3, axis=0)])


def redder(talk: Talk) -> np.ndarray:
    """By ten levels from the first frame to the last."""
    more = np.linspace(0, 10, len(talk.frames))[:, None, None, None] * np.array([1, 0, 0])
    return np.clip(np.rint(talk.frames + more), 0, 255).astype(np.uint8)


def black_window(talk: Talk) -> np.ndarray:
    frames = talk.frames.copy()
    frames[81:105] = 2
    return frames


def black_frame(talk: Talk) -> np.ndarray:
    frames = talk.frames.copy()
    frames[90] = 0
    return frames


def mouth_that_rests(talk: Talk) -> np.ndarray:
    """For a second of speech, while the head moves on."""
    opening = talk.opening.copy()
    opening[40:66] = opening[40]
    return np.concatenate([talk.frames[:40], moments(opening, range(40, 66)), talk.frames[66:]])


def mouth_that_chatters(talk: Talk) -> np.ndarray:
    """In the pause."""
    start, stop = pause_of(talk)
    opening = talk.opening.copy()
    opening[start:stop] = opening[20 : 20 + stop - start]
    return np.concatenate([talk.frames[:start], moments(opening, range(start, stop)), talk.frames[stop:]])


def held_picture(talk: Talk) -> np.ndarray:
    frames = talk.frames.copy()
    frames[40:95] = frames[40]
    return frames


def blurring(talk: Talk) -> np.ndarray:
    """From the middle on."""
    frames = talk.frames.astype(np.float32)
    half = len(frames) // 2
    frames[half:] = 0.7 * frames[half:] + 0.15 * (np.roll(frames[half:], 1, axis=2) + np.roll(frames[half:], -1, axis=2))
    return np.rint(frames).astype(np.uint8)


def pause_of(talk: Talk) -> tuple[int, int]:
    """The longest silence."""
    silence = max(stillness.runs(~stillness.spoken(talk.envelope, len(talk.frames))), key=lambda run: run.frames)
    return silence.start, silence.stop


@pytest.mark.parametrize(
    ("defect", "told"),
    [
        (lambda talk: talk.frames, set()),
        (moved_window, {"seam"}),
        (brighter_window, {"seam"}),
        (late_mouth, {"out of sync"}),
        (early_mouth, {"out of sync"}),
        (redder, {"colour"}),
        (black_window, {"black"}),
        (black_frame, {"black"}),
        (mouth_that_rests, {"frozen mouth"}),
        (mouth_that_chatters, {"moves in silence"}),
        (held_picture, {"frozen picture", "frozen mouth"}),  # one is not without the other
        (blurring, {"blurred"}),
    ],
)
def test_each_defect_is_told_by_its_own_meter(talk: Talk, defect: Callable[[Talk], np.ndarray], told: set[str]):
    assert faults(defect(talk), talk) == told


@pytest.mark.parametrize("looks", [HOST, replace(HOST, beard=True), GUEST])
def test_nothing_is_told_of_other_people_who_talk(talk: Talk, looks):
    assert faults(moments(talk.opening, range(len(talk.opening)), looks), talk) == set()


# -- sync -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trace(talk: Talk) -> Trace:
    return read_trace(talk.frames, [MOUTH])


def test_the_lag_is_told_in_frames_that_the_mouth_is_late(talk: Talk):
    assert sync.sync(read_trace(talk.frames, [MOUTH]), talk.envelope).lag == 0
    assert sync.sync(read_trace(late_mouth(talk), [MOUTH]), talk.envelope).lag == 3
    assert sync.sync(read_trace(early_mouth(talk), [MOUTH]), talk.envelope).lag == -3


def test_another_speech_is_far_below_the_threshold(talk: Talk, trace: Trace):
    assert sync.sync(trace, talk.envelope).r > 0.7
    assert sync.sync(trace, talk.other).r < 0.25


def test_of_two_people_the_one_who_talks_is_told(talk: Talk):
    silent = moments(np.zeros(100), range(100), HOST)
    beside = replace(MOUTH, x_min=MOUTH.x_min + SIZE, x_max=MOUTH.x_max + SIZE)
    trace = read_trace(np.concatenate([silent, talk.frames[:100]], axis=2), [MOUTH, beside])
    assert sync.sync(trace, talk.envelope[:100], mouth=1).r > 0.7
    assert sync.sync(trace, talk.envelope[:100], mouth=0).r < sync.LEAST_R
    assert sync.mouth_motion(trace, 0).mean() < 0.15 * sync.mouth_motion(trace, 1).mean()


def test_what_moves_all_over_the_picture_moves_no_mouth():
    """Light that flickers, and a black frame: both change a bright mouth more than nothing, and say nothing of it."""
    light = np.where(np.arange(40) % 2, 100, 140).astype(np.uint8)[:, None, None, None].repeat(16, 1).repeat(16, 2).repeat(3, 3)
    assert sync.mouth_motion(read_trace(light, [Box(4, 8, 12, 12)])) == pytest.approx(0)
    bright = np.full((40, 16, 16, 3), 100, np.uint8)
    bright[:, 8:12, 4:12] = 200
    bright[20] = 0
    assert sync.mouth_motion(read_trace(bright, [Box(4, 8, 12, 12)])) == pytest.approx(0)


def test_correlation_is_pearsons_at_the_best_lag():
    wave = np.sin(np.arange(100) / 3.0)
    assert correlation(np.roll(wave, 2)[5:95] * 3 + 1, wave[5:95]) == Sync(pytest.approx(1.0), 2)
    assert correlation(np.roll(wave, 2)[5:95], wave[5:95], range(-1, 2)).lag == 1
    assert correlation(np.zeros(50), wave) == Sync(0.0, 0)
    assert correlation(wave[:1], wave) == Sync(0.0, 0)
    assert correlation(wave[:40], wave) == Sync(pytest.approx(1.0), 0)  # as far as both go


def test_the_envelope_of_blocks_is_that_of_the_whole():
    rng = np.random.default_rng(0)
    sound = rng.standard_normal(16000).astype(np.float32)
    whole = speech_envelope([sound], RATE, 30000 / 1001, 40)
    pieces = speech_envelope([sound[:7], sound[7:900], sound[900:]], RATE, 30000 / 1001, 40)
    assert whole == pytest.approx(pieces)
    assert whole[:29] == pytest.approx(1.0, abs=0.15)
    assert (whole[30:] == 0).all()
    assert speech_envelope([np.full(6400, 0.5)], RATE, FPS, 5) == pytest.approx(0.5)  # cut where the film ends


def test_the_envelope_of_a_file_is_at_the_films_rate():
    envelope = speech_envelope(mono_blocks(DEMO / "host.flac", RATE), RATE, FPS, 60)
    assert stillness.spoken(envelope, 60).sum() > 40


# -- stillness, seams and drift ---------------------------------------------------------------------------------------


def test_where_nobody_speaks_a_mouth_that_moves_is_told(talk: Talk, trace: Trace):
    nothing = np.zeros(len(talk.frames))
    assert stillness.silence_motion(trace, nothing) > 4 * stillness.LARGEST_SILENCE_MOTION
    assert stillness.silence_motion(read_trace(moments(nothing, range(60)), [MOUTH]), nothing) < 0.1
    assert stillness.still_mouth(trace, nothing) == 0


def test_black_frames_do_not_make_a_mouth_that_moves_in_silence_any_calmer():
    chatter = np.full((80, 16, 16, 3), 128, np.uint8)
    chatter[::2, 8:12, 4:12] = 90
    envelope = np.where(np.arange(80) < 20, 0.3, 0.0)
    whole = stillness.silence_motion(read_trace(chatter, [Box(4, 8, 12, 12)]), envelope)
    chatter[40:70] = 0
    assert stillness.silence_motion(read_trace(chatter, [Box(4, 8, 12, 12)]), envelope) == pytest.approx(whole, rel=0.05)


def test_a_frozen_mouth_is_counted_in_frames_of_speech(talk: Talk, trace: Trace):
    shut = read_trace(moments(np.zeros(len(talk.frames)), range(len(talk.frames))), [MOUTH])
    assert stillness.still_mouth(shut, talk.envelope) == stillness.spoken(talk.envelope, shut.frames).sum()
    assert stillness.still_mouth(trace, talk.envelope) < 5


def test_noise_that_is_never_heard_is_no_speech():
    assert not stillness.spoken(np.full(50, 1e-4), 50).any()  # -80 dB, with nothing louder beside it
    assert stillness.spoken(np.full(50, 2e-3), 50).all()


def test_still_and_black_pictures_are_told_by_their_frames(talk: Talk):
    assert stillness.still_pictures(read_trace(held_picture(talk), [MOUTH]), FPS) == [Span(41, 95)]  # frame 40 is the one that is held
    assert stillness.black_pictures(read_trace(black_window(talk), [MOUTH])) == [Span(81, 105)]


def test_neither_a_mouth_alone_that_talks_nor_the_dark_is_a_still_picture():
    talks = np.full((60, 16, 16, 3), 128, np.uint8)
    talks[::2, 8:12, 4:12] = 90
    assert stillness.still_pictures(read_trace(talks, [Box(4, 8, 12, 12)]), FPS) == []
    dark = read_trace(np.zeros_like(talks), [])
    assert (stillness.still_pictures(dark, FPS), stillness.black_pictures(dark)) == ([], [Span(0, 60)])


def test_a_seam_is_told_by_its_border(talk: Talk, trace: Trace):
    score, border = seams.worst_seam(read_trace(moved_window(talk), [MOUTH]), talk.borders)
    assert (score > 5, border in (81, 105)) == (True, True)
    assert seams.mean_seam(trace, talk.borders) == pytest.approx(1.0, abs=0.3)
    assert seams.mean_seam(read_trace(moved_window(talk), [MOUTH]), talk.borders) > seams.LARGEST_MEAN_SEAM
    assert (seams.mean_seam(trace, []), seams.worst_seam(trace, [])) == (1.0, (1.0, None))
    with pytest.raises(ValueError, match=r"windows begin at frames \[0, 9999\]"):
        seams.mean_seam(trace, [0, 33, 9999])


def test_a_seam_is_told_beside_a_black_frame_and_no_flicker_of_a_still_picture_is_one(talk: Talk):
    frames = moved_window(talk)
    frames[[84, 102]] = 0
    assert seams.worst_seam(read_trace(frames, [MOUTH]), talk.borders)[0] > 5
    still = np.full((100, 16, 16, 3), 128, np.uint8)
    still[33:, 0, 0] += 1
    trace = read_trace(still, [])
    assert seams.worst_seam(trace, [33, 57])[0] < seams.LARGEST_SEAM
    assert seams.mean_seam(trace, [33, 57]) < seams.LARGEST_MEAN_SEAM


def test_drift_is_told_in_parts_of_full_scale(talk: Talk):
    assert drift.colour_drift(read_trace(redder(talk), [MOUTH]), FPS) == pytest.approx(10 / 255, abs=0.012)
    assert drift.colour_by_second(read_trace(talk.frames[:80], [MOUTH]), FPS).shape == (3, 3)  # the begun fourth joins the third
    black = read_trace(np.zeros((30, 8, 8, 3), np.uint8), [])
    assert (drift.colour_drift(black, FPS), drift.sharpness_ratio(black, FPS)) == (0.0, 1.0)


def test_a_film_that_ends_in_the_dark_has_not_become_blurred(talk: Talk):
    frames = talk.frames.copy()
    frames[-30:] = 0
    trace = read_trace(frames, [MOUTH])
    assert drift.sharpness_ratio(trace, FPS) > drift.LEAST_SHARPNESS
    assert drift.colour_drift(trace, FPS) < drift.LARGEST_COLOUR_DRIFT


# -- reading ----------------------------------------------------------------------------------------------------------


def test_frames_are_read_one_by_one_and_only_once(talk: Talk, trace: Trace):
    stream = read_trace(iter(talk.frames), [MOUTH])
    assert all(np.array_equal(getattr(stream, name), getattr(trace, name)) for name in trace.__dataclass_fields__)


def test_what_is_read_is_a_part_of_full_scale():
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    frames[1:] = 255
    frames[2, :4] = 0
    trace = read_trace(frames, [Box(0, 0, 8, 2)])
    assert trace.change == pytest.approx([0, 1, 1 / 3])
    assert trace.mouths[:, 0] == pytest.approx([0, 1, 1])
    assert trace.colour[:, 0] == pytest.approx([0, 1, 2 / 3])
    assert trace.sharpness == pytest.approx([0, 0, 1 / 7])
    assert trace.dark == pytest.approx([1, 0, 0.5])
    assert trace.steady.tolist() == [False, False, True]


def test_where_mouths_fill_the_picture_all_of_it_is_measured():
    frames = np.stack([np.zeros((6, 8, 3), np.uint8), np.full((6, 8, 3), 255, np.uint8)])
    trace = read_trace(frames, [Box(0, 0, 8, 6)])
    assert trace.change == pytest.approx([0, 1])
    assert trace.colour[1] == pytest.approx([1, 1, 1])


def test_a_mouth_beside_the_picture_and_a_film_of_nothing_are_refused():
    with pytest.raises(ValueError, match="no pixel in a picture of 8 x 6"):
        read_trace(np.zeros((1, 6, 8, 3), np.uint8), [Box(8, 0, 12, 4)])
    with pytest.raises(ValueError, match="no frames"):
        read_trace([], [])
