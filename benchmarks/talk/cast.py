"""Whom training never saw, and what it never heard."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infinitedub.assets.tiny_bundle import faces, voices
from infinitedub.assets.tiny_bundle.clips import SHAPES
from infinitedub.assets.tiny_bundle.faces import Act, Camera, Frames, Portrait
from infinitedub.assets.tiny_bundle.voices import Utterance
from infinitedub.stages.media.audio_io import read_mono
from infinitedub.stages.model.speech_encoder import SAMPLE_RATE
from infinitedub.stages.records import Box

UNSEEN = 90_000  # the seeds of faces that training does not use begin here
COUPLES, FILMED = 95_000, 97_000
LIVELY = 2.2  # how much people move before a hand-held camera, as in clips.py
PANNED = 1.15  # how much the camera magnifies, and so how far it can pan


@dataclass(frozen=True)
class Footage:
    """Somebody filmed while they say something old."""

    portrait: Portrait
    frames: Frames
    openness: np.ndarray  # of the old speech, one value per frame
    heads: np.ndarray  # [frames, 2] of x and y of the face


def cast(number: int) -> tuple[Portrait, Frames]:
    """An unseen person, and their picture [1, height, width, 3] with the mouth shut. Of eight, one is wide and one tall."""
    shape = {6: "wide", 7: "tall"}.get(number % 8, "square")
    portrait = faces.anybody(np.random.default_rng(UNSEEN + number), SHAPES[shape])
    return portrait, at_rest(portrait)


def couple(number: int) -> tuple[Portrait, Frames, tuple[Box, Box]]:
    """Two unseen people, their picture, and the boxes of their faces."""
    portrait = faces.couple(np.random.default_rng(COUPLES + number))
    left, right = faces.heads(portrait, [faces.shut(1)] * 2)[:, 0]
    return portrait, at_rest(portrait), (faces.face_box(portrait, left), faces.face_box(portrait, right))


def at_rest(portrait: Portrait) -> Frames:
    return faces.still(portrait, np.zeros(1), np.full(1, 0.5))


def filmed(number: int, said: Utterance, panned: bool) -> Footage:
    """Footage of an unseen person who says something: before a camera that pans slowly, or a hand-held one and with a lively head."""
    rng = np.random.default_rng(FILMED + number)
    portrait = faces.anybody(rng)
    frames = len(said.openness)
    act = Act(said.openness, said.width, faces.motion(rng, said.openness, 1.0 if panned else LIVELY))
    camera = faces.handheld(rng, frames)
    if panned:
        way = np.linspace(-0.5, 0.5, frames) * (1 if number % 2 else -1)
        camera = Camera(way, np.zeros(frames), np.full(frames, PANNED))
    return Footage(portrait, faces.draw(portrait, [act], camera), said.openness, faces.heads(portrait, [act], camera)[0, :, :2])


def drawn(number: int, said: Utterance) -> tuple[Portrait, Frames]:
    """The same unseen person as `cast` gives, drawn as they say something: what a film should be."""
    portrait, _ = cast(number)
    moved = faces.motion(np.random.default_rng(UNSEEN + number), said.openness)
    return portrait, faces.draw(portrait, [Act(said.openness, said.width, moved)])


def recorded(paths: Sequence[Path]) -> Utterance:
    """Real voices, one after the other."""
    return voices.heard(np.concatenate([read_mono(path, SAMPLE_RATE) for path in paths]))


def long_speech(number: int, seconds: float) -> Utterance:
    """An unseen voice that has much to say."""
    parts, length = [], 0
    while length < seconds * SAMPLE_RATE:
        parts.append(voices.unseen_utterance(number + 100 * len(parts), 20.0).sound)
        length += len(parts[-1])
    return voices.heard(np.concatenate(parts)[: int(seconds * SAMPLE_RATE)])


def nobody(number: int, level: float | None, seconds: float) -> voices.Sound:
    """Noise at `level` in dB of full scale, or nothing."""
    noise = np.random.default_rng(number).standard_normal(round(seconds * SAMPLE_RATE))
    return (noise * (0.0 if level is None else 10 ** (level / 20))).astype(np.float32)
