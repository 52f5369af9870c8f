"""The metrics of stages/inspect: each detects its defect in a film of a drawn person who talks, and reports nothing for the clean film."""

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
from infinitedub.stages.inspect.frame_stats import Curve, FrameStats, measure_frames, mouth_box
from infinitedub.stages.inspect.sync import Correlation, correlation, speech_envelope
from infinitedub.stages.media.audio_io import mono_blocks, read_mono
from infinitedub.stages.records import Box, Span

DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo"
RATE, FPS, SIZE = 16000, 25, 64
HEAD = Frame(0.5, 0.5, 0.7)
FACE = Box(*(round((0.5 + offset * HEAD.scale) * SIZE) for offset in (-0.40, -0.50, 0.40, 0.50)))  # from the hair to the chin
MOUTH = mouth_box(FACE)


@dataclass(frozen=True)
class Talk:
    """A film, the openness of its mouth, and the speech."""

    frames: np.ndarray
    opening: Curve
    envelope: Curve
    other: Curve  # of other speech

    @property
    def borders(self) -> list[int]:
        """First frames of windows of 33 frames that overlap by nine."""
        return list(range(33, len(self.frames), 24))


def draw_frames(opening: Curve, numbers: range, looks=REPORTER) -> np.ndarray:
    """Frames of a person who sways, blinks, and opens the mouth by `opening`."""
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


def opening_for(envelope: Curve) -> Curve:
    """The openness of a mouth that speaks: closed at 25 dB below the loud frames, open at these."""
    level = 20 * np.log10(envelope / np.quantile(envelope, 0.95) + 1e-5)
    return np.convolve(np.pad(np.clip((level + 25) / 25, 0, 1), 1), (0.25, 0.5, 0.25), "valid")


@pytest.fixture(scope="module")
def talk() -> Talk:
    voices = [read_mono(DEMO / f"{name}.flac", RATE) for name in ("report", "greeting", "guest", "host")]
    pause = np.zeros(RATE, np.float32)
    speech, other = np.concatenate([*voices[:1], pause, *voices[1:2]]), np.concatenate([*voices[2:], pause, voices[2]])
    frames = len(speech) * FPS // RATE
    envelope = speech_envelope([speech], RATE, FPS, frames)
    opening = opening_for(envelope)
    return Talk(draw_frames(opening, range(frames)), opening, envelope, speech_envelope([other], RATE, FPS, frames))


def detected_defects(frames: np.ndarray, talk: Talk) -> set[str]:
    """The defects of a film, by the thresholds of the metrics."""
    stats = measure_frames(frames, [MOUTH])
    result = sync.mouth_sync(stats, talk.envelope)
    found = {
        "out of sync": result.r < sync.MIN_R or abs(result.lag) > sync.MAX_LAG,
        "moves in silence": stillness.silence_motion(stats, talk.envelope) > stillness.MAX_SILENCE_MOTION,
        "frozen mouth": stillness.still_mouth_frames(stats, talk.envelope) > stillness.MAX_STILL_MOUTH_SECONDS * FPS,
        "frozen picture": bool(stillness.frozen_spans(stats, FPS)),
        "black": bool(stillness.black_spans(stats)),
        "seam": seams.worst_seam(stats, talk.borders)[0] > seams.MAX_WORST_SEAM,
        "color": drift.color_drift(stats, FPS) > drift.MAX_COLOR_DRIFT,
        "blurred": drift.sharpness_ratio(stats, FPS) < drift.MIN_SHARPNESS_RATIO,
    }
    return {name for name, wrong in found.items() if wrong}


# -- defects ----------------------------------------------------------------------------------------------------------


def moved_window(talk: Talk) -> np.ndarray:
    """One window is shifted by a pixel."""
    frames = talk.frames.copy()
    frames[81:105] = np.roll(frames[81:105], 1, axis=2)
    return frames


def brighter_window(talk: Talk) -> np.ndarray:
    """One window is brighter by three levels."""
    frames = talk.frames.copy()
    frames[81:105] = np.minimum(frames[81:105], 252) + 3
    return frames


def late_mouth(talk: Talk) -> np.ndarray:
    return np.concatenate([talk.frames[:1].repeat(3, axis=0), talk.frames[:-3]])


def early_mouth(talk: Talk) -> np.ndarray:
    return np.concatenate([talk.frames[3:], talk.frames[-1:].repeat(3, axis=0)])


def redder(talk: Talk) -> np.ndarray:
    """Red increases by ten levels from the first frame to the last."""
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


def resting_mouth(talk: Talk) -> np.ndarray:
    """The mouth rests for a second of speech, while the head moves."""
    opening = talk.opening.copy()
    opening[40:66] = opening[40]
    return np.concatenate([talk.frames[:40], draw_frames(opening, range(40, 66)), talk.frames[66:]])


def moving_mouth_in_silence(talk: Talk) -> np.ndarray:
    """The mouth moves in the pause."""
    start, stop = longest_pause(talk)
    opening = talk.opening.copy()
    opening[start:stop] = opening[20 : 20 + stop - start]
    return np.concatenate([talk.frames[:start], draw_frames(opening, range(start, stop)), talk.frames[stop:]])


def frozen_picture(talk: Talk) -> np.ndarray:
    frames = talk.frames.copy()
    frames[40:95] = frames[40]
    return frames


def blurring(talk: Talk) -> np.ndarray:
    """The second half is blurred."""
    frames = talk.frames.astype(np.float32)
    half = len(frames) // 2
    frames[half:] = 0.7 * frames[half:] + 0.15 * (np.roll(frames[half:], 1, axis=2) + np.roll(frames[half:], -1, axis=2))
    return np.rint(frames).astype(np.uint8)


def longest_pause(talk: Talk) -> tuple[int, int]:
    """The longest silence, as (start, stop)."""
    silence = max(stillness.true_runs(~stillness.speech_mask(talk.envelope, len(talk.frames))), key=lambda run: run.frames)
    return silence.start, silence.stop


@pytest.mark.parametrize(
    ("defect", "detected"),
    [
        (lambda talk: talk.frames, set()),
        (moved_window, {"seam"}),
        (brighter_window, {"seam"}),
        (late_mouth, {"out of sync"}),
        (early_mouth, {"out of sync"}),
        (redder, {"color"}),
        (black_window, {"black"}),
        (black_frame, {"black"}),
        (resting_mouth, {"frozen mouth"}),
        (moving_mouth_in_silence, {"moves in silence"}),
        (frozen_picture, {"frozen picture", "frozen mouth"}),  # a frozen picture includes a frozen mouth
        (blurring, {"blurred"}),
    ],
)
def test_each_defect_is_detected_by_its_own_metric(talk: Talk, defect: Callable[[Talk], np.ndarray], detected: set[str]):
    assert detected_defects(defect(talk), talk) == detected


@pytest.mark.parametrize("looks", [HOST, replace(HOST, beard=True), GUEST])
def test_clean_films_of_other_people_have_no_defects(talk: Talk, looks):
    assert detected_defects(draw_frames(talk.opening, range(len(talk.opening)), looks), talk) == set()


# -- sync -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stats(talk: Talk) -> FrameStats:
    return measure_frames(talk.frames, [MOUTH])


def test_the_lag_is_the_number_of_frames_by_which_the_mouth_is_late(talk: Talk):
    assert sync.mouth_sync(measure_frames(talk.frames, [MOUTH]), talk.envelope).lag == 0
    assert sync.mouth_sync(measure_frames(late_mouth(talk), [MOUTH]), talk.envelope).lag == 3
    assert sync.mouth_sync(measure_frames(early_mouth(talk), [MOUTH]), talk.envelope).lag == -3


def test_other_speech_is_far_below_the_threshold(talk: Talk, stats: FrameStats):
    assert sync.mouth_sync(stats, talk.envelope).r > 0.7
    assert sync.mouth_sync(stats, talk.other).r < 0.25


def test_of_two_people_only_the_one_who_talks_is_in_sync(talk: Talk):
    silent = draw_frames(np.zeros(100), range(100), HOST)
    second_mouth = replace(MOUTH, x_min=MOUTH.x_min + SIZE, x_max=MOUTH.x_max + SIZE)
    stats = measure_frames(np.concatenate([silent, talk.frames[:100]], axis=2), [MOUTH, second_mouth])
    assert sync.mouth_sync(stats, talk.envelope[:100], mouth=1).r > 0.7
    assert sync.mouth_sync(stats, talk.envelope[:100], mouth=0).r < sync.MIN_R
    assert sync.mouth_motion(stats, 0).mean() < 0.15 * sync.mouth_motion(stats, 1).mean()


def test_changes_of_the_whole_picture_are_not_mouth_motion():
    """Flickering light and a black frame change the mouth's box, but not because the mouth moves."""
    light = np.where(np.arange(40) % 2, 100, 140).astype(np.uint8)[:, None, None, None].repeat(16, 1).repeat(16, 2).repeat(3, 3)
    assert sync.mouth_motion(measure_frames(light, [Box(4, 8, 12, 12)])) == pytest.approx(0)
    bright = np.full((40, 16, 16, 3), 100, np.uint8)
    bright[:, 8:12, 4:12] = 200
    bright[20] = 0
    assert sync.mouth_motion(measure_frames(bright, [Box(4, 8, 12, 12)])) == pytest.approx(0)


def test_correlation_is_pearsons_at_the_best_lag():
    wave = np.sin(np.arange(100) / 3.0)
    assert correlation(np.roll(wave, 2)[5:95] * 3 + 1, wave[5:95]) == Correlation(pytest.approx(1.0), 2)
    assert correlation(np.roll(wave, 2)[5:95], wave[5:95], range(-1, 2)).lag == 1
    assert correlation(np.zeros(50), wave) == Correlation(0.0, 0)
    assert correlation(wave[:1], wave) == Correlation(0.0, 0)
    assert correlation(wave[:40], wave) == Correlation(pytest.approx(1.0), 0)  # over the length of the shorter curve


def test_the_envelope_does_not_depend_on_the_block_sizes():
    rng = np.random.default_rng(0)
    sound = rng.standard_normal(16000).astype(np.float32)
    whole = speech_envelope([sound], RATE, 30000 / 1001, 40)
    pieces = speech_envelope([sound[:7], sound[7:900], sound[900:]], RATE, 30000 / 1001, 40)
    assert whole == pytest.approx(pieces)
    assert whole[:29] == pytest.approx(1.0, abs=0.15)
    assert (whole[30:] == 0).all()
    assert speech_envelope([np.full(6400, 0.5)], RATE, FPS, 5) == pytest.approx(0.5)  # cut at the end of the film


def test_the_envelope_of_a_file_has_the_film_frame_rate():
    envelope = speech_envelope(mono_blocks(DEMO / "host.flac", RATE), RATE, FPS, 60)
    assert stillness.speech_mask(envelope, 60).sum() > 40


# -- stillness, seams and drift ---------------------------------------------------------------------------------------


def test_a_mouth_that_moves_in_silence_is_detected(talk: Talk, stats: FrameStats):
    silent = np.zeros(len(talk.frames))
    assert stillness.silence_motion(stats, silent) > 4 * stillness.MAX_SILENCE_MOTION
    assert stillness.silence_motion(measure_frames(draw_frames(silent, range(60)), [MOUTH]), silent) < 0.1
    assert stillness.still_mouth_frames(stats, silent) == 0


def test_black_frames_do_not_lower_the_motion_in_silence():
    chatter = np.full((80, 16, 16, 3), 128, np.uint8)
    chatter[::2, 8:12, 4:12] = 90
    envelope = np.where(np.arange(80) < 20, 0.3, 0.0)
    whole = stillness.silence_motion(measure_frames(chatter, [Box(4, 8, 12, 12)]), envelope)
    chatter[40:70] = 0
    assert stillness.silence_motion(measure_frames(chatter, [Box(4, 8, 12, 12)]), envelope) == pytest.approx(whole, rel=0.05)


def test_a_frozen_mouth_is_counted_in_frames_of_speech(talk: Talk, stats: FrameStats):
    shut = measure_frames(draw_frames(np.zeros(len(talk.frames)), range(len(talk.frames))), [MOUTH])
    assert stillness.still_mouth_frames(shut, talk.envelope) == stillness.speech_mask(talk.envelope, shut.frames).sum()
    assert stillness.still_mouth_frames(stats, talk.envelope) < 5


def test_inaudible_noise_is_not_speech():
    assert not stillness.speech_mask(np.full(50, 1e-4), 50).any()  # -80 dB, and nothing is louder
    assert stillness.speech_mask(np.full(50, 2e-3), 50).all()


def test_frozen_and_black_spans_are_exact(talk: Talk):
    assert stillness.frozen_spans(measure_frames(frozen_picture(talk), [MOUTH]), FPS) == [Span(41, 95)]  # frame 40 is the first of the equal frames
    assert stillness.black_spans(measure_frames(black_window(talk), [MOUTH])) == [Span(81, 105)]


def test_neither_a_moving_mouth_nor_black_frames_are_a_frozen_picture():
    talks = np.full((60, 16, 16, 3), 128, np.uint8)
    talks[::2, 8:12, 4:12] = 90
    assert stillness.frozen_spans(measure_frames(talks, [Box(4, 8, 12, 12)]), FPS) == []
    dark = measure_frames(np.zeros_like(talks), [])
    assert (stillness.frozen_spans(dark, FPS), stillness.black_spans(dark)) == ([], [Span(0, 60)])


def test_the_worst_seam_is_found_at_its_border(talk: Talk, stats: FrameStats):
    score, border = seams.worst_seam(measure_frames(moved_window(talk), [MOUTH]), talk.borders)
    assert (score > 5, border in (81, 105)) == (True, True)
    assert seams.mean_seam(stats, talk.borders) == pytest.approx(1.0, abs=0.3)
    assert seams.mean_seam(measure_frames(moved_window(talk), [MOUTH]), talk.borders) > seams.MAX_MEAN_SEAM
    assert (seams.mean_seam(stats, []), seams.worst_seam(stats, [])) == (1.0, (1.0, None))
    with pytest.raises(ValueError, match=r"windows begin at frames \[0, 9999\]"):
        seams.mean_seam(stats, [0, 33, 9999])


def test_a_seam_is_found_near_a_black_frame_and_flicker_of_a_still_picture_is_no_seam(talk: Talk):
    frames = moved_window(talk)
    frames[[84, 102]] = 0
    assert seams.worst_seam(measure_frames(frames, [MOUTH]), talk.borders)[0] > 5
    still = np.full((100, 16, 16, 3), 128, np.uint8)
    still[33:, 0, 0] += 1
    stats = measure_frames(still, [])
    assert seams.worst_seam(stats, [33, 57])[0] < seams.MAX_WORST_SEAM
    assert seams.mean_seam(stats, [33, 57]) < seams.MAX_MEAN_SEAM


def test_drift_is_a_fraction_of_full_scale(talk: Talk):
    assert drift.color_drift(measure_frames(redder(talk), [MOUTH]), FPS) == pytest.approx(10 / 255, abs=0.012)
    assert drift.color_by_second(measure_frames(talk.frames[:80], [MOUTH]), FPS).shape == (3, 3)  # the incomplete fourth joins the third
    black = measure_frames(np.zeros((30, 8, 8, 3), np.uint8), [])
    assert (drift.color_drift(black, FPS), drift.sharpness_ratio(black, FPS)) == (0.0, 1.0)


def test_black_frames_at_the_end_are_not_blur_or_drift(talk: Talk):
    frames = talk.frames.copy()
    frames[-30:] = 0
    stats = measure_frames(frames, [MOUTH])
    assert drift.sharpness_ratio(stats, FPS) > drift.MIN_SHARPNESS_RATIO
    assert drift.color_drift(stats, FPS) < drift.MAX_COLOR_DRIFT


# -- reading ----------------------------------------------------------------------------------------------------------


def test_frames_may_come_from_an_iterator(talk: Talk, stats: FrameStats):
    streamed = measure_frames(iter(talk.frames), [MOUTH])
    assert all(np.array_equal(getattr(streamed, name), getattr(stats, name)) for name in stats.__dataclass_fields__)


def test_statistics_are_fractions_of_full_scale():
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    frames[1:] = 255
    frames[2, :4] = 0
    stats = measure_frames(frames, [Box(0, 0, 8, 2)])
    assert stats.change == pytest.approx([0, 1, 1 / 3])
    assert stats.mouths[:, 0] == pytest.approx([0, 1, 1])
    assert stats.color[:, 0] == pytest.approx([0, 1, 2 / 3])
    assert stats.sharpness == pytest.approx([0, 0, 1 / 7])
    assert stats.dark == pytest.approx([1, 0, 0.5])
    assert stats.comparable.tolist() == [False, False, True]


def test_mouths_that_fill_the_picture_are_measured_as_background():
    frames = np.stack([np.zeros((6, 8, 3), np.uint8), np.full((6, 8, 3), 255, np.uint8)])
    stats = measure_frames(frames, [Box(0, 0, 8, 6)])
    assert stats.change == pytest.approx([0, 1])
    assert stats.color[1] == pytest.approx([1, 1, 1])


def test_a_mouth_outside_of_the_picture_and_an_empty_film_raise_value_error():
    with pytest.raises(ValueError, match="no pixel in a picture of 8 x 6"):
        measure_frames(np.zeros((1, 6, 8, 3), np.uint8), [Box(8, 0, 12, 4)])
    with pytest.raises(ValueError, match="no frames"):
        measure_frames([], [])
