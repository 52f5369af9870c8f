"""Checks the files of a model without loading them: which are missing, which are not what they should be, and what the others hold.

Reads JSON files, the headers of safetensors files and the ends of the others: some MB in all, in folders and in buckets.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.weights.file_format import Read, StoredTensor, check_pickle, check_quantisation, safetensors_header
from infinitedub.stages.model.weights.model_files import ModelFile, ReadJson, parse_json


class WeightFiles(Protocol):
    """Reads the files of models, wherever they lie. Both methods raise ConfigError if access is refused."""

    def sizes(self, location: str) -> Mapping[str, int]:
        """The size in bytes of every file below a folder, by relative name; of a file, under the empty name; empty if nothing is there."""

    def read(self, location: str, name: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` (excluded) of the file `name` of `sizes`."""


@dataclass(frozen=True)
class CheckedFiles:
    """What is known of some files of a model."""

    faults: tuple[str, ...] = ()  # one sentence each
    tensors: Mapping[str, Mapping[str, StoredTensor]] = field(default_factory=dict)  # of networks whose files have no fault
    objects: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # in JSON files, by name


FilesOf = Callable[[str, Collection[str], ReadJson], list[ModelFile]]
"""Every file of a model, given its folder, the names of the files that exist, and how its JSON files are read. Raises ConfigError."""


def check_folder(files: WeightFiles, location: str, files_of: FilesOf) -> CheckedFiles:
    """Checks every file of a model in the folder `location`."""

    def read_json(name: str) -> dict[str, Any]:
        return parse_json(f"{location}/{name}", files.read(location, name, 0, sizes[name]))

    try:
        sizes = files.sizes(location)
        if "" in sizes:
            safetensors_header(location, sizes[""], lambda start, stop: files.read(location, "", start, stop))
            return CheckedFiles((f"{location}: is a single file, wanted a model's folder",))
        model_files = files_of(location, sizes.keys(), read_json)
    except ConfigError as error:
        return CheckedFiles((str(error),))

    faults: list[str] = []
    incomplete: set[str] = set()
    tensors: dict[str, dict[str, StoredTensor]] = {}
    objects: dict[str, Mapping[str, Any]] = {}
    for file in model_files:
        try:
            if file.name not in sizes:
                raise ConfigError(f"{location}/{file.name}: missing ({file.network})")
            if file.kind == "json":
                objects[file.name] = read_json(file.name)
            elif file.kind == "safetensors":
                tensors.setdefault(file.network, {}).update(_tensors(files, location, file.name, sizes[file.name]))
            elif file.kind == "pickle":
                check_pickle(f"{location}/{file.name}", sizes[file.name], _reader(files, location, file.name))
        except ConfigError as error:
            faults.append(str(error))
            incomplete.add(file.network)
    return CheckedFiles(tuple(faults), {network: held for network, held in tensors.items() if network not in incomplete}, objects)


def check_file(files: WeightFiles, location: str, content: str) -> CheckedFiles:
    """Checks one safetensors file, whose tensors are then found under `content`."""
    try:
        sizes = files.sizes(location)
        if not sizes:
            raise ConfigError(f"{location}: missing ({content})")
        if "" not in sizes:
            raise ConfigError(f"{location}: is a folder, wanted a safetensors file ({content})")
        return CheckedFiles(tensors={content: _tensors(files, location, "", sizes[""])})
    except ConfigError as error:
        return CheckedFiles((str(error),))


def _tensors(files: WeightFiles, location: str, name: str, size: int) -> dict[str, StoredTensor]:
    place = f"{location}/{name}" if name else location
    tensors = safetensors_header(place, size, _reader(files, location, name))
    check_quantisation(place, tensors)
    return tensors


def _reader(files: WeightFiles, location: str, name: str) -> Read:
    return lambda start, stop: files.read(location, name, start, stop)
