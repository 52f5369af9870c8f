"""Ingest: a job's material made safe. The only stage that opens what a user has supplied."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infinitedub.stages.contract import Files, Rank
from infinitedub.stages.errors import BadInput
from infinitedub.stages.ingest.settings import IngestSettings
from infinitedub.stages.records import Material, Source, Turns, Voice


class IngestStage:
    """Material in, `Source` out. Files are known by their content, never by their name."""

    def __init__(self, config: IngestSettings) -> None:
        self.config = config

    def open(self, rank: Rank) -> None:
        """Imports the media libraries."""
        import infinitedub.stages.ingest.picture
        import infinitedub.stages.ingest.speech  # noqa: F401

    def __call__(self, material: Material, *, files: Files) -> Source:
        from infinitedub.stages.ingest.geometry import check_boxes
        from infinitedub.stages.ingest.picture import normalise_picture

        folder = files.scratch()
        with naming("picture", material.picture):
            path, picture, moving = normalise_picture(self._fetched(material.picture, files), folder, self.config)
        check_boxes([speaker.box for speaker in material.speakers], picture.upright)
        voices = self._voices(material, picture.upright, picture.size, folder, files)
        kept = files.store(path, "footage/mp4" if moving else "picture/png")
        return Source(kept, moving, *picture.size, self.config.fps, picture.n_frames, voices)

    def close(self) -> None:
        """Nothing is held."""

    def _voices(self, material: Material, upright: tuple[int, int], size: tuple[int, int], folder: Path, files: Files) -> tuple[Voice, ...]:
        from infinitedub.stages.ingest.geometry import placed_box
        from infinitedub.stages.ingest.speech import normalise_speech

        voices: list[Voice] = []
        for number, speaker in enumerate(material.speakers, 1):
            target = folder / f"voice_{number}.flac"
            with naming(f"speech {number}", speaker.speech):
                found = normalise_speech(self._fetched(speaker.speech, files), target, self.config)
            begins = voices[-1].stop_seconds if voices and material.turns is Turns.IN_TURN else 0
            box = speaker.box and placed_box(speaker.box, upright, size)
            voices.append(Voice(files.store(target, "sound/flac"), found.sample_rate, found.n_samples, round(begins * found.sample_rate), box))
        return tuple(voices)

    def _fetched(self, uri: str, files: Files) -> Path:
        path = files.fetch(uri)
        if path.stat().st_size == 0:
            raise BadInput("is empty (0 bytes); supply the file again")
        return path


@contextmanager
def naming(what: str, uri: str) -> Iterator[None]:
    """Says of which file an error inside speaks."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{what} {uri}: {error}") from error
