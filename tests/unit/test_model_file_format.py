"""Files that are not the weights they should be: each is recognised by its first bytes or its header, and the message says what to do."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.weights.checkpoint import InMemoryCheckpoint, SafetensorsCheckpoint, open_pickle
from infinitedub.stages.model.weights.file_format import check_pickle, check_quantisation, safetensors_header
from infinitedub.stages.model.weights.keymap import IDENTITY, translator
from infinitedub.stages.model.weights.load import build_empty, load_weights, map_sources

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:6a5f\nsize 1234\n"
ANSWERS = {
    "is empty": b"",
    "git-lfs pointer": LFS,
    "web page": b"\n<!DOCTYPE html>\n<html><head><title>Log in</title></head></html>",
    "answer of a server": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "GGUF": b"GGUF\x03\x00\x00\x00" + bytes(64),
}


def refusal(path: Path, reader) -> str:
    with pytest.raises(ConfigError) as error:
        reader(path)
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def open_safetensors(path: Path) -> SafetensorsCheckpoint:
    return SafetensorsCheckpoint([path])


# -- what is no file of weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", [open_safetensors, open_pickle], ids=["safetensors", "pickle"])
@pytest.mark.parametrize(("kind", "content"), ANSWERS.items(), ids=ANSWERS)
def test_what_was_downloaded_in_place_of_weights_is_named(tmp_path, reader, kind, content):
    path = tmp_path / "weights"
    path.write_bytes(content)
    said = refusal(path, reader)
    assert kind in said
    assert "download" in said


def test_a_file_in_the_other_format_is_named(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "a.pth")
    assert "is a safetensors file" in refusal(tmp_path / "a.pth", open_pickle)
    for zipped in (True, False):
        torch.save({"a": torch.zeros(2)}, tmp_path / "a.safetensors", _use_new_zipfile_serialization=zipped)
        assert "a file of torch.save" in refusal(tmp_path / "a.safetensors", open_safetensors)


def test_a_download_that_was_cut_off_is_named(tmp_path):
    save_file({"a": torch.zeros(1000)}, tmp_path / "a.safetensors")
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pth")
    for path, reader in ((tmp_path / "a.safetensors", open_safetensors), (tmp_path / "a.pth", open_pickle)):
        whole = path.read_bytes()
        for kept in (len(whole) - 1, len(whole) // 2):
            path.write_bytes(whole[:kept])
            said = refusal(path, reader)
            assert "cut off" in said
            assert f"{kept:,}" in said


@pytest.mark.parametrize(
    "header", [b"[]", b"{", b'{"a": 3}', b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}', b"\xff\xfe{}", b"[" * 5000]
)
def test_a_header_that_is_none_is_refused(tmp_path, header):
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert "not a readable safetensors file" in refusal(path, open_safetensors)


def test_the_header_says_what_is_in_a_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.zeros(0)}, path, {"format": "pt"})
    content = path.read_bytes()
    header = safetensors_header("here", len(content), lambda start, stop: content[start:stop])
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in header.items()} == {"a": ("bfloat16", (2, 3)), "b": ("float32", (0,))}


# -- older pickles ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_both_formats_of_torch_save_are_read(tmp_path, zipped):
    tensors = {"weight": torch.randn(3, 4).bfloat16(), "bias": torch.arange(5)}
    path = tmp_path / "pytorch_model.bin"
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    checkpoint = open_pickle(path)
    assert {name: checkpoint.read(name).tolist() for name in checkpoint} == {name: tensor.tolist() for name, tensor in tensors.items()}
    assert (checkpoint.shape("weight"), checkpoint.dtype("weight")) == (torch.Size([3, 4]), "bfloat16")
    content = path.read_bytes()
    check_pickle(str(path), len(content), lambda start, stop: content[start:stop])


class Trap:
    """What a malicious checkpoint may hold: unpickling it calls a function."""

    def __reduce__(self):
        return pytest.fail, ("code in a checkpoint was run",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_pickles_of_either_format_run_no_code(tmp_path, zipped):
    path = tmp_path / "bad.pth"
    torch.save({"weight": Trap()}, path, _use_new_zipfile_serialization=zipped)
    assert "only tensors" in refusal(path, open_pickle)


def test_a_plain_pickle_runs_no_code(tmp_path):
    (tmp_path / "bad.pth").write_bytes(pickle.dumps({"weight": Trap()}))
    assert "only tensors" in refusal(tmp_path / "bad.pth", open_pickle)


# -- quantised weights ------------------------------------------------------------------------------------------------

INT8, FP8, FLOAT = torch.zeros(4, 4, dtype=torch.int8), torch.zeros(4, 4).to(torch.float8_e4m3fn), torch.zeros(4)
QUANTISED = {
    "int8 without scales": {"blocks.0.ffn.0.weight": INT8},
    "int8 with scales": {"blocks.0.ffn.0.weight": INT8, "blocks.0.ffn.0.weight_scale": FLOAT},
    "plain fp8": {"blocks.0.ffn.0.weight": FP8, "blocks.0.ffn.0.bias": FLOAT},
    "scaled fp8": {"blocks.0.ffn.0.weight": FP8, "blocks.0.ffn.0.scale_weight": FLOAT, "scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)},
    "optimum-quanto int8": {"blocks.0.ffn.0.weight._data": INT8, "blocks.0.ffn.0.weight._scale": FLOAT},
    "optimum-quanto fp8": {"blocks.0.ffn.0.weight._data": FP8, "blocks.0.ffn.0.weight._scale": FLOAT},
    "bitsandbytes": {"blocks.0.ffn.0.weight": torch.zeros(8, dtype=torch.uint8), "blocks.0.ffn.0.weight.absmax": FLOAT},
}


@pytest.mark.parametrize(("kind", "tensors"), QUANTISED.items(), ids=QUANTISED)
def test_quantised_weights_are_named(tmp_path, kind, tensors):
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    said = refusal(path, open_safetensors)
    assert kind in said
    assert "float32, float16 or bfloat16" in said


def test_whole_numbers_that_are_no_weights_are_accepted():
    content = {name: dict(dtype=dtype, shape=[1], data_offsets=[0, 0]) for name, dtype in (("position_ids", "I64"), ("weight", "F16"))}
    header = json.dumps(content).encode()
    data = len(header).to_bytes(8, "little") + header
    check_quantisation("here", safetensors_header("here", len(data), lambda start, stop: data[start:stop]))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.uint8, torch.float8_e4m3fn, torch.bool, torch.complex64])
def test_a_tensor_that_is_no_float_cannot_fill_a_float_parameter(dtype):
    with build_empty():
        network = nn.Linear(3, 2)
    tensors = {"weight": torch.zeros(2, 3).to(dtype), "bias": torch.zeros(2)}
    with pytest.raises(ConfigError, match=rf"1 of a wrong type: weight is {str(dtype).removeprefix('torch.')}, wanted float32, float16 or bfloat16"):
        load_weights(network, map_sources(InMemoryCheckpoint("memory", tensors), translator(IDENTITY)), dtype=torch.float32, device="cpu")
