"""Assemble: the clips of a job and its voices become one film."""

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

from infinitedub.stages.assemble.chunk_order import chunks_in_order
from infinitedub.stages.assemble.settings import AssembleSettings
from infinitedub.stages.contract import Files, Rank
from infinitedub.stages.records import Chunk, Clip, Film, Source

if TYPE_CHECKING:
    import numpy as np


class AssembleStage:
    """Encodes the lossless chunks and voices of a job, once, and returns a `Film`."""

    def __init__(self, config: AssembleSettings) -> None:
        self.config = config

    def open(self, rank: Rank) -> None:
        """Imports the media libraries."""
        import infinitedub.stages.assemble.film  # noqa: F401

    def __call__(self, source: Source, clips: tuple[Clip, ...], *, files: Files) -> Film:
        from infinitedub.stages.assemble.film import write_film
        from infinitedub.stages.assemble.soundtrack import VoiceTrack, build_soundtrack
        from infinitedub.stages.media.encode import exact_rate

        chunks = chunks_in_order(clips)
        seconds = sum(chunk.frames for chunk in chunks) / exact_rate(source.fps)
        tracks = [VoiceTrack(files.fetch(voice.sound), voice.start_sample) for voice in source.voices]
        path = files.scratch() / "film.mp4"
        sound = build_soundtrack(tracks, Fraction(seconds)) if tracks else None
        frames = write_film(path, read_chunks(chunks, files), source.fps, sound, self.config)
        drift_ms = (source.speech_seconds - float(seconds)) * 1000 if tracks else 0.0
        return Film(files.store(path, "film/mp4"), frames, source.fps, drift_ms)

    def close(self) -> None:
        """The stage holds no resources."""


def read_chunks(chunks: tuple[Chunk, ...], files: Files) -> "Iterator[np.ndarray]":
    """The frames of every chunk in order; a chunk is fetched when it is needed and released afterwards.

    Raises ValueError if a chunk differs from its record.
    """
    from infinitedub.stages.media.video_io import read_all

    shape: tuple[int, ...] | None = None
    for chunk in chunks:
        count = 0
        path = files.fetch(chunk.picture)
        for pixels in read_all(path):
            shape = shape or pixels.shape
            if pixels.shape != shape:
                raise ValueError(f"{chunk.picture.uri} has frames of shape {pixels.shape}, the film began with {shape}")
            count += 1
            yield pixels
        if count != chunk.frames:
            raise ValueError(f"{chunk.picture.uri} holds {count} frames, its record says {chunk.frames}")
        files.release(path)  # otherwise the node's disk would hold the whole film
