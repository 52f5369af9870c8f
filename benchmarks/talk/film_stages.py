"""Films made by the product's own stages: listen, condition, generate."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from infinitedub.assets.tiny_bundle.faces import Frames
from infinitedub.assets.tiny_bundle.voices import Sound
from infinitedub.launch.compose import checked, compose
from infinitedub.pipeline.run.stage_registry import stage_specs
from infinitedub.stages.contract import Rank
from infinitedub.stages.media.audio_io import write_flac
from infinitedub.stages.media.video_io import read_all, write_lossless
from infinitedub.stages.model.speech_encoder import FRAME_SAMPLES, SAMPLE_RATE
from infinitedub.stages.records import Artifact, Box, Chunk, Prompt, Seed, Segment, Source, Voice
from infinitedub.stages.segment.plan import plan_segments

T = TypeVar("T")


class LocalFiles:
    """`Files` of one measurement: artifacts are paths in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def fetch(self, what: Artifact | str) -> Path:
        return Path(what if isinstance(what, str) else what.uri)

    def release(self, path: Path) -> None: ...

    def store(self, path: Path, kind: str) -> Artifact:
        kept = self.scratch() / path.name
        shutil.move(path, kept)
        return Artifact(str(kept), "", kept.stat().st_size, kind)

    def load_checkpoint(self, number: int, type_: type[T]) -> T | None:
        return None

    def save_checkpoint(self, number: int, record: T) -> T:
        return record

    def scratch(self) -> Path:
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        return folder

    def deliver(self, path: Path, name: str) -> str:
        raise NotImplementedError(f"{name} ({path}): nothing is published here")


class FilmStages:
    """The stages that make a film, opened, as the preset `tiny` has them."""

    def __init__(self, folder: Path, overrides: Sequence[str] = (), prompt: str = "somebody talks") -> None:
        config = checked(compose(["catalogue=none", *overrides]))
        self.files = LocalFiles(folder)
        self.prompt = Prompt(prompt, "noise")
        self.model = config.generate.model
        specs = stage_specs(config)
        self.stages = specs["listen"].stage, specs["condition"].stage, specs["generate"].stage
        for stage in self.stages:
            stage.open(Rank())
        self.busy = 0.0  # seconds of processor time spent on films
        self.made = 0  # frames of them

    def film(self, shown: Frames, sounds: Sequence[Sound], seed: int, boxes: Sequence[Box | None] = (None,), starts: Sequence[int] = (0,)) -> Frames:
        """The frames of what is `shown` [n, height, width, 3], a portrait (n = 1) or footage, as it says `sounds`.

        Who speaks has a box, where there are two, and begins at a frame of the film.
        """
        listen, condition, generate = self.stages
        voices = tuple(self.voice(*spoken) for spoken in zip(sounds, boxes, starts, strict=True))
        source = Source(self.picture(shown), len(shown) > 1, shown.shape[2], shown.shape[1], self.model.fps, len(shown), voices)
        segment = self.plan(max(start + len(sound) // FRAME_SAMPLES for sound, start in zip(sounds, starts, strict=True)), len(shown))
        began = time.process_time()
        conditions = condition(source, segment, self.prompt, files=self.files)
        made = generate(segment, conditions, listen(source, files=self.files), Seed(seed, "talk"), files=self.files)
        film = np.stack([frame for part in made if isinstance(part, Chunk) for frame in read_all(Path(part.picture.uri))])
        self.busy, self.made = self.busy + time.process_time() - began, self.made + len(film)
        return film

    def borders(self, frames: int) -> list[int]:
        """The first frame of each window but the first."""
        return [window.fresh.start for window in self.plan(frames, 1).windows[1:]]

    def plan(self, frames: int, n_source: int) -> Segment:
        model = self.model
        (segment,) = plan_segments(frames, n_source, (), window_frames=model.window_frames, overlap_frames=model.motion_frames, extend="hold")
        return segment

    def picture(self, shown: Frames) -> Artifact:
        folder = self.files.scratch()
        if len(shown) == 1:
            Image.fromarray(shown[0]).save(folder / "portrait.png")
            return self.files.store(folder / "portrait.png", "picture/png")
        write_lossless(folder / "footage.mkv", shown, self.model.fps)
        return self.files.store(folder / "footage.mkv", "footage/mkv")

    def voice(self, sound: Sound, box: Box | None, start: int) -> Voice:
        path = self.files.scratch() / "speech.flac"
        peak = max(float(np.abs(sound).max()), 1.0)
        write_flac(path, [(sound[None] / peak * 32767).astype(np.int16)], SAMPLE_RATE, "mono")
        return Voice(self.files.store(path, "sound/flac"), SAMPLE_RATE, len(sound), start * FRAME_SAMPLES, box)
