"""A whole run with scripted stages in the driver's process."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infinitedub.launch.compose import checked, compose
from infinitedub.pipeline.catalogue.rows import BadRow, Catalogue
from infinitedub.pipeline.config import RunConfig
from infinitedub.pipeline.run import driver
from infinitedub.pipeline.run.batch import Outcome, run_catalogue
from infinitedub.pipeline.run.stage_registry import StageSpec
from infinitedub.pipeline.state.forced_rerun import ForcedRerun
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.contract import Files, Rank
from infinitedub.stages.records import (
    Chunk,
    Clip,
    Conditions,
    Film,
    Job,
    Material,
    Prompt,
    Provenance,
    Receipt,
    Segment,
    Source,
    Speaker,
    Speech,
    Turns,
    Voice,
    WindowCheckpoint,
)
from infinitedub.stages.settings import Decides, Settings, Weights
from tests.unit.tiny import segment_of

RESULTS = {
    "ingest": Source,
    "segment": tuple[Segment, ...],
    "listen": Speech,
    "condition": Conditions,
    "generate": Clip,
    "assemble": Film,
    "publish": Receipt,
}
SEGMENTS = (segment_of(20), segment_of(50, index=1, start=20))  # the longer one last


class ScriptedSettings(Settings):
    """What a scripted stage is told."""

    steps: Decides[int]
    """Anything that changes its result."""
    weights: Weights
    """What the result depends on as well."""


Called = tuple[str, str | None, int | None]  # verb, job where it is known, segment where there is one


class Scripted:
    """Any of the verbs: makes small records, and notes that it was called. `error_for` says which error a call raises, if any."""

    def __init__(self, verb: str, config: ScriptedSettings, calls: list[Called], error_for: Callable[[Called], Exception | None]) -> None:
        self.verb, self.config = verb, config
        self.calls, self.error_for = calls, error_for

    def open(self, rank: Rank) -> None:
        pass

    def close(self) -> None:
        pass

    def __call__(self, *records: Any, files: Files) -> Any:
        job = next((record.id for record in records if isinstance(record, Job)), None)
        segment = next((record.index for record in records if isinstance(record, Segment)), None)
        called = (self.verb, job, segment)
        self.calls.append(called)
        if error := self.error_for(called):
            raise error
        return getattr(self, f"_{self.verb}")(*records, files=files)

    def _file(self, files: Files, *content: object) -> Path:
        path = files.scratch() / self.verb
        path.write_text(f"{self.config.steps} {content}")
        return path

    def _ingest(self, material: Material, *, files: Files) -> Source:
        kept = files.store(self._file(files, Path(material.picture).read_text()), "picture/png")
        return Source(kept, False, 64, 64, 25.0, 1, (Voice(kept, 16000, 16000, 0, None),))

    def _segment(self, source: Source, length: object, *, files: Files) -> tuple[Segment, ...]:
        return SEGMENTS

    def _listen(self, source: Source, *, files: Files) -> Speech:
        return Speech(files.store(self._file(files, source.picture.sha256), "tensors/safetensors"), 70, (None,))

    def _condition(self, source: Source, segment: Segment, prompt: Prompt, *, files: Files) -> Conditions:
        return Conditions(files.store(self._file(files, source.picture.sha256, segment), "tensors/safetensors"), 64, 64)

    def _generate(self, segment: Segment, conditions: Conditions, speech: Speech, seed: object, *, files: Files) -> Iterator[Chunk | Clip]:
        takes = []
        for number, window in enumerate(segment.windows):
            take = files.load_checkpoint(number, WindowCheckpoint)
            if take is None:
                kept = files.store(self._file(files, conditions.tensors.sha256, seed, number), "chunk/mkv")
                take = files.save_checkpoint(number, WindowCheckpoint(Chunk(number, kept, window.fresh.frames), None))
                self.calls.append(("window", f"{segment.index}", number))
                yield take.chunk
            takes.append(take)
        yield Clip(segment.index, segment.span, tuple(take.chunk for take in takes))

    def _assemble(self, source: Source, clips: tuple[Clip, ...], *, files: Files) -> Film:
        chunks = [chunk.picture.sha256 for clip in clips for chunk in clip.chunks]
        return Film(files.store(self._file(files, chunks), "film/mp4"), 70, 25.0, 0.0)

    def _publish(self, job: Job, source: Source, film: Film, provenance: Provenance, *, files: Files) -> Receipt:
        path = files.fetch(film.file)
        sidecar = files.deliver(self._file(files, provenance.run), f"films/{job.id}.json")
        return Receipt(files.deliver(path, f"films/{job.id}.mp4"), film.file.sha256, film.file.bytes, sidecar)


class ScriptedRun:
    """Runs jobs with scripted stages."""

    def __init__(self, folder: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.storage = folder, storage
        self.calls: list[Called] = []
        self.clusters = 0
        self.error_for: Callable[[Called], Exception | None] = lambda called: None
        self.steps = dict.fromkeys(RESULTS, 4)
        self.weights = folder / "weights"
        self.weights.write_text("first training")
        composed = checked(compose(["catalogue=rows.jsonl", "pools=inline", f"storage.root={storage.root}"]))
        self.config: RunConfig = composed.model_copy(update={"storage": storage.settings})
        monkeypatch.setattr(driver, "stage_specs", lambda config: self.verbs())

    def verbs(self) -> dict[str, StageSpec]:
        def stage(name: str) -> Scripted:
            weights = str(self.weights) if name == "generate" else "bundled:tiny"
            return Scripted(name, ScriptedSettings(steps=self.steps[name], weights=weights), self.calls, self.error_for)

        return {name: StageSpec(name, stage(name), result) for name, result in RESULTS.items()}

    def job(self, name: str) -> Job:
        picture = self.folder / f"{name}.png"
        if not picture.exists():  # an input that is written anew is another one
            picture.write_text(f"the face of {name}")
        return Job(name, Material(str(picture), (Speaker(str(picture), None),), Turns.TOGETHER), None, Prompt("a person", ""), 7)

    def start_cluster(self) -> None:
        self.clusters += 1

    def dub(self, *jobs: Job, forced_rerun: ForcedRerun | None = None, bad: tuple[BadRow, ...] = ()) -> Outcome:
        """A run of its own; `calls` are those of this run."""
        self.calls.clear()

        catalogue, overrides = Catalogue(jobs, bad), ["catalogue=rows.jsonl"]
        return asyncio.run(
            run_catalogue(self.config, catalogue, self.storage, self.start_cluster, overrides=overrides, parent=None, forced_rerun=forced_rerun)
        )

    def called(self) -> Counter[str]:
        return Counter(verb for verb, _, _ in self.calls if verb != "window")

    def windows(self) -> list[tuple[int, int]]:
        """Segment and number of the windows that were made, in order."""
        return [(int(segment), number) for verb, segment, number in self.calls if verb == "window"]
