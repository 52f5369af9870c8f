"""The check before start: everything that is wrong with a model's files and sizes is said at once, before a cluster or a pool is opened."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from infinitedub.launch.cli import main
from infinitedub.launch.compose import checked, compose
from infinitedub.pipeline.run.start_check import check_before_start
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.weights.keymap import TRANSFORMER, missing_modules, translator, unknown_parameters
from tests.golden.read import facts
from tests.unit.releases import write_release

ROOT = Path(__file__).resolve().parents[2]
SHARD = "diffusion_pytorch_model-00002-of-00002.safetensors"
ENCODERS = ("Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model in the layout of the release."""
    return write_release(tmp_path_factory.mktemp("original"))


@pytest.fixture
def release(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(original, tmp_path / "release"))


@pytest.fixture
def check(storage: Storage, tmp_path: Path) -> Callable[..., str]:
    """Checks a model, and returns what was said; empty if it was accepted."""

    def check(weights: Path | str, *overrides: str) -> str:
        places = [
            f"generate.model.weights='{weights}'",
            "generate.model.adapter=single/infinitetalk.safetensors",
            "generate.model.speech=speech",
        ]
        if not (isinstance(weights, str) and weights.startswith("memory:")) and (Path(weights) / "transformer").is_dir():
            places = places[:1]
        config = checked(compose(["catalogue=rows.jsonl", f"storage.root={storage.root}", *places, *overrides]))
        try:
            check_before_start(config, storage)
        except ConfigError as error:
            return str(error)
        return ""

    return check


@pytest.fixture
def in_bucket(release: Path) -> Iterator[Callable[[], str]]:
    """Puts the model into an object store and returns its URI."""
    bucket = fsspec.filesystem("memory")

    def put() -> str:
        bucket.put(str(release), "/bucket/release", recursive=True)
        return "memory://bucket/release"

    yield put
    if bucket.exists("/bucket"):
        bucket.rm("/bucket", recursive=True)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(path: Path, **changes: torch.Tensor) -> None:
    save_file(load_file(path) | changes, path)


# -- accepted ---------------------------------------------------------------------------------------------------------


def test_models_of_both_layouts_are_accepted(check, release: Path):
    assert check(release) == ""
    assert check(ROOT / "assets" / "tiny_bundle") == ""


def test_the_shipped_model_is_accepted(storage: Storage):
    check_before_start(checked(compose(["catalogue=rows.jsonl"])), storage)
    check_before_start(checked(compose(["catalogue=rows.jsonl", "generate/model=test_pattern", "generate.parallel.degree=3"])), storage)


def test_a_model_in_a_bucket_is_accepted(check, in_bucket):
    assert check(in_bucket()) == ""


def test_an_encoder_before_torch_1_6_is_accepted(check, release: Path):
    path = release / ENCODERS[0]
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    assert check(release) == ""


# -- missing files ----------------------------------------------------------------------------------------------------

EVERYTHING = (
    SHARD,
    *ENCODERS,
    "config.json",
    "google/umt5-xxl/tokenizer.json",
    "single/infinitetalk.safetensors",
    "speech/config.json",
    "speech/preprocessor_config.json",
    "speech/model.safetensors",
)


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_every_missing_file_is_named_at_once(check, release: Path, in_bucket, place: str):
    for name in EVERYTHING:
        (release / name).unlink()
    where = str(release) if place == "folder" else in_bucket()
    said = check(where, f"generate.model.loras=[{{path: {where}/lora.safetensors, scale: 1.0}}]")
    for name in (*EVERYTHING, "lora.safetensors"):
        assert f"{where}/{name}: missing" in said
    assert said.count(": missing") == len(EVERYTHING) + 1
    assert "generate.model.weights" in said


def test_the_shards_are_those_of_the_index(check, release: Path):
    weight_map = {"a": "diffusion_pytorch_model-00001-of-00002.safetensors", "b": SHARD, "c": "another.safetensors"}
    (release / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "another.safetensors: missing" in check(release)
    for path in release.glob("diffusion_pytorch_model-*"):
        path.unlink()
    assert check(release).count(": missing") == 3


@pytest.mark.parametrize("index", [b"{", b"[]", b"{}", b'{"weight_map": {"a": 3}}', b'{"weight_map": {"a": "../a.safetensors"}}'])
def test_an_index_that_is_none_is_refused(check, release: Path, index: bytes):
    (release / "diffusion_pytorch_model.safetensors.index.json").write_bytes(index)
    assert "diffusion_pytorch_model.safetensors.index.json" in check(release)


def test_missing_files_of_the_other_layout_are_named(check, tmp_path: Path):
    root = Path(shutil.copytree(ROOT / "assets" / "tiny_bundle", tmp_path / "tiny", ignore=shutil.ignore_patterns("*.py", "*.md")))
    gone = [
        "vae/config.json",
        *(f"{name}_encoder/model.safetensors" for name in ("text", "image")),
        "tokenizer/tokenizer.json",
        "wav2vec2/config.json",
    ]
    for name in gone:
        (root / name).unlink()
    said = check(root)
    assert all(f"{root}/{name}: missing" in said for name in gone)
    assert said.count(": missing") == len(gone)


def test_a_folder_that_is_no_model_is_refused(check, tmp_path: Path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("no model")
    assert "neither the original release" in check(tmp_path / "other")
    (tmp_path / "other" / "wan.Q4_K_M.gguf").write_bytes(b"GGUF")
    assert "GGUF" in check(tmp_path / "other")
    assert "is a GGUF file" in check(tmp_path / "other" / "wan.Q4_K_M.gguf")
    assert "no file exists there" in check(tmp_path / "nowhere")
    assert "no bundle" in check("bundled:nothing")


def test_a_link_to_a_file_that_is_gone_is_a_missing_file(check, release: Path, tmp_path: Path):
    path = release / ENCODERS[0]
    path.rename(tmp_path / "blob")
    path.symlink_to(tmp_path / "blob")
    assert check(release) == ""
    (tmp_path / "blob").unlink()
    assert f"{path}: missing" in check(release)


@pytest.mark.parametrize("empty", ["speech", "google"])
def test_the_files_of_an_empty_folder_are_missing(check, release: Path, empty: str):
    shutil.rmtree(release / empty)
    (release / empty).mkdir()
    assert check(release).count(": missing") == {"speech": 3, "google": 1}[empty]


# -- files that are not what they should be -----------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_every_unreadable_file_is_named_at_once(check, release: Path, in_bucket, place: str):
    (release / ENCODERS[0]).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:6a\nsize 9\n")
    (release / ENCODERS[1]).write_bytes(b"<!DOCTYPE html><html></html>")
    (release / ENCODERS[2]).write_bytes((release / ENCODERS[2]).read_bytes()[:-30])
    (release / SHARD).write_bytes((release / SHARD).read_bytes()[:-1])
    (release / "single" / "infinitetalk.safetensors").write_bytes(b"GGUF" + bytes(100))
    edit_tensors(release / "speech" / "model.safetensors", extra=torch.zeros(2, dtype=torch.int8))
    (release / "speech" / "preprocessor_config.json").write_text("{")
    said = check(str(release) if place == "folder" else in_bucket())
    kinds = ["git-lfs pointer", "web page", "end of the zip file", "cut off", "GGUF", "int8 without scales", "not JSON"]
    assert [kind for kind in kinds if kind not in said] == []
    assert len(said.splitlines()) == 1 + len(kinds)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_a_quantised_base_is_refused(check, release: Path, dtype: torch.dtype):
    edit_tensors(release / SHARD, extra=torch.zeros(2).to(dtype))
    assert "float32, float16 or bfloat16" in check(release)


def test_a_base_for_text_to_video_is_refused(check, release: Path):
    weight = load_file(release / SHARD)["patch_embedding.weight"]
    edit_tensors(release / SHARD, **{"patch_embedding.weight": weight[:, :16].clone()})
    said = check(release)
    assert "16 input channels" in said
    assert "image to video" in said


def test_modules_that_are_missing_or_unknown_are_named(check, release: Path):
    path = release / "single" / "infinitetalk.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if not name.startswith("blocks.1.audio_cross_attn.")}
    save_file(tensors | {"vace_blocks.0.weight": torch.zeros(1)}, path)
    said = check(release)
    assert "blocks.1.audio_cross_attn." in said
    assert "blocks.0.audio_cross_attn." not in said
    assert "vace_blocks.0.weight" in said


def test_an_adapter_for_another_speech_encoder_is_refused(check, release: Path):
    edit_json(release / "speech" / "config.json", num_hidden_layers=7)
    assert "must have been trained together" in check(release)


@pytest.mark.parametrize("changes", [{"num_layers": "two"}, {"num_layers": None, "num_heads": None}])
def test_a_configuration_without_sizes_is_refused(check, release: Path, changes: dict[str, Any]):
    edit_json(release / "config.json", **changes)
    assert "no num_layers" in check(release)


def test_the_names_of_the_released_14b_model_are_complete():
    translate = translator(TRANSFORMER)
    names = [target for name in facts("keys_14b_upstream") for target in translate(name) or ()]
    assert len(names) == 1633
    assert missing_modules(names, 40) == []
    assert unknown_parameters(names) == []
    assert len(missing_modules(names, 41)) == len([module for module in missing_modules([], 1) if module.startswith("blocks.0.")])
    without_images = [name for name in names if ".add_k_proj." not in name]
    assert missing_modules(without_images, 40) == [f"blocks.{number}.attn2.add_k_proj" for number in range(40)]


# -- LoRAs ------------------------------------------------------------------------------------------------------------


def lora_of(path: Path, **tensors: torch.Tensor) -> str:
    save_file({name.replace("__", "."): tensor for name, tensor in tensors.items()}, path)
    return f"generate.model.loras=[{{path: {path}, scale: 1.0}}]"


def test_loras_are_compared_with_the_base(check, release: Path, tmp_path: Path):
    width = facts("dit_single")["constructor"]["dim"]
    fits = dict(blocks__0__self_attn__q__lora_down__weight=torch.zeros(2, width), blocks__0__self_attn__q__lora_up__weight=torch.zeros(width, 2))
    assert check(release, lora_of(tmp_path / "a.safetensors", **fits)) == ""
    assert "not understood: stranger" in check(release, lora_of(tmp_path / "a.safetensors", **fits, stranger=torch.zeros(1)))
    other = dict(head__head__lora_down__weight=torch.zeros(2, 7), head__head__lora_up__weight=torch.zeros(5, 2))
    assert "does not fit" in check(release, lora_of(tmp_path / "a.safetensors", **other))


def test_a_lora_for_text_to_video_is_accepted_and_the_log_says_what_is_left_out(check, release: Path, tmp_path: Path, caplog):
    width = facts("dit_single")["constructor"]["dim"]
    assert check(release, lora_of(tmp_path / "a.safetensors", patch_embedding__diff=torch.zeros(width, 16, 1, 2, 2))) == ""
    assert "16 input channels" in caplog.text
    assert "36" in caplog.text


@pytest.mark.parametrize("preset", ["fusionx", "lightx2v"])
def test_a_preset_for_a_lora_names_the_missing_file(storage: Storage, preset: str):
    config = checked(compose([f"preset={preset}", "catalogue=rows.jsonl", "generate.model.weights=/weights/Wan2.1-I2V-14B-480P"]))
    [lora] = config.generate.model.loras
    assert lora.path.startswith("/weights/Wan2")  # beside the base model
    with pytest.raises(ConfigError) as refusal:
        check_before_start(config, storage)
    assert f"{lora.path}: missing" in str(refusal.value)


# -- ranks ------------------------------------------------------------------------------------------------------------


def test_ranks_that_cannot_share_the_heads_are_refused(check, release: Path):
    heads = facts("dit_single")["constructor"]["num_heads"]
    said = check(release, "generate.parallel.degree=3")
    assert "generate.parallel.degree=3" in said
    assert f"{heads} attention heads" in said
    assert "generate.parallel.degree=2" in said


@pytest.mark.parametrize("model", ["infinitetalk_480", "infinitetalk_720"])
@pytest.mark.parametrize(("degree", "good"), [*((each, True) for each in (1, 2, 4, 8)), *((each, False) for each in (3, 5, 6, 10, 16))])
def test_the_sizes_of_the_release_are_shared_by_1_2_4_and_8_ranks(check, release: Path, model: str, degree: int, good: bool):
    edit_json(release / "config.json", num_heads=40, dim=320)
    said = check(release, f"generate/model={model}", f"generate.parallel.degree={degree}")
    assert ("ranks cannot share" in said) is not good
    if not good:
        assert "1, 2, 4, 8" in said


def test_the_sizes_that_cannot_be_shared_are_named(check, release: Path):
    edit_json(release / "config.json", num_heads=40, dim=320)
    said = check(release, "generate/model=infinitetalk_480", "generate.parallel.degree=5")
    assert "[448, 896]" in said
    assert "[640, 640]" not in said  # 21 x 1600 tokens
    assert "attention heads" not in said


def test_everything_is_said_at_once(check, release: Path):
    (release / ENCODERS[0]).unlink()
    (release / "single" / "infinitetalk.safetensors").write_bytes(b"")
    said = check(release, "generate.parallel.degree=3")
    assert len(said.splitlines()) == 4
    assert "3 faults" in said


# -- in a run ---------------------------------------------------------------------------------------------------------


def test_a_run_is_refused_with_exit_code_4_before_a_pool_opens(release: Path, tmp_path: Path, capsys, monkeypatch):
    (release / SHARD).unlink()
    (release / ENCODERS[1]).unlink()
    monkeypatch.setattr("infinitedub.pipeline.run.driver.open_pools", lambda *_: pytest.fail("a pool was opened"))
    (tmp_path / "rows.jsonl").write_text('{"id": "a", "source": "a.png", "speech": "a.wav"}\n')
    words = [f"catalogue={tmp_path}/rows.jsonl", f"storage.root={tmp_path}/root", f"generate.model.weights={release}", "pools=inline"]
    monkeypatch.setattr("sys.argv", ["dub", "run", *words, "generate.model.adapter=single/infinitetalk.safetensors", "generate.model.speech=speech"])
    assert main() == 4
    said = capsys.readouterr().err
    assert SHARD in said
    assert ENCODERS[1] in said


def test_a_row_with_two_voices_is_a_bad_row_for_an_adapter_of_one(tmp_path: Path, release: Path, capsys, monkeypatch):
    rows = [{"id": "one", "source": "a.png", "speech": "a.wav"}, {"id": "two", "source": "a.png", "speech": "a.wav", "speech_2": "b.wav"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [f"catalogue={tmp_path}/rows.jsonl", f"storage.root={tmp_path}/root", f"generate.model.weights={release}", "pools=inline"]
    monkeypatch.setattr("sys.argv", ["dub", "run", *words, "generate.model.adapter=single/infinitetalk.safetensors", "generate.model.speech=speech"])
    assert main() == 4
    said = capsys.readouterr().err
    assert "line 2 (two)" in said
    assert "single/infinitetalk.safetensors" in said
    assert "multi/infinitetalk.safetensors" in said
    assert "line 1" not in said
