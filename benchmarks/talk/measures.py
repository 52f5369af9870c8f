"""What is measured of each kind of film."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange

from benchmarks.talk import cast
from benchmarks.talk.film_stages import FilmStages
from infinitedub.assets.tiny_bundle import faces, voices
from infinitedub.assets.tiny_bundle.faces import FPS, Frames, Portrait
from infinitedub.assets.tiny_bundle.meter import MouthMeter
from infinitedub.assets.tiny_bundle.voices import Curve, Utterance
from infinitedub.stages.inspect.drift import color_drift, sharpness_ratio
from infinitedub.stages.inspect.frame_stats import FrameStats, measure_frames
from infinitedub.stages.inspect.seams import mean_seam
from infinitedub.stages.inspect.sync import correlation, pearson
from infinitedub.stages.model.weights.bundle import open_bundle
from infinitedub.stages.model.weights.paths import resolve_weights
from infinitedub.stages.records import Box

LAGS = range(-2, 3)
FOLLOWS = 0.5  # r from which on a mouth follows the speech, and its lag tells something
SHUT = 0.05  # openness of the drawn mouth below which nothing is said


@dataclass(frozen=True)
class Talk:
    """What was measured of a film in which somebody talks."""

    r: float  # of openness against the speech, at the best lag
    lag: int  # frames that the mouth is late
    wrong: float  # the same r against another film's speech
    amplitude: float  # deviation of the openness, relative to that of the drawn mouth
    seam: float

    @property
    def on_time(self) -> bool:
        """Whether the mouth follows the speech to the frame; one that never moves has lag 0, and is not on time."""
        return self.lag == 0 and self.r > FOLLOWS


@dataclass(frozen=True)
class Shown:
    """A film with what it is to be looked at beside."""

    film: Frames
    truth: Curve
    opening: Curve


@dataclass(frozen=True)
class Dubbing:
    """What was measured of dubbed footage."""

    r: float  # of openness against the new speech
    old: float  # the same against what the footage said
    alike: float  # of what was said in the two speeches themselves: so much of `old` is no fault of the film
    followed: float  # Pearson's r of the head's place in film and footage, x and y together
    off: float  # pixels between the two places, root mean square, their means laid on each other
    seam: float


@dataclass(frozen=True)
class Pair:
    """What was measured of two people in one film."""

    silent: float  # mean openness of who is silent, relative to that of who talks, while they talk in turn
    in_turn: float  # least r of the two against their own speech
    together: float


@dataclass(frozen=True)
class Minute:
    """What has become of a long film at its end."""

    seconds: float
    drift: float  # largest change of the mean colour of a second, of full scale
    sharpness: float  # last ten seconds against first
    r_at_the_end: float
    seam: float


def talk(stages: FilmStages, portrait: Portrait, picture: Frames, said: Utterance, other: Utterance, seed: int) -> tuple[Talk, Shown]:
    """Makes and measures a film of a portrait."""
    film = stages.film(picture, [said.sound], seed)
    truth, opening = said.openness[: len(film)], MouthMeter.of(portrait)(film)
    found, wrong = correlation(opening, truth, LAGS), correlation(opening, other.openness, LAGS)
    seam = mean_seam(trace(film, portrait), stages.borders(len(film)))
    return Talk(found.r, found.lag, wrong.r, float(opening.std() / truth.std()), seam), Shown(film, truth, opening)


def silence(stages: FilmStages, number: int, level: float | None, seconds: float = 4.0) -> float:
    """The openness that 98 % of the frames stay below while nobody speaks."""
    portrait, picture = cast.cast(number)
    return float(np.percentile(MouthMeter.of(portrait)(stages.film(picture, [cast.nobody(number, level, seconds)], number)), 98))


def dubbing(stages: FilmStages, footage: cast.Footage, said: Utterance, seed: int) -> tuple[Dubbing, Shown]:
    """Makes and measures a film of footage that says something else."""
    film = stages.film(footage.frames, [said.sound], seed)[: len(footage.frames)]
    meter = MouthMeter.of(footage.portrait)
    truth, opening, places = said.openness[: len(film)], meter(film), meter.positions(film)
    at, wanted = (each - each.mean(axis=0) for each in (places, footage.heads[: len(film)]))
    off = float(np.sqrt(np.square(at - wanted).sum(axis=1).mean()))
    seam = mean_seam(trace(film, footage.portrait), stages.borders(len(film)))
    before = footage.openness[: len(film)]
    new, old, alike = (correlation(*both, LAGS).r for both in ((opening, truth), (opening, before), (truth, before)))
    return Dubbing(new, old, alike, pearson(at.ravel(), wanted.ravel()), off, seam), Shown(film, truth, opening)


def pair(stages: FilmStages, number: int, said: Sequence[Utterance]) -> tuple[Pair, Shown]:
    """Makes and measures two films of two people who talk, in turn and together."""
    portrait, picture, boxes = cast.couple(number)
    meters = [MouthMeter.of(portrait, person) for person in (0, 1)]
    sounds = [utterance.sound for utterance in said]
    turn = len(said[0].openness)
    film = stages.film(picture, sounds, number, boxes, (0, turn))
    truths = [np.append(said[0].openness, np.zeros(len(said[1].openness))), np.append(np.zeros(turn), said[1].openness)]
    opening = [meter(film) for meter in meters]
    spoken = [truth[: len(film)] > SHUT for truth in truths]
    silent = np.concatenate([opening[1 - person][spoken[person]] for person in (0, 1)]).mean()
    talking = np.concatenate([opening[person][spoken[person]] for person in (0, 1)]).mean()
    both = stages.film(picture, sounds, number, boxes, (0, 0))
    in_turn = min(correlation(mouth, truth[: len(film)], LAGS).r for mouth, truth in zip(opening, truths, strict=True))
    together = min(correlation(meter(both), utterance.openness, LAGS).r for meter, utterance in zip(meters, said, strict=True))
    return Pair(float(silent / max(talking, 1e-6)), in_turn, together), Shown(film, truths[0], opening[0])


def minute(stages: FilmStages, number: int, seconds: float) -> Minute:
    """Makes and measures a long film of a portrait."""
    portrait, picture = cast.cast(number)
    said = cast.long_speech(number, seconds)
    film = stages.film(picture, [said.sound], number)
    last = min(10 * FPS, len(film) // 2)
    seen = trace(film, portrait)
    r = correlation(MouthMeter.of(portrait)(film[-last:]), said.openness[len(film) - last : len(film)], LAGS).r
    return Minute(len(film) / FPS, color_drift(seen, FPS), sharpness_ratio(seen, FPS), r, mean_seam(seen, stages.borders(len(film))))


def autoencoder(stages: FilmStages, number: int, said: Utterance) -> tuple[float, float]:
    """Of a drawn film that only passes through the autoencoder, window by window: its likeness in dB, and r of its mouth."""
    model = stages.model
    codec = open_bundle(resolve_weights(model.weights), resolve_weights(model.adapter), resolve_weights(model.speech)).codec(torch.float32, "cpu")
    portrait, frames = cast.drawn(number, said)
    frames = frames[: model.window_frames]
    video = rearrange(torch.from_numpy(frames), "f h w c -> 1 c f h w").float() / 127.5 - 1
    made = rearrange((codec.decode(codec.encode(video)) + 1) * 127.5, "1 c f h w -> f h w c").round().byte().numpy()
    error = np.square(made.astype(np.float64) - frames).mean()
    return float(10 * np.log10(255**2 / error)), correlation(MouthMeter.of(portrait)(made), said.openness[: len(made)], LAGS).r


def chance(said: Sequence[Utterance]) -> float:
    """The mean r of one film's speech against the next one's."""
    return float(np.mean([correlation(one.openness, other.openness, LAGS).r for one, other in zip(said, [*said[1:], said[0]], strict=True)]))


def trace(film: Frames, portrait: Portrait) -> FrameStats:
    boxes = []
    for person in range(len(portrait.sitters)):
        rows, columns = faces.mouth_box(portrait, person)
        boxes.append(Box(columns.start, rows.start, columns.stop, rows.stop))
    return measure_frames(film, boxes)


def unseen(numbers: range, seconds: float) -> list[Utterance]:
    return [voices.unseen_utterance(number, seconds) for number in numbers]
