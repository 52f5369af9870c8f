"""Models on disk: the release's layout, diffusers' layout, and the bundled tiny model."""

import filecmp
import json
import shutil
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.shards import SingleDevice
from infinitedub.stages.model.weights.bundle import Bundle, open_bundle
from tests.golden.read import golden
from tests.unit.releases import AUDIO_PARTS, TINY, write_json, write_release

ROOT = Path(__file__).resolve().parents[2]
CPU = (torch.float32, "cpu")


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    """A model in the layout of the release."""
    return write_release(tmp_path_factory.mktemp("release"))


def open_release(root: Path) -> Bundle:
    return open_bundle(root, root / "single" / "infinitetalk.safetensors", root / "speech")


def save_as_diffusers(bundle: Bundle, root: Path) -> None:
    """Writes the networks of `bundle` in the layout of diffusers."""
    transformer, codec, text, image = bundle.transformer(*CPU), bundle.codec(*CPU), bundle.text_encoder(*CPU), bundle.image_encoder(*CPU)
    audio = {name: value.clone() for name, value in transformer.state_dict().items() if any(part in name for part in AUDIO_PARTS)}
    base = {name: value.clone() for name, value in transformer.state_dict().items() if name not in audio}
    config = {name: value for name, value in transformer.config.items() if not name.startswith("_")}
    write_json(root / "transformer" / "config.json", config | {"patch_size": [1, 2, 2]})
    save_file(base, root / "transformer" / "diffusion_pytorch_model.safetensors")
    save_file(audio, root / "infinitetalk.safetensors")
    codec.vae.save_pretrained(root / "vae")
    text.model.save_pretrained(root / "text_encoder")
    image.model.save_pretrained(root / "image_encoder")
    text.tokenizer.save_pretrained(root / "tokenizer")
    shutil.copytree(bundle.speech.folder, root / "wav2vec2")


@pytest.fixture(scope="module")
def folders(release, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    save_as_diffusers(open_release(release), root)
    return root


def assert_equal_parameters(one: nn.Module, other: nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def voice() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(16000).astype(np.float32)


# -- both layouts -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_release_layout_gives_the_golden_flow(release):
    network, tensors = open_release(release).transformer(*CPU), golden("dit_single")
    conditioning = network.embed(tensors["in.context"][None], tensors["in.clip_fea"], tensors["in.audio"])
    made = network(torch.cat([tensors["in.x"][None], tensors["in.y"]], dim=1), tensors["in.t"], conditioning, None, shards=SingleDevice())
    assert torch.allclose(made, tensors["out"], rtol=0, atol=1e-4)


def test_the_release_layout_gives_the_golden_frames(release):
    codec, tensors = open_release(release).codec(*CPU), golden("vae")
    assert torch.allclose(codec.decode(tensors["a.in.z"][None])[0], tensors["a.out.decoded"], rtol=0, atol=1e-5)


def test_both_layouts_hold_the_same_networks(release, folders):
    one, other = open_release(release), open_bundle(folders)
    assert_equal_parameters(one.transformer(*CPU), other.transformer(*CPU))
    assert_equal_parameters(one.codec(*CPU).vae, other.codec(*CPU).vae)
    assert_equal_parameters(one.text_encoder(*CPU).model, other.text_encoder(*CPU).model)
    assert_equal_parameters(one.image_encoder(*CPU).model, other.image_encoder(*CPU).model)
    assert_equal_parameters(one.speech.encoder(*CPU).model, other.speech.encoder(*CPU).model)


def test_both_layouts_give_the_same_outputs(release, folders):
    one, other = open_release(release), open_bundle(folders)
    frame = torch.linspace(-1, 1, 3 * 40 * 30).view(1, 3, 40, 30)
    assert torch.equal(one.image_encoder(*CPU)(frame), other.image_encoder(*CPU)(frame))
    assert torch.equal(one.speech.encoder(*CPU)(voice()), other.speech.encoder(*CPU)(voice()))
    assert torch.equal(one.codec(*CPU).encode(frame[:, :, None, :, :24]), other.codec(*CPU).encode(frame[:, :, None, :, :24]))


def test_a_pickled_speech_encoder_of_an_older_version_is_read(release, tmp_path):
    shutil.copytree(release / "speech", tmp_path / "speech")
    tensors = load_file(tmp_path / "speech" / "model.safetensors")
    (tmp_path / "speech" / "model.safetensors").unlink()
    old = {
        "wav2vec2." + name.replace("parametrizations.weight.original0", "weight_g").replace("parametrizations.weight.original1", "weight_v"): value
        for name, value in tensors.items()
    }
    torch.save(old | {"project_hid.weight": torch.zeros(2), "quantizer.codevectors": torch.zeros(2)}, tmp_path / "speech" / "pytorch_model.bin")
    made = open_bundle(release, release / "single" / "infinitetalk.safetensors", tmp_path / "speech").speech.encoder(*CPU)
    assert torch.equal(made(voice()), open_release(release).speech.encoder(*CPU)(voice()))


def test_networks_load_in_bfloat16(release):
    bundle = open_release(release)
    network = bundle.transformer(torch.bfloat16, "cpu")
    assert {parameter.dtype for parameter in network.blocks.parameters()} == {torch.bfloat16}
    assert network.proj_out.weight.dtype == torch.float32
    assert network.rope.freqs_cos.dtype == torch.float32
    assert bundle.text_encoder(torch.bfloat16, "cpu").model.dtype == torch.bfloat16


def test_an_adapter_can_replace_base_weights(release, tmp_path):
    adapter = load_file(release / "single" / "infinitetalk.safetensors")
    save_file(adapter | {"blocks.1.self_attn.q.bias": torch.full((64,), 0.5)}, tmp_path / "adapter.safetensors")
    network = open_bundle(release, tmp_path / "adapter.safetensors", release / "speech").transformer(*CPU)
    assert network.blocks[1].attn1.to_q.bias.tolist() == [0.5] * 64


def test_loras_are_merged_in_both_layouts(release, folders, tmp_path):
    lora = {key.removeprefix("lora."): tensor for key, tensor in golden("lora").items() if key.startswith("lora.")}
    save_file(lora, tmp_path / "lora.safetensors")
    loras = [(tmp_path / "lora.safetensors", 1.0), (tmp_path / "lora.safetensors", 0.2)]  # two of them add up to the fixture's 1.2
    one = open_release(release).transformer(*CPU, loras=loras, compat_upstream=True)
    assert_equal_parameters(one, open_bundle(folders).transformer(*CPU, loras=loras, compat_upstream=True))
    plain = open_release(release).transformer(*CPU)
    key = "blocks.0.self_attn.q.weight"
    change = golden("lora")[f"after.{key}"] - golden("lora")[f"before.{key}"]
    assert torch.allclose(one.blocks[0].attn1.to_q.weight - plain.blocks[0].attn1.to_q.weight, change, rtol=0, atol=1e-6)
    assert one.compat_upstream
    assert not plain.compat_upstream


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no file exists there"):
        open_bundle(tmp_path)
    (tmp_path / "README.md").write_text("no model")
    with pytest.raises(ConfigError, match="neither the original release"):
        open_bundle(tmp_path)
    with pytest.raises(ConfigError, match="nowhere: missing"):
        open_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("missing", "asked"),
    [
        ("Wan2.1_VAE.pth", "codec"),
        ("models_t5_umt5-xxl-enc-bf16.pth", "text_encoder"),
        ("google/umt5-xxl", "text_encoder"),
        ("models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth", "image_encoder"),
        ("speech/model.safetensors", "speech.encoder"),
        ("speech/preprocessor_config.json", "speech.encoder"),
        ("diffusion_pytorch_model-00002-of-00002.safetensors", "transformer"),
    ],
)
def test_a_missing_file_is_named(release, tmp_path, missing, asked):
    root = tmp_path / "root"
    shutil.copytree(release, root, copy_function=lambda source, to: Path(to).symlink_to(source))
    (root / f"{missing}").rename(tmp_path / "away")
    with pytest.raises(ConfigError, match=r"missing|shards"):
        attrgetter(asked)(open_release(root))(*CPU)


def test_missing_adapter_and_speech_are_named(release):
    with pytest.raises(ConfigError, match="audio weights"):
        open_bundle(release, release / "multi" / "infinitetalk.safetensors", release / "speech").transformer(*CPU)
    with pytest.raises(ConfigError, match="wav2vec2"):
        open_bundle(release, release / "single" / "infinitetalk.safetensors").transformer(*CPU)


def test_an_adapter_of_another_speech_encoder_is_refused(release):
    with pytest.raises(ConfigError, match="must have been trained together"):
        open_bundle(release, release / "single" / "infinitetalk.safetensors", TINY / "wav2vec2").transformer(*CPU)


def test_a_base_without_audio_weights_is_no_adapter(release):
    with pytest.raises(ConfigError, match=r"audio_proj\.proj1\.weight"):
        open_bundle(release, release / "diffusion_pytorch_model-00001-of-00002.safetensors", release / "speech").transformer(*CPU)


def test_a_transformer_with_unsupported_settings_is_refused(folders, tmp_path):
    shutil.copytree(folders, tmp_path / "root")
    path = tmp_path / "root" / "transformer" / "config.json"
    write_json(path, json.loads(path.read_text()) | {"qk_norm": None})
    with pytest.raises(ConfigError, match="qk_norm is None"):
        open_bundle(tmp_path / "root").transformer(*CPU)
    path.write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        open_bundle(tmp_path / "root").transformer(*CPU)


def test_a_tokenizer_without_files_is_refused(folders, tmp_path):
    shutil.copytree(folders, tmp_path / "root")
    for path in (tmp_path / "root" / "tokenizer").iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match="no readable tokenizer"):
        open_bundle(tmp_path / "root").text_encoder(*CPU)


def test_a_speech_encoder_of_another_rate_is_refused(folders, tmp_path):
    shutil.copytree(folders / "wav2vec2", tmp_path / "speech")
    write_json(tmp_path / "speech" / "preprocessor_config.json", {"sampling_rate": 8000})
    with pytest.raises(ConfigError, match="8000 Hz"):
        open_bundle(folders, speech=tmp_path / "speech").speech.encoder(*CPU)


# -- the tiny model ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> Bundle:
    return open_bundle(TINY)


def test_the_tiny_model_is_small():
    assert sum(path.stat().st_size for path in TINY.rglob("*.safetensors")) < 16_000_000


@torch.no_grad()
def test_the_tiny_model_depends_on_text_image_and_speech(tiny):
    network, audio = tiny.transformer(*CPU), tiny.speech.encoder(*CPU)(voice())
    text, image = tiny.text_encoder(*CPU)("A person talks. 早上好"), tiny.image_encoder(*CPU)(torch.rand(1, 3, 64, 64) * 2 - 1)
    assert text.shape == (26, network.config.text_dim)  # 16 ASCII bytes, 9 of the Chinese, and the end
    assert image.shape == (1, 257, network.config.image_dim)
    assert audio.shape == (25, network.config.audio_blocks, network.config.audio_channels)

    windows = torch.stack([audio[2 + frame : 7 + frame] for frame in range(9)])[None]
    latents = torch.randn(1, 36, 3, 8, 8)

    def flow(text: torch.Tensor, image: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
        return network(latents, torch.tensor([600.0]), network.embed(text[None], image, windows), None, shards=SingleDevice())

    made = flow(text, image, windows)
    assert made.shape == (1, 16, 3, 8, 8)
    assert 0.2 < made.std() < 5
    for other in (flow(-text, image, windows), flow(text, -image, windows), flow(text, image, -windows)):
        assert not torch.allclose(made, other, atol=1e-4)


def test_the_tiny_codec_keeps_its_range(tiny):
    codec = tiny.codec(*CPU)
    frames = codec.decode(torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert frames.shape == (1, 3, 9, 64, 64)
    assert (frames.abs() > 0.99).float().mean() < 0.05
    latents = codec.encode(frames)
    assert latents.shape == (1, 16, 3, 8, 8)
    assert latents.abs().mean() < 3


def test_long_prompts_are_truncated(tiny):
    assert len(tiny.text_encoder(*CPU)("word " * 1000)) == 512
    assert len(tiny.text_encoder(*CPU)("")) == 1  # only the end token


def test_make_is_reproducible(tmp_path):
    """Compares two fresh runs, because the shipped weights are trained."""
    one, two = tmp_path / "one", tmp_path / "two"
    make = f"from pathlib import Path; from infinitedub.assets.tiny_bundle.make import main; main(Path({str(one)!r})); main(Path({str(two)!r}))"
    subprocess.run(
        [sys.executable, "-c", make], cwd=ROOT, check=True, capture_output=True
    )  # in a process of its own, since it sets torch's global switches
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*") if path.is_file())
    assert "vae/diffusion_pytorch_model.safetensors" in names
    assert filecmp.cmpfiles(one, two, names, shallow=False)[0] == names
    assert open_bundle(one).transformer(*CPU).config.num_layers == 2
