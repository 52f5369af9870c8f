"""Runs ingest with the shipped settings and reads its results."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from infinitedub.stages.contract import Rank
from infinitedub.stages.ingest.settings import IngestSettings
from infinitedub.stages.ingest.stage import IngestStage
from infinitedub.stages.media.audio_io import sample_blocks
from infinitedub.stages.records import Box, Material, Source, Speaker, Turns

CONF = Path(__file__).resolve().parents[2] / "conf" / "ingest" / "default.yaml"


def ingest(
    files: Any, picture: Path, *speech: Path, boxes: tuple[Box | None, ...] = (None, None), turns: Turns = Turns.TOGETHER, **changes: Any
) -> Source:
    """The source that ingest makes of this material; `changes` are settings."""
    stage = IngestStage(IngestSettings(**{**yaml.safe_load(CONF.read_text()), "fps": 25, **changes}))
    stage.open(Rank())
    speakers = tuple(Speaker(str(path), box) for path, box in zip(speech, boxes, strict=False))
    return stage(Material(str(picture), speakers, turns), files=files)


def pixels(files: Any, source: Source) -> np.ndarray:
    return np.asarray(Image.open(files.fetch(source.picture)))


def samples(files: Any, source: Source, voice: int = 0) -> np.ndarray:
    return np.concatenate(list(sample_blocks(files.fetch(source.voices[voice].sound))), axis=1)


def gradient(width: int = 64, height: int = 48) -> np.ndarray:
    """A picture that differs from itself under every rotation and mirroring."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), np.full_like(x, 60)], -1).astype(np.uint8)


def noise(channels: int, count: int, bits: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    if bits == 16:
        return rng.integers(-(2**15), 2**15, (channels, count)).astype(np.int16)
    return rng.integers(-(2**23), 2**23, (channels, count)).astype(np.int32) << 8
