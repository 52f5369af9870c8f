"""The training set on disk: talking clips of drawn people, each two windows long, and the speech they talk to.

A clip is 57 frames: a first window of 33, and a second that begins 24 later. Behind them lie three stills of it, see `STILLS`.
"""

import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infinitedub.assets.tiny_bundle import faces
from infinitedub.assets.tiny_bundle.faces import SIDE, Act, Camera, Frames, Odds, Portrait, Size
from infinitedub.assets.tiny_bundle.trainer import Crew
from infinitedub.assets.tiny_bundle.voices import Utterance, training_corpus
from infinitedub.stages.records import Box

WINDOW, ADVANCE = 33, 24
CLIP = WINDOW + ADVANCE
STILLS = {"elsewhere": CLIP, "other_first": CLIP + 1, "other_second": CLIP + 2}
"""Where in a clip's array lie: the same people at another moment, as the reference picture of a window that does not begin with it; and the
first frames of both windows with mouths that say something else, as the reference of footage that is dubbed."""
FRAMES = CLIP + len(STILLS)
SHAPES: dict[str, Size] = {"square": (SIDE, SIDE), "wide": (SIDE, SIDE * 3 // 2), "tall": (SIDE * 3 // 2, SIDE)}
COUNTS = {"square": 960, "wide": 384, "tall": 128}
SHUT_AT_FIRST = 0.65  # of the clips: portraits mostly have their mouths shut
TOGETHER = 0.4  # of the clips of two people: both talk; else one does
ODDS = Odds(beard=0.75, glasses=0.4)  # more than usual: there the mouth is hard to see, and other things look like one
FOOTAGE = 0.4  # of the clips: the camera moves, and the heads move more


@dataclass(frozen=True)
class Spoken:
    """What somebody in a clip says."""

    utterance: int
    start: int  # its film frame at which the clip begins


@dataclass(frozen=True)
class Scene:
    """What a clip is drawn from."""

    portrait: Portrait
    spoken: tuple[Spoken | None, ...]  # by each person; None of one who is silent all the time
    acts: tuple[Act, ...]  # FRAMES long
    filmed: Camera | None  # of footage
    boxes: tuple[Box, ...]  # of the faces in the first frame, as a catalogue tells them
    mouths: tuple[tuple[slice, slice], ...]  # rows and columns in which each mouth stays

    @property
    def frames(self) -> Frames:
        """The pictures [FRAMES, height, width, 3]."""
        return faces.draw(self.portrait, self.acts, self.filmed)


def load_corpus(folder: Path, seed: int = 1) -> list[Utterance]:
    """The training speech, spoken once and kept."""
    path = folder / "corpus.pickle"
    if not path.exists():
        write_whole(path, pickle.dumps(list(training_corpus(seed))))
    return pickle.loads(path.read_bytes())  # noqa: S301 - written by the line above


def render(folder: Path, crew: Crew, shape: str) -> None:
    """Draws this process's share of the clips of one shape; goes on where it was cut off."""
    corpus = load_corpus(folder)
    if crew.rank == 0:
        open_frames(folder, shape)
    crew.wait()
    frames = open_frames(folder, shape)
    done = folder / f"{shape}.{crew.rank}of{crew.ranks}"
    first = int(done.read_text()) if done.exists() else crew.rank
    for index in range(first, COUNTS[shape], crew.ranks):
        frames[index] = scene(index, shape, corpus).frames
        if (index // crew.ranks) % 20 == 0:
            frames.flush()
            write_whole(done, str(index + crew.ranks).encode())
    frames.flush()
    write_whole(done, str(COUNTS[shape] + crew.ranks).encode())


def open_frames(folder: Path, shape: str) -> np.memmap:
    """All clips of a shape [clips, FRAMES, height, width, 3]; those not drawn yet are black."""
    return open_array(folder / f"{shape}.npy", (COUNTS[shape], FRAMES, *SHAPES[shape], 3), np.uint8)


def open_array(path: Path, size: tuple[int, ...], kind: type[np.generic]) -> np.memmap:
    """An array on disk, made of zeros where it is missing: whole, or not at all."""
    if not path.exists():
        partial = path.with_suffix(".partial.npy")
        np.lib.format.open_memmap(partial, "w+", kind, size).flush()
        partial.replace(path)
    return np.load(path, mmap_mode="r+")


def scene(index: int, shape: str, corpus: list[Utterance]) -> Scene:
    """What the clip of that index shows: the same in every run. Two of three wide clips are of two people."""
    rng = np.random.default_rng([list(SHAPES).index(shape), index])
    pair = shape == "wide" and index % 3 < 2
    portrait = faces.couple(rng, SHAPES[shape], ODDS) if pair else faces.anybody(rng, SHAPES[shape], ODDS)
    talking = (True,) if not pair else (True, True) if rng.random() < TOGETHER else (index % 2 == 0, index % 2 == 1)
    footage = bool(rng.random() < FOOTAGE)
    shut_first = bool(rng.random() < SHUT_AT_FIRST)
    spoken, acts = zip(*(somebody(rng, corpus, talks, shut_first, 2.2 if footage else 1.0) for talks in talking), strict=True)
    filmed = faces.handheld(rng, CLIP + 26).at(times()) if footage else None
    where = faces.heads(portrait, acts, filmed)
    boxes = tuple(faces.face_box(portrait, head[0]) for head in where)
    return Scene(portrait, spoken, acts, filmed, boxes, tuple(faces.mouth_boxes(portrait, where)))


def times() -> np.ndarray:
    """The moments of a clip's frames and of its stills."""
    return np.r_[0:CLIP, CLIP + 25, 0, ADVANCE]


def somebody(rng: np.random.Generator, corpus: list[Utterance], talks: bool, shut_first: bool, lively: float) -> tuple[Spoken | None, Act]:
    """What one person says in a clip, and does."""

    def excerpt() -> tuple[Spoken, np.ndarray, np.ndarray]:
        utterance = int(rng.integers(len(corpus)))
        said = corpus[utterance]
        start = int(rng.integers(0, max(len(said.openness) - CLIP, 1)))
        rows = (start + np.arange(CLIP)).clip(max=len(said.openness) - 1)
        return Spoken(utterance, start), said.openness[rows].copy(), said.width[rows].copy()

    spoken, openness, width = excerpt()
    if not talks:
        openness, width = np.zeros(CLIP), np.full(CLIP, 0.5)
    if shut_first:
        openness[:2] *= (0.0, 0.6)
        width[0] = 0.5
    moved = faces.motion(rng, np.pad(openness, (0, 26)), lively).at(times())
    _, other, other_width = excerpt()
    elsewhere = 0.0 if not talks or rng.random() < SHUT_AT_FIRST else float(rng.uniform(0, 0.9))
    openness = np.append(openness, [elsewhere, other[0], other[ADVANCE]])
    return spoken if talks else None, Act(openness, np.append(width, [0.5, other_width[0], other_width[ADVANCE]]), moved)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that is either old or new, never half."""
    partial = path.with_suffix(path.suffix + f".{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.replace(path)
