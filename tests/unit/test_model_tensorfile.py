"""Safetensors files that are filled piece by piece, as any reader sees them."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from infinitedub.stages.model.tensorfile import create_tensorfile


def test_tensors_of_all_types_are_read_back(tmp_path: Path):
    tensors = {
        "flags": torch.tensor([[True, False]]),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "halves": torch.randn(1, 5).bfloat16(),
        "floats": torch.randn(2, 3, 4).transpose(0, 2),
        "numbers": torch.tensor([3, 1]),
        "nothing": torch.empty(0, 4),
    }
    file = create_tensorfile(tmp_path / "all.safetensors", {name: tensor.to("meta") for name, tensor in tensors.items()})
    for name, tensor in tensors.items():
        file[name].copy_(tensor)
    read = load_file(tmp_path / "all.safetensors")
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name


def test_a_file_may_be_filled_in_pieces_and_is_zero_elsewhere(tmp_path: Path):
    path = tmp_path / "pieces.safetensors"
    create_tensorfile(path, {"rows": torch.empty(3, 2, device="meta")})["rows"].numpy()[1:] = [[1, 2], [3, 4]]
    with safe_open(path, "pt") as file:
        assert file.get_tensor("rows").tolist() == [[0, 0], [1, 2], [3, 4]]
        assert file.get_slice("rows")[1:2].tolist() == [[1, 2]]


def test_the_same_tensors_make_the_same_bytes(tmp_path: Path):
    def written(name: str) -> bytes:
        create_tensorfile(tmp_path / name, {"a": torch.empty(3, device="meta")})["a"].fill_(2.5)
        return (tmp_path / name).read_bytes()

    assert written("one.safetensors") == written("two.safetensors")
