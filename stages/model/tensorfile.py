"""A safetensors file that is laid out first and filled piece by piece: an hour of speech features (3.3 GB per voice) never lies in memory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {torch.int64: "I64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8", torch.bool: "BOOL"}
ALIGNMENT = 8


def create(path: Path, layout: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that are a new file at `path`: what is written into them is in the file. They are zero at first, shaped and typed as in `layout`.

    What has been written counts as memory of this process until the system takes it back; `lay_out` is for files that are much larger than memory.
    """
    starts = lay_out(path, layout)
    whole = torch.from_file(str(path), shared=True, size=path.stat().st_size, dtype=torch.uint8)
    pieces = {name: whole[start : start + layout[name].nbytes] for name, start in starts.items()}
    return {name: piece.view(layout[name].dtype).view(layout[name].shape) for name, piece in pieces.items()}


def lay_out(path: Path, layout: Mapping[str, Tensor]) -> dict[str, int]:
    """A new file at `path` of tensors that are zero, shaped and typed as in `layout`, and at which byte each begins: filled by seeking and writing.

    Larger types come first, so that each tensor begins at a multiple of its own.
    Format: https://huggingface.co/docs/safetensors/index#format (8 bytes of header length, a JSON header, the tensors' bytes).
    """
    header: dict[str, dict[str, Any]] = {}
    stop = 0
    for name, plan in sorted(layout.items(), key=lambda item: -item[1].itemsize):
        start, stop = stop, stop + plan.nbytes
        header[name] = {"dtype": DTYPES[plan.dtype], "shape": list(plan.shape), "data_offsets": [start, stop]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        begin = file.tell()
        file.truncate(begin + stop)
    return {name: begin + header[name]["data_offsets"][0] for name in header}
