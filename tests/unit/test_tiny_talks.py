"""The shipped model talks: people whom it never saw move their mouths as voices that it never heard want it, and only then.

The voices are 1, 4 and 8 of `assets/tiny_bundle/voices.unseen_utterance`, kept as files: espeak-ng need not be there. The bounds leave room below
what the shipped weights reach; `python -m benchmarks.talk` measures them at length.
"""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.talk import cast, measures
from benchmarks.talk.film_stages import FilmStages
from benchmarks.talk.measures import LAGS, Shown, Talk
from infinitedub.assets.tiny_bundle.faces import FPS
from infinitedub.assets.tiny_bundle.meter import MouthMeter
from infinitedub.assets.tiny_bundle.voices import Utterance, heard
from infinitedub.stages.inspect import drift
from infinitedub.stages.inspect.sync import correlation
from infinitedub.stages.media.audio_io import read_mono
from infinitedub.stages.model.speech_encoder import SAMPLE_RATE

VOICES = Path(__file__).parent / "voices"
FIRST = 400  # of three faces that `benchmarks.talk` does not show


@pytest.fixture(scope="module")
def said() -> list[Utterance]:
    return [heard(read_mono(path, SAMPLE_RATE)) for path in sorted(VOICES.glob("*.flac"))]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> FilmStages:
    return FilmStages(tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def films(stages: FilmStages, said: list[Utterance]) -> list[tuple[Talk, Shown]]:
    """Three of three seconds."""
    made = []
    for number, (one, other) in enumerate(zip(said, [*said[1:], said[0]], strict=True)):
        portrait, picture = cast.cast(FIRST + number)
        made.append(measures.talk(stages, portrait, picture, one, other, number))
    return made


@pytest.fixture(scope="module")
def talks(films: list[tuple[Talk, Shown]]) -> list[Talk]:
    return [talk for talk, _ in films]


def test_mouths_follow_the_speech(talks: list[Talk]):
    found = [talk.r for talk in talks]
    assert min(found) > 0.75  # with the weights of one block shuffled: 0.72
    assert np.mean(found) > 0.8
    assert sum(talk.on_time for talk in talks) >= 2
    assert all(0.6 < talk.amplitude < 1.6 for talk in talks)


def test_two_dozen_people_talk(stages: FilmStages, said: list[Utterance]):
    """The faces of `benchmarks.talk`, for a window each."""
    found = []
    for number in range(24):
        portrait, picture = cast.cast(number)
        words = said[number % 3].sound[SAMPLE_RATE // 2 :][: stages.model.window_frames * SAMPLE_RATE // FPS]
        film = stages.film(picture, [words], number)
        found.append(correlation(MouthMeter.of(portrait)(film), heard(words).openness, LAGS).r)
    assert np.mean(found) > 0.8
    assert min(found) > 0.6


def test_a_mouth_that_never_moves_is_not_on_time():
    assert not Talk(r=0.0, lag=0, wrong=0.0, amplitude=0.0, seam=1.0).on_time
    assert Talk(r=0.9, lag=0, wrong=0.1, amplitude=1.0, seam=1.0).on_time


def test_it_is_this_speech_that_they_follow(talks: list[Talk], said: list[Utterance]):
    assert np.mean([talk.wrong for talk in talks]) < measures.chance(said) + 0.15


def test_windows_meet_unseen(talks: list[Talk]):
    assert np.mean([talk.seam for talk in talks]) < 2.0


def test_films_are_as_long_as_the_speech_and_keep_their_colours_and_sharpness(films: list[tuple[Talk, Shown]]):
    for number, (_, shown) in enumerate(films):
        seen = measures.trace(shown.film, cast.cast(FIRST + number)[0])
        assert seen.frames == len(shown.truth) == 75
        assert not seen.black.any()
        assert drift.color_drift(seen, FPS) < drift.MAX_COLOR_DRIFT
        assert 0.9 < drift.sharpness_ratio(seen, FPS) < 1.1


def test_drawings_behind_the_autoencoder_are_like_themselves(stages: FilmStages, said: list[Utterance]):
    found = [measures.autoencoder(stages, FIRST + number, utterance) for number, utterance in enumerate(said)]
    assert np.mean([decibels for decibels, _ in found]) > 29
    assert min(r for _, r in found) > 0.9


def test_in_silence_mouths_are_shut(stages: FilmStages):
    assert measures.silence(stages, 410, -45.0, seconds=2.0) < 0.08


def test_of_two_people_one_listens(stages: FilmStages, said: list[Utterance]):
    portrait, picture, boxes = cast.couple(20)
    sound = said[0].sound[: 2 * SAMPLE_RATE]
    film = stages.film(picture, [sound, np.zeros_like(sound)], 1, boxes, (0, 0))
    speaks, listens = (MouthMeter.of(portrait, person)(film) for person in (0, 1))
    assert correlation(speaks, said[0].openness, LAGS).r > 0.75
    assert listens.mean() < 0.15 * speaks.mean()


def test_of_footage_the_pose_is_kept_and_the_mouth_is_not(stages: FilmStages, said: list[Utterance]):
    film, _ = measures.dubbing(stages, cast.filmed(20, said[1], panned=True), said[2], 1)
    assert film.r > 0.75
    assert film.old < min(0.3, film.alike + 0.15)
    assert film.followed > 0.7
