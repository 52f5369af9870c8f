"""Weight files, read one tensor at a time."""

import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.weights.file_format import Read, StoredTensor, check_pickle, check_quantisation, safetensors_header
from infinitedub.stages.model.weights.model_files import parse_json, safetensors_names


class Checkpoint(Protocol):
    """Named tensors that are read one at a time."""

    @property
    def location(self) -> str: ...

    def __iter__(self) -> Iterator[str]: ...

    def shape(self, name: str) -> torch.Size: ...

    def dtype(self, name: str) -> str: ...

    def read(self, name: str) -> Tensor: ...


class SafetensorsCheckpoint:
    """The tensors of one or several safetensors files; only the headers are read until a tensor is read.

    Raises ConfigError for a file that is not one, is incomplete, or holds quantised weights.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        paths = list(paths)
        self.location = str(paths[0] if len(paths) == 1 else paths[0].parent)
        self.files: dict[str, Any] = {}
        self.tensors: dict[str, StoredTensor] = {}
        for path in paths:
            try:
                tensors = safetensors_header(str(path), path.stat().st_size, local_reader(path))
                check_quantisation(str(path), tensors)
                file = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise ConfigError(f"{path}: not a readable safetensors file ({error}); download it again") from error
            self.files |= dict.fromkeys(tensors, file)
            self.tensors |= tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def shape(self, name: str) -> torch.Size:
        return torch.Size(self.tensors[name].shape)

    def dtype(self, name: str) -> str:
        return self.tensors[name].dtype

    def read(self, name: str) -> Tensor:
        return self.files[name].get_tensor(name)


@dataclass(frozen=True, slots=True)
class InMemoryCheckpoint:
    """Tensors in memory, or mapped into it."""

    location: str
    tensors: Mapping[str, Tensor]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def shape(self, name: str) -> torch.Size:
        return self.tensors[name].shape

    def dtype(self, name: str) -> str:
        return str(self.tensors[name].dtype).removeprefix("torch.")

    def read(self, name: str) -> Tensor:
        return self.tensors[name]


def open_pickle(path: Path) -> InMemoryCheckpoint:
    """The tensors of a `.pth` or `.bin` file. Only tensors are unpickled. Raises ConfigError.

    They are mapped into memory, or read as a whole if the file is of the format before torch 1.6, which cannot be mapped.
    """
    try:
        check_pickle(str(path), path.stat().st_size, local_reader(path))
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, ValueError, OSError) as error:
        raise ConfigError(f"{path}: not a readable file that holds only tensors ({str(error).splitlines()[0]}); download it again") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ConfigError(f"{path}: wanted a mapping from names to tensors; download the file again")
    return InMemoryCheckpoint(str(path), tensors)


def local_reader(path: Path) -> Read:
    """Reads parts of a file of this machine."""

    def read(start: int, stop: int) -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    return read


def find_safetensors(folder: Path, stem: str) -> SafetensorsCheckpoint:
    """`stem`.safetensors of `folder`, or all of its shards. Raises ConfigError if files are missing."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    wanted = safetensors_names(str(folder), names, stem, lambda name: parse_json(str(folder / name), (folder / name).read_bytes()))
    if missing := [name for name in wanted if name not in names]:
        raise ConfigError(f"{folder}: {len(missing)} of {len(wanted)} files of {stem} are missing: {', '.join(missing)}; download them")
    return SafetensorsCheckpoint([folder / name for name in wanted])


def require_path(path: Path, content: str) -> Path:
    """`path`, if it exists; else raises ConfigError, which says what `content` is missing."""
    if not path.exists():
        raise ConfigError(f"{path}: missing; it should hold {content}")
    return path
