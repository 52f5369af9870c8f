"""The shipped settings of the tiny model, and records to give to its stages."""

from pathlib import Path
from typing import Any

import yaml

from infinitedub.stages.condition.settings import ConditionSettings
from infinitedub.stages.generate.settings import GenerateSettings
from infinitedub.stages.records import Artifact, Box, Segment, Source, Span, Voice, Window

CONF = Path(__file__).resolve().parents[2] / "conf"


def read(path: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / f"{path}.yaml").read_text())


def generate_settings(*, parallel: str = "single", **changes: Any) -> GenerateSettings:
    """conf/generate with two steps; `changes` name a group or a value of the top level."""
    groups = {
        "model": read("generate/model/tiny"),
        "sampler": {"name": "euler", "steps": 2, "shift": 3.0},
        "guidance": {"name": "cfg", "text_scale": 1.0, "audio_scale": 2.0},
        "parallel": read(f"generate/parallel/{parallel}"),
        "precision": read("generate/precision/fp32"),
        "cache": read("generate/cache/none"),
    }
    return GenerateSettings(**{**read("generate/default"), **groups, **changes})


def condition_settings(**changes: Any) -> ConditionSettings:
    """conf/condition for the model above; `changes` are settings of the stage or of its preparation."""
    generate = generate_settings()
    model = generate.model
    stage = {"remembered_prompts": 8, "buckets": model.buckets, "device": generate.device}
    preparation = {
        "engine": "infinitetalk",
        "weights": "bundled:tiny",
        "window_frames": model.window_frames,
        "dtype": generate.precision.dtype,
        "compat": generate.compat,
    }
    stage |= {name: value for name, value in changes.items() if name in stage}
    preparation |= {name: value for name, value in changes.items() if name in preparation}
    assert not set(changes) - set(stage) - set(preparation)
    return ConditionSettings(**stage, preparation=preparation)


def segment_of(frames: int, index: int = 0, start: int = 0, references: tuple[int, ...] = (0, 0, 0, 0)) -> Segment:
    """`frames` frames in windows of 33 that share 9."""
    windows, first, overlap = [], start, 0
    while True:
        stop = min(first + 33, start + frames)
        windows.append(Window(Span(first, stop), overlap, first + 33 - stop, references[len(windows)]))
        if stop == start + frames:
            return Segment(index, Span(start, start + frames), tuple(windows))
        first, overlap = stop - 9, 9


def source_of(picture: Path, *, width: int, height: int, n_frames: int = 1, boxes: tuple[Box | None, ...] = (None,)) -> Source:
    """A source with one voice for each box."""
    sound = Artifact("nowhere", "", 0, "sound/flac")
    voices = tuple(Voice(sound, 16000, 16000, 0, box) for box in boxes)
    kind = "footage/mp4" if n_frames > 1 else "picture/png"
    return Source(Artifact(str(picture), "", 0, kind), n_frames > 1, width, height, 25.0, n_frames, voices)
