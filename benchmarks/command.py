"""Runs and times the `dub` command in its own process, for the other benchmarks."""

import json
import subprocess
import sys
import time
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from infinitedub.pipeline.state.run_log import latest_run, read_events
from infinitedub.pipeline.storage.storage import Storage

SAMPLE_RATE = 16000

QUICK = ("generate.sampler.steps=1", "generate.guidance.text_scale=1", "generate.guidance.audio_scale=1")
"""Settings with the fewest passes per window: the measurements do not depend on their number."""


@dataclass(frozen=True, slots=True)
class StageCall:
    """The time of one stage call."""

    name: str
    begin: float  # seconds since 1970
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class CommandRun:
    """Measurements of a finished `dub run`."""

    seconds: float  # from start to end of the process, imports included
    stages: tuple[StageCall, ...]  # the calls that were made, in the order in which they ended

    @property
    def stage_seconds(self) -> float:
        """The sum of the seconds of all stage calls."""
        return sum(stage.seconds for stage in self.stages)


def parse_frame_size(text: str) -> tuple[int, int]:
    """The height and width of a text such as 64x128."""
    height, width = (int(side) for side in text.split("x"))
    return height, width


def write_catalogue(folder: Path, seconds: float, height: int, width: int) -> Path:
    """Writes a catalogue of one film to `folder`: a picture of noise and a synthetic voice of `seconds`, both the same at every call."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "portrait.png")
    with wave.open(str(folder / "speech.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(SAMPLE_RATE)
        for start in range(0, round(seconds * SAMPLE_RATE), SAMPLE_RATE):
            at = np.arange(start, min(start + SAMPLE_RATE, round(seconds * SAMPLE_RATE))) / SAMPLE_RATE
            hum = np.sin(2 * np.pi * 150 * at) * np.sin(2 * np.pi * 3 * at) ** 2
            sound.writeframes((hum * 12000).astype("<i2").tobytes())
    catalogue = folder / "catalogue.jsonl"
    catalogue.write_text(json.dumps({"id": "film", "source": "portrait.png", "speech": "speech.wav"}) + "\n")
    return catalogue


def run_dub(catalogue: Path, root: Path, overrides: Sequence[str]) -> CommandRun:
    """Runs `catalogue` without Ray and with `root` as storage root. Raises RuntimeError if the command fails."""
    root.mkdir(parents=True, exist_ok=True)
    settings = [f"catalogue={catalogue}", f"storage.root={root}", f"storage.cache={root / 'node'}", "pools=inline", *overrides]
    began = time.monotonic()
    with (root / "log.txt").open("w") as log:
        command = [sys.executable, "-m", "infinitedub.launch.cli", "run", *settings]
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    seconds = time.monotonic() - began
    if code:
        raise RuntimeError(f"dub run ended with exit code {code}:\n{(root / 'log.txt').read_text()[-2000:]}")
    return CommandRun(seconds, read_stage_calls(root, settings))


def read_stage_calls(root: Path, settings: Sequence[str]) -> tuple[StageCall, ...]:
    """The stage calls of the latest run under `root`, from its run log."""
    from infinitedub.launch.compose import checked, compose

    storage = Storage(checked(compose(list(settings))).storage)
    run = latest_run(storage)
    events = read_events(storage, run) if run else []
    return tuple(
        StageCall(event["stage"], event["time"] - event["seconds"], event["time"])
        for event in events
        if event["what"] == "finished" and event["stage"]
    )
