"""The product against the original's numbers, by the code of `dub verify`; and that code against wrong fixtures."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from infinitedub.launch.verify import main
from infinitedub.pipeline.verify.check_loop import plan
from infinitedub.pipeline.verify.comparison import Check, Skipped, compare
from infinitedub.pipeline.verify.suite import Profile, verify
from infinitedub.stages.engines.settings import ParallelSettings
from infinitedub.stages.errors import ConfigError
from tests.unit.tiny import read

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FIXTURES = sorted(path.stem for path in GOLDEN.glob("*.safetensors"))
PROFILE = Profile(
    ParallelSettings(degree=1, backend="auto", timeout_seconds=60),
    torch.float32,
    {f"infinitetalk-{size}": tuple(read(f"generate/model/infinitetalk_{size}")["teacache_coefficients"]) for size in (480, 720)},
)


def alone(name: str, folder: Path) -> Path:
    """A folder with one fixture, and the one that it depends on."""
    for stem in {name, name.removesuffix("_bf16")}:
        for ending in (".safetensors", ".json"):
            shutil.copy(GOLDEN / f"{stem}{ending}", folder)
    return folder


@pytest.mark.parametrize("name", FIXTURES)
def test_the_originals_numbers_are_reproduced(name: str, tmp_path: Path):
    outcome = list(verify(alone(name, tmp_path), PROFILE))
    checks = [line for line in outcome if isinstance(line, Check) and line.fixture == name]
    assert checks
    assert [line for line in checks if not line.passed] == []


def test_fixtures_of_every_kind_are_here():
    for kind in ("audio_proj", "clip", "dit_multi", "dit_single", "dit_single_bf16", "lora", "t5", "teacache", "utils", "vae", "wav2vec"):
        assert kind in FIXTURES
    assert any(name.startswith("loop_") for name in FIXTURES)


def test_a_film_is_checked_from_its_references_to_its_frames(tmp_path: Path):
    checked = {line.quantity for line in verify(alone("loop_cfg", tmp_path), PROFILE)}
    for quantity in ("window 0 reference", "window 3 speech", "window 3 x0", "window 0 forwards", "computed forwards", "video"):
        assert quantity in checked


@pytest.mark.parametrize(
    ("lengths", "most", "starts", "frames"),
    [
        ([50], 1000, [0, 12, 24, 36], 50),  # padded to 57 and cut back
        ([45], 1000, [0, 12, 24], 45),  # the last window ends with the speech, and counts as padded
        ([70], 40, [0, 12, 24], 40),
        ([60], 21, [0], 21),
        ([44, 50], 1000, [0, 12, 24], 45),  # the first person's speech decides: five frames of the second one's are lost
        ([50, 44], 1000, [0, 12, 24, 36], 44),  # the last person's length cuts
    ],
)
def test_the_windows_and_the_length_that_the_original_plans(lengths, most, starts, frames):
    call = {"frame_num": 21, "motion_frame": 9, "max_frames_num": most}
    segment, kept = plan({"call": call, "audio_lengths": lengths, "is_video": False, "n_source_frames": 1})
    assert [window.span.start for window in segment.windows] == starts
    assert all(window.span.frames == 21 and window.pad_frames == 0 for window in segment.windows)
    assert kept == frames


# -- what must not pass -----------------------------------------------------------------------------------------------------------------------


def spoil(folder: Path, name: str, key: str, by: float) -> None:
    tensors = load_file(folder / f"{name}.safetensors")
    tensors[key] = tensors[key].clone()
    tensors[key].view(-1)[0] += by
    save_file(tensors, folder / f"{name}.safetensors")


def test_one_wrong_number_is_a_miss(tmp_path: Path, capsys):
    spoil(alone("dit_single", tmp_path), "dit_single", "out", 2e-4)
    assert main([str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "MISS" in printed and "dit_single" in printed and "1 missed" in printed


@pytest.mark.parametrize(("key", "by", "missed"), [("w.blocks.0.ffn.0.bias", 0.5, True), ("out", 5e-5, False)])
def test_a_wrong_weight_is_a_miss_and_rounding_is_not(tmp_path: Path, key: str, by: float, missed: bool):
    spoil(alone("dit_multi", tmp_path), "dit_multi", key, by)
    assert all(line.passed for line in verify(tmp_path, PROFILE)) is not missed


def test_a_matching_fixture_passes(tmp_path: Path, capsys):
    assert main([str(alone("t5", tmp_path))]) == 0
    assert "2 quantities checked, 0 missed" in capsys.readouterr().out


def test_nothing_checked_is_a_failure(tmp_path: Path, capsys):
    save_file({"x": torch.zeros(1)}, tmp_path / "strange.safetensors")
    assert main([str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "nothing to check" in printed
    assert "strange" in printed and "skipped" in printed


@pytest.mark.parametrize("argv", [[], ["a", "b"], ["--what"]])
def test_a_call_without_one_folder_is_refused(argv, capsys):
    assert main(argv) == 4
    assert "usage: dub verify DIR" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="is not a folder"):
        main([str(tmp_path / "nowhere")])


def test_a_fixture_without_its_sizes_is_a_miss(tmp_path: Path):
    shutil.copy(GOLDEN / "t5.safetensors", tmp_path / "clip.safetensors")
    (line,) = verify(tmp_path, PROFILE)
    assert isinstance(line, Check)
    assert not line.passed
    assert "clip.json: missing" in line.note


def test_a_fixture_that_breaks_the_check_is_a_miss_and_the_others_are_checked(tmp_path: Path, capsys):
    alone("dit_single", alone("clip", tmp_path))
    tensors = load_file(tmp_path / "clip.safetensors")
    del tensors["w.visual.pre_norm.weight"]
    save_file(tensors, tmp_path / "clip.safetensors")
    assert main([str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "pre_layrnorm.weight" in printed
    assert "1 missed" in printed
    assert "dit_single" in printed


def test_another_shape_is_a_miss():
    assert not compare("x", "y", torch.zeros(2, 3), torch.zeros(3, 2), 1.0).passed
    assert not compare("x", "y", torch.tensor([float("nan")]), torch.zeros(1), 1.0).passed
    assert not compare("x", "y", torch.full((4,), 0.5), torch.zeros(4), 1.0, mean_tolerance=0.1).passed


# -- shared by processes ----------------------------------------------------------------------------------------------------------------------


def test_forwards_are_also_shared_by_processes(tmp_path: Path):
    profile = Profile(ParallelSettings(degree=2, backend="auto", timeout_seconds=300), torch.float32, {})
    checks = list(verify(alone("dit_multi", tmp_path), profile))
    assert [line.quantity for line in checks] == ["out", "out, rank 0 of 2", "out, rank 1 of 2"]
    assert all(line.passed for line in checks)


def test_a_fixture_that_cannot_be_shared_is_skipped_with_a_reason(tmp_path: Path):
    heads = json.loads((GOLDEN / "dit_single.json").read_text())["constructor"]["num_heads"]
    profile = Profile(ParallelSettings(degree=heads + 1, backend="auto", timeout_seconds=60), torch.float32, {})
    *_, last = verify(alone("dit_single", tmp_path), profile)
    assert isinstance(last, Skipped) and "heads" in last.reason
