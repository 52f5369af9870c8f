"""Ingest: normalises the material of a job. The only stage that opens files of users."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from infinitedub.stages.contract import Files, Rank
from infinitedub.stages.errors import BadInput
from infinitedub.stages.ingest.settings import IngestSettings
from infinitedub.stages.records import Material, Source, Turns, Voice

if TYPE_CHECKING:
    from infinitedub.stages.ingest.geometry import NormalizedPicture


class IngestStage:
    """Turns `Material` into a `Source`. File types are detected by content, never by name."""

    def __init__(self, config: IngestSettings) -> None:
        self.config = config

    def open(self, rank: Rank) -> None:
        """Imports the media libraries."""
        import infinitedub.stages.ingest.normalize_picture
        import infinitedub.stages.ingest.normalize_speech  # noqa: F401

    def __call__(self, material: Material, *, files: Files) -> Source:
        from infinitedub.stages.ingest.normalize_picture import normalize_picture
        from infinitedub.stages.ingest.speaker_boxes import check_boxes

        folder = files.scratch()
        with error_prefix("picture", material.picture):
            path, picture, moving = normalize_picture(self._fetch(material.picture, files), folder, self.config)
        check_boxes([speaker.box for speaker in material.speakers], picture.upright_size)
        voices = self._store_voices(material, picture, folder, files)
        artifact = files.store(path, "footage/mp4" if moving else "picture/png")
        return Source(artifact, moving, *picture.stored_size, self.config.fps, picture.n_frames, voices)

    def close(self) -> None:
        """The stage holds no resources."""

    def _store_voices(self, material: Material, picture: "NormalizedPicture", folder: Path, files: Files) -> tuple[Voice, ...]:
        from infinitedub.stages.ingest.normalize_speech import normalize_speech
        from infinitedub.stages.ingest.speaker_boxes import scale_box

        voices: list[Voice] = []
        for number, speaker in enumerate(material.speakers, 1):
            target = folder / f"voice_{number}.flac"
            with error_prefix(f"speech {number}", speaker.speech):
                properties = normalize_speech(self._fetch(speaker.speech, files), target, self.config)
            start_seconds = voices[-1].stop_seconds if voices and material.turns is Turns.IN_TURN else 0
            start_sample = round(start_seconds * properties.sample_rate)
            box = speaker.box and scale_box(speaker.box, picture.upright_size, picture.stored_size)
            voices.append(Voice(files.store(target, "sound/flac"), properties.sample_rate, properties.n_samples, start_sample, box))
        return tuple(voices)

    def _fetch(self, uri: str, files: Files) -> Path:
        path = files.fetch(uri)
        if path.stat().st_size == 0:
            raise BadInput("is empty (0 bytes); supply the file again")
        return path


@contextmanager
def error_prefix(what: str, uri: str) -> Iterator[None]:
    """Adds the name of the file to the message of a BadInput raised inside."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{what} {uri}: {error}") from error
