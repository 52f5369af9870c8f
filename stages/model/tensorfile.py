"""Safetensors files that are allocated first and written in parts: an hour of speech features (3.3 GB per voice) is never in memory at once."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {torch.int64: "I64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8", torch.bool: "BOOL"}
ALIGNMENT = 8


def create_tensorfile(path: Path, layout: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Creates a file at `path` and maps it: tensors of zeros with the shapes and types of `layout`; writing to them writes to the file.

    Written pages count as memory of this process until the system reclaims them; use `allocate_tensorfile` for files much larger than memory.
    """
    starts = allocate_tensorfile(path, layout)
    mapped = torch.from_file(str(path), shared=True, size=path.stat().st_size, dtype=torch.uint8)
    parts = {name: mapped[start : start + layout[name].nbytes] for name, start in starts.items()}
    return {name: part.view(layout[name].dtype).view(layout[name].shape) for name, part in parts.items()}


def allocate_tensorfile(path: Path, layout: Mapping[str, Tensor]) -> dict[str, int]:
    """Creates a file at `path` with tensors of zeros, shaped and typed as in `layout`, and returns the byte offset of each.

    Larger types come first, so that each tensor is aligned to its own type. Write the tensors with seek and write.
    Format: https://huggingface.co/docs/safetensors/index#format (8 bytes of header length, a JSON header, the tensors' bytes).
    """
    header: dict[str, dict[str, Any]] = {}
    stop = 0
    for name, tensor in sorted(layout.items(), key=lambda item: -item[1].itemsize):
        start, stop = stop, stop + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, stop]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        begin = file.tell()
        file.truncate(begin + stop)
    return {name: begin + header[name]["data_offsets"][0] for name in header}
