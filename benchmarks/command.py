"""The `dub` command in a process of its own, watched from outside: what the other scripts here measure films with."""

import contextlib
import json
import os
import subprocess
import sys
import time
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from infinitedub.pipeline.state.run_log import latest_run, read_events
from infinitedub.pipeline.storage.storage import Storage

SAMPLE_RATE = 16000
SAMPLE_SECONDS = 0.02  # between two looks at the process

QUICK = ("generate.sampler.steps=1", "generate.guidance.text_scale=1", "generate.guidance.audio_scale=1")
"""The fewest passes a window can be made with: what is measured here does not depend on how many there are."""


@dataclass(frozen=True, slots=True)
class Stage:
    """When a stage worked on the film."""

    name: str
    begin: float  # seconds since 1970
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Run:
    """A `dub run` that has ended."""

    seconds: float  # from start to end of the process, imports included
    peak: int  # bytes resident at most, by the kernel's count
    resident: tuple[tuple[float, int], ...]  # seconds since 1970, bytes resident then
    stages: tuple[Stage, ...]  # that did any work, in the order in which they ended

    @property
    def worked(self) -> float:
        """Seconds that stages worked, all together."""
        return sum(stage.seconds for stage in self.stages)

    def peak_of(self, stage: str) -> int:
        """Bytes resident at most while `stage` worked, with all that the process held from before; 0 where nobody looked meanwhile."""
        spans = [span for span in self.stages if span.name == stage]
        return max((size for when, size in self.resident if any(span.begin <= when <= span.end for span in spans)), default=0)


def sides(text: str) -> tuple[int, int]:
    """Height and width of a text such as 64x128."""
    height, width = (int(side) for side in text.split("x"))
    return height, width


def write_catalogue(folder: Path, seconds: float, height: int, width: int) -> Path:
    """A catalogue of one film in `folder`: a photograph of noise and a voice-like hum of `seconds`, both the same at every call."""
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


def dub(catalogue: Path, root: Path, words: Sequence[str]) -> Run:
    """Runs `catalogue` without Ray, films and results going to `root`; `words` change settings. Raises RuntimeError where it fails."""
    root.mkdir(parents=True, exist_ok=True)
    settings = [f"catalogue={catalogue}", f"storage.root={root}", f"storage.cache={root / 'node'}", "pools=inline", *words]
    began = time.monotonic()
    with (root / "log.txt").open("w") as log:
        child = subprocess.Popen([sys.executable, "-m", "infinitedub.launch.cli", "run", *settings], stdout=log, stderr=subprocess.STDOUT)
    resident, status, peak = watch(child.pid)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    if child.returncode:
        raise RuntimeError(f"dub run ended with {child.returncode}:\n{(root / 'log.txt').read_text()[-2000:]}")
    return Run(seconds, peak, resident, stages_of(root, settings))


def watch(pid: int) -> tuple[tuple[tuple[float, int], ...], int, int]:
    """Waits for the child process `pid`: its resident bytes over time, its exit status as of wait(2), and the peak that the kernel kept."""
    process = psutil.Process(pid)
    resident: list[tuple[float, int]] = []
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)  # counts this child alone, unlike getrusage's sum over all children
        if ended:
            return tuple(resident), status, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        with contextlib.suppress(psutil.Error):  # it may end between the two looks
            resident.append((time.time(), process.memory_info().rss))
        time.sleep(SAMPLE_SECONDS)


def stages_of(root: Path, settings: Sequence[str]) -> tuple[Stage, ...]:
    """When which stage worked in the latest run under `root`."""
    from infinitedub.launch.compose import checked, compose

    storage = Storage(checked(compose(list(settings))).storage)
    run = latest_run(storage)
    events = read_events(storage, run) if run else []
    return tuple(
        Stage(event["stage"], event["time"] - event["seconds"], event["time"]) for event in events if event["what"] == "finished" and event["stage"]
    )
