"""The training set on disk: talking clips of drawn people, each two windows long, and the speech they talk to.

A clip is 57 frames: a first window of 33, and a second that begins 24 later. Behind them lies one more frame of the same person at
another moment, which serves as the reference picture of a window that does not begin with it.
"""

import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from assets.tiny_bundle import faces
from assets.tiny_bundle.faces import HEIGHT, Frames, Portrait
from assets.tiny_bundle.trainer import Crew
from assets.tiny_bundle.voices import Utterance, training_corpus

WINDOW, ADVANCE = 33, 24
CLIP = WINDOW + ADVANCE
SHAPES = {"square": 64, "wide": 96}  # widths in pixels
COUNTS = {"square": 1280, "wide": 256}
SHUT_AT_FIRST = 0.65  # of the clips: portraits mostly have their mouths shut


@dataclass(frozen=True)
class Scene:
    """What a clip was drawn from."""

    portrait: Portrait
    utterance: int
    start: int  # its film frame at which the clip begins


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
        frames[index] = draw_clip(index, shape, corpus)
        if (index // crew.ranks) % 10 == 0:
            frames.flush()
            write_whole(done, str(index + crew.ranks).encode())
    frames.flush()
    write_whole(done, str(COUNTS[shape] + crew.ranks).encode())


def open_frames(folder: Path, shape: str) -> np.memmap:
    """All clips of a shape [clips, 57 + 1, height, width, 3]; those not drawn yet are black."""
    path = folder / f"{shape}.npy"
    size = (COUNTS[shape], CLIP + 1, HEIGHT, SHAPES[shape], 3)
    if not path.exists():
        np.lib.format.open_memmap(path, "w+", np.uint8, size).flush()
    return np.load(path, mmap_mode="r+")


def scene(index: int, shape: str, corpus: list[Utterance]) -> tuple[Scene, np.random.Generator]:
    """What the clip of that index shows: the same in every run; the generator goes on from there."""
    rng = np.random.default_rng([SHAPES[shape], index])
    portrait = faces.anybody(rng, SHAPES[shape])
    utterance = int(rng.integers(len(corpus)))
    start = int(rng.integers(0, max(len(corpus[utterance].openness) - CLIP, 1)))
    return Scene(portrait, utterance, start), rng


def draw_clip(index: int, shape: str, corpus: list[Utterance]) -> Frames:
    """The clip, and the frame of another moment behind it."""
    what, rng = scene(index, shape, corpus)
    spoken = corpus[what.utterance]
    rows = (what.start + np.arange(CLIP)).clip(max=len(spoken.openness) - 1)
    openness, width = spoken.openness[rows].copy(), spoken.width[rows].copy()
    if rng.random() < SHUT_AT_FIRST:
        openness[:2] *= (0.0, 0.6)
        width[0] = 0.5
    elsewhere = 0.0 if rng.random() < SHUT_AT_FIRST else float(rng.uniform(0, 0.9))
    moved = faces.motion(rng, CLIP + 26, np.pad(openness, (0, 26)))
    still = np.r_[0:CLIP, CLIP + 25]
    moved = faces.Motion(**{name: getattr(moved, name)[still] for name in moved.__dataclass_fields__})
    return faces.draw(what.portrait, np.append(openness, elsewhere), np.append(width, 0.5), moved)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that is either old or new, never half."""
    partial = path.with_suffix(path.suffix + f".{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.replace(path)
