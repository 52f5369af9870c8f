"""Weight files, read one tensor at a time."""

import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from infinitedub.stages.errors import ConfigError

SHARD = re.compile(r".*-\d{5}-of-(\d{5})\.safetensors")


class Checkpoint(Protocol):
    """Named tensors."""

    @property
    def where(self) -> str: ...

    def __iter__(self) -> Iterator[str]: ...

    def shape(self, name: str) -> torch.Size: ...

    def read(self, name: str) -> Tensor: ...


class Safetensors:
    """The tensors of one or several safetensors files; only headers are read until a tensor is asked for."""

    def __init__(self, paths: Iterable[Path]) -> None:
        paths = list(paths)
        self.where = str(paths[0] if len(paths) == 1 else paths[0].parent)
        self.files: dict[str, Any] = {}
        for path in paths:
            try:
                file = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise ConfigError(f"{path}: not a readable safetensors file ({error}); fetch it again") from error
            self.files |= dict.fromkeys(file.keys(), file)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def shape(self, name: str) -> torch.Size:
        return torch.Size(self.files[name].get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        return self.files[name].get_tensor(name)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Tensors that are in memory, or mapped into it."""

    where: str
    tensors: Mapping[str, Tensor]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def shape(self, name: str) -> torch.Size:
        return self.tensors[name].shape

    def read(self, name: str) -> Tensor:
        return self.tensors[name]


def unpickle(path: Path) -> Loaded:
    """The tensors of a `.pth` or `.bin` file, mapped into memory. Nothing but tensors is unpickled. Raises ConfigError."""
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, OSError) as error:
        raise ConfigError(f"{path}: not a readable file of nothing but tensors ({str(error).splitlines()[0]}); fetch it again") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ConfigError(f"{path}: holds something else than named tensors")
    return Loaded(str(path), tensors)


def find_safetensors(folder: Path, stem: str) -> Safetensors:
    """`stem`.safetensors of `folder`, or all of its shards. Raises ConfigError where files are missing."""
    whole = folder / f"{stem}.safetensors"
    if whole.is_file():
        return Safetensors([whole])
    shards = sorted(path for path in folder.glob(f"{stem}-*.safetensors") if SHARD.fullmatch(path.name))
    if not shards:
        raise ConfigError(f"{folder}: neither {whole.name} nor its shards {stem}-*-of-*.safetensors are there")
    wanted = int(SHARD.fullmatch(shards[0].name)[1])  # type: ignore[index]
    if len(shards) != wanted:
        raise ConfigError(f"{folder}: {len(shards)} of {wanted} shards of {stem} are there; fetch the others")
    return Safetensors(shards)


def need(path: Path, what: str) -> Path:
    """`path`, which must exist. Raises ConfigError."""
    if not path.exists():
        raise ConfigError(f"{path}: missing; it should hold {what}")
    return path
