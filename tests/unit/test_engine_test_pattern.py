"""The test pattern: an engine without speech and weights, from a catalogue row to a delivered film."""

import json
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from infinitedub.launch import cli
from infinitedub.launch.compose import checked, compose
from infinitedub.pipeline.run.stage_registry import stage_specs
from infinitedub.stages.contract import Rank
from infinitedub.stages.engines.test_pattern.bars import BARS, MovingBars
from infinitedub.stages.generate.noise import window_noise
from infinitedub.stages.media.video_io import read_all
from infinitedub.stages.records import Seed
from tests.unit.tiny import segment_of

DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo"


def bars(tmp_path: Path, segment, seed: int = 1, size: tuple[int, int] = (16, 40)) -> list[torch.Tensor]:
    """The windows of a segment, each made from the last nine frames of the one before."""
    path = tmp_path / "conditions.safetensors"
    save_file({"color_reference": torch.zeros(3, *size, dtype=torch.uint8)}, path)
    engine, motion_frames, made = MovingBars(Rank()), None, []
    inputs = engine.open_segment(segment, path, None)
    for number in range(len(segment.windows)):
        frames = engine.window(inputs.window(number), motion_frames, lambda shape, number=number: window_noise(Seed(seed, "job"), 0, number, shape))
        motion_frames = frames[:, :, -9:]
        made.append(frames)
    return made


def test_bars_move_by_a_pixel_per_frame_and_on_from_window_to_window(tmp_path: Path):
    first, second = bars(tmp_path, segment_of(57))
    assert first.shape == second.shape == (1, 3, 33, 16, 40)
    film = torch.cat([first, second[:, :, 9:]], dim=2)
    for number in range(56):
        assert torch.equal(film[:, :, number].roll(1, dims=-1), film[:, :, number + 1])
    assert len(torch.unique(first[0, :, 0, 0], dim=1).T) == BARS
    assert torch.equal(first[0, :, 0, 0], first[0, :, 0, 15])


def test_bars_depend_on_the_seed_and_the_size(tmp_path: Path):
    (made,), (again,), (other,), (wide,) = (bars(tmp_path, segment_of(33), **options) for options in ({}, {}, {"seed": 2}, {"size": (16, 80)}))
    assert torch.equal(made, again)
    assert not torch.equal(made, other)
    assert wide.shape[-1] == 80


def test_other_ranks_draw_nothing(tmp_path: Path):
    assert MovingBars(Rank(1, 2)).window((33, 16, 40), None, torch.zeros) is None


@pytest.fixture
def dub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Dubs the given rows in this process; exit code and standard error."""

    def run(rows: list[dict], *overrides: str) -> tuple[int, str]:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        words = ["catalogue=rows.jsonl", "storage.root=out", f"storage.cache={tmp_path / 'cache'}", "pools=inline", *overrides]
        monkeypatch.setattr(sys, "argv", ["dub", "run", *words])
        return cli.main(), capsys.readouterr().err

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # `dub run` sets it: restored after the test
    return run


def test_a_row_without_speech_becomes_a_film_without_sound(dub, tmp_path: Path):
    code, said = dub([{"id": "a", "source": str(DEMO / "footage.mp4")}], "generate/model=test_pattern")
    assert code == 0, said
    film = tmp_path / "out" / "films" / "a.mp4"
    with av.open(str(film)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
    sidecar = json.loads(film.with_suffix(".json").read_text())
    frames = np.stack(list(read_all(film)))
    assert len(frames) == sidecar["source"]["n_frames"] == sidecar["film"]["frames"]
    assert sidecar["source"]["voices"] == [] and sidecar["film"]["sound_codec"] == ""
    assert np.abs(np.roll(frames[30], 1, axis=1).astype(int) - frames[31]).mean() < 12  # 8-bit levels; across a window's border as well
    code, said = dub([{"id": "a", "source": str(DEMO / "footage.mp4")}], "generate/model=test_pattern")
    assert (code, "nothing to do" in said) == (0, True)


def test_a_row_with_speech_keeps_its_sound(dub, tmp_path: Path):
    rows = [{"id": "a", "source": str(DEMO / "portrait.png"), "speech": str(DEMO / "greeting.flac")}]
    code, said = dub(rows, "generate/model=test_pattern", "publish.comparison=side_by_side")
    assert code == 0, said
    with av.open(str(tmp_path / "out" / "films" / "a.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]


def test_a_comparison_of_a_film_without_sound(dub, tmp_path: Path):
    code, said = dub([{"id": "a", "source": str(DEMO / "footage.mp4")}], "generate/model=test_pattern", "publish.comparison=side_by_side")
    assert code == 0, said
    assert (tmp_path / "out" / "films" / "a.comparison.mp4").is_file()


def test_a_photograph_without_speech_has_no_length(dub):
    code, said = dub([{"id": "a", "source": str(DEMO / "portrait.png")}], "generate/model=test_pattern")
    assert code == 2
    assert "the row names no speech, so length=audio of a photograph gives no length" in said


def test_a_row_without_speech_is_refused_if_the_engine_needs_it(dub):
    code, said = dub([{"id": "a", "source": str(DEMO / "footage.mp4")}])
    assert code == 4
    assert "line 1 (a): speech is missing" in said


def test_boxes_and_a_second_voice_need_speech(dub):
    rows = [{"id": "a", "source": str(DEMO / "footage.mp4"), "boxes": [[0, 0, 9, 9]]}, {"id": "b", "source": "x.png", "speech_2": "y.wav"}]
    code, said = dub(rows, "generate/model=test_pattern")
    assert code == 4
    assert "line 1 (a): speech is missing" in said and "line 2 (b): speech is missing" in said


def test_listen_is_a_stage_only_if_the_engine_needs_speech():
    names = {model: list(stage_specs(checked(compose(["catalogue=none", f"generate/model={model}"])))) for model in ("tiny", "test_pattern")}
    assert names["tiny"] == ["ingest", "segment", "listen", "condition", "generate", "assemble", "publish"]
    assert names["test_pattern"] == ["ingest", "segment", "condition", "generate", "assemble", "publish"]
