"""The shipped model talks: people whom it never saw move their mouths as voices that it never heard want it, and only then.

The voices are three of `assets.tiny_bundle.voices.unseen_utterance`, kept, for espeak-ng need not be there. The bounds leave room below what the
shipped weights reach; `python -m benchmarks.talk` measures them at length.
"""

from pathlib import Path

import numpy as np
import pytest

from assets.tiny_bundle.meter import MouthMeter
from assets.tiny_bundle.voices import Utterance, heard
from benchmarks.talk import cast, measures
from benchmarks.talk.measures import LAGS, Talk
from benchmarks.talk.studio import Studio
from stages.inspect.sync import correlation
from stages.media.sound import read_mono
from stages.model.speech import SAMPLE_RATE

VOICES = Path(__file__).parent / "voices"


@pytest.fixture(scope="module")
def said() -> list[Utterance]:
    return [heard(read_mono(path, SAMPLE_RATE)) for path in sorted(VOICES.glob("*.flac"))]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def talks(studio: Studio, said: list[Utterance]) -> list[Talk]:
    """Three films of three seconds."""
    films = []
    for number, (one, other) in enumerate(zip(said, [*said[1:], said[0]], strict=True)):
        portrait, picture = cast.cast(400 + number)
        films.append(measures.talk(studio, portrait, picture, one, other, number)[0])
    return films


def test_mouths_follow_the_speech(talks: list[Talk]):
    found = [talk.r for talk in talks]
    assert min(found) > 0.7
    assert np.mean(found) > 0.8
    assert [talk.lag for talk in talks].count(0) >= 2
    assert all(0.6 < talk.amplitude < 1.6 for talk in talks)


def test_it_is_this_speech_that_they_follow(talks: list[Talk], said: list[Utterance]):
    assert np.mean([talk.wrong for talk in talks]) < measures.chance(said) + 0.15


def test_windows_meet_unseen(talks: list[Talk]):
    assert np.mean([talk.seam for talk in talks]) < 2.0


def test_in_silence_mouths_are_shut(studio: Studio):
    assert measures.silence(studio, 410, -45.0, seconds=2.0) < 0.08


def test_of_two_people_one_listens(studio: Studio, said: list[Utterance]):
    portrait, picture, boxes = cast.couple(20)
    sound = said[0].sound[: 2 * SAMPLE_RATE]
    film = studio.film(picture, [sound, np.zeros_like(sound)], 1, boxes, (0, 0))
    speaks, listens = (MouthMeter.of(portrait, person)(film) for person in (0, 1))
    assert correlation(speaks, said[0].openness, LAGS).r > 0.75
    assert listens.mean() < 0.15 * speaks.mean()


def test_of_footage_the_pose_is_kept_and_the_mouth_is_not(studio: Studio, said: list[Utterance]):
    film, _ = measures.dubbing(studio, cast.filmed(20, said[1], panned=True), said[2], 1)
    assert film.r > 0.75
    assert film.old < 0.3
    assert film.followed > 0.7
