"""A safetensors file written front to back, so that it may be larger than memory.

Format: https://huggingface.co/docs/safetensors/index#format (8 bytes of header length, a JSON header, the tensors' bytes).
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {torch.int64: "I64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8", torch.bool: "BOOL"}
ALIGNMENT = 8


def write_tensors(path: Path, layout: Mapping[str, Tensor], tensors: Iterable[Tensor]) -> None:
    """Writes `tensors` as they come, under the names of `layout`, whose tensors (on the meta device, say) tell their shapes and types.

    Larger types should come before smaller ones, so that each tensor begins at a multiple of its own.
    Raises ValueError where a tensor is not as laid out.
    """
    header, stop = {}, 0
    for name, plan in layout.items():
        start, stop = stop, stop + plan.nbytes
        header[name] = {"dtype": DTYPES[plan.dtype], "shape": list(plan.shape), "data_offsets": [start, stop]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, plan), tensor in zip(layout.items(), tensors, strict=True):
            if tensor.dtype != plan.dtype or tensor.shape != plan.shape:
                raise ValueError(f"{name}: {tensor.dtype} {tuple(tensor.shape)} came, {plan.dtype} {tuple(plan.shape)} was laid out")
            file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
