"""What a weight file is, from its first and last bytes and its header alone: readable weights, or what has to be fetched in their place.

Needs neither torch nor a local file, so the driver asks it about every file of a model, in folders and in buckets, before anything starts.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from infinitedub.stages.errors import ConfigError

Read = Callable[[int, int], bytes]
"""The bytes of a file from the first position to the second (excluded); fewer at its end."""

HEAD_BYTES = 512
MAX_HEADER_BYTES = 100_000_000  # of a safetensors file, by its specification
ZIP_END = b"PK\x05\x06"  # begins the last record of a zip file
ZIP_END_BYTES = 22  # size of that record, to which a comment may be added
ZIP_COMMENT_BYTES = 65_535

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "C64": "complex64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""torch's names of the types of safetensors."""
FLOAT_DTYPES = ("float64", "float32", "float16", "bfloat16")
"""The types whose values are weights as they are."""
READABLE = "float32, float16 or bfloat16"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as a header describes it."""

    dtype: str  # torch's name, such as bfloat16; safetensors' own if torch has none
    shape: tuple[int, ...]


def safetensors_header(location: str, size: int, read: Read) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file of `size` bytes. Raises ConfigError, which names `location`, if the file is anything else or incomplete.

    Format: https://huggingface.co/docs/safetensors/index#format (8 bytes of header length, a JSON header, the tensors' bytes).
    """
    head = read(0, HEAD_BYTES)
    if not _looks_like_safetensors(head, size):
        _refuse_other_content(location, head)
        if head.startswith((b"PK\x03\x04", b"\x80")):
            raise ConfigError(f"{location}: is a file of torch.save, wanted a safetensors file; download the safetensors file of the same model")
        raise ConfigError(f"{location}: not a readable safetensors file; download it again")
    stop = 8 + int.from_bytes(head[:8], "little")
    if size < stop:
        raise ConfigError(f"{location}: the download was cut off, {size:,} bytes exist and the header alone has {stop:,}; download it again")
    try:
        tensors, length = _parse_header(json.loads(read(8, stop)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{location}: not a readable safetensors file, its header is damaged; download it again") from error
    if size < stop + length:
        raise ConfigError(f"{location}: the download was cut off, {size:,} of {stop + length:,} bytes exist; download it again")
    return tensors


def check_pickle(location: str, size: int, read: Read) -> None:
    """Raises ConfigError, which names `location`, unless the file begins, and if it is a zip file ends, as torch.save writes it.

    The format before torch 1.6 does not say how long it is: a file of that format that was cut off is noticed when it is loaded.
    """
    head = read(0, HEAD_BYTES)
    if head.startswith(b"PK\x03\x04"):
        tail = read(max(0, size - ZIP_END_BYTES - ZIP_COMMENT_BYTES), size)
        if ZIP_END not in tail[: len(ZIP_END) - ZIP_END_BYTES]:
            raise ConfigError(f"{location}: the download was cut off, {size:,} bytes exist and the end of the zip file is missing; download it again")
    elif not head.startswith(b"\x80"):
        if _looks_like_safetensors(head, size):
            raise ConfigError(f"{location}: is a safetensors file, wanted a file of torch.save; download the file of that name again")
        _refuse_other_content(location, head)
        raise ConfigError(f"{location}: not a readable file of torch.save; download it again")


def check_quantisation(location: str, tensors: Mapping[str, StoredTensor]) -> None:
    """Raises ConfigError, which names the kind, if the tensors are quantised."""
    if kind := quantisation(tensors):
        raise ConfigError(f"{location}: holds {kind}, which cannot be read; download the same weights as {READABLE}")


def quantisation(tensors: Mapping[str, StoredTensor]) -> str:
    """How the tensors are quantised, in words; empty if they are not. Whole numbers of 64 bits are counters and positions, not weights.

    Names: optimum-quanto writes `X._data` and `X._scale`; ComfyUI `X.scale_weight` and one `scaled_fp8`; LightX2V and llm-compressor
    `X.weight_scale`; bitsandbytes `X.absmax`, `X.SCB` and `X.quant_state.*`.
    """
    small = {tensor.dtype for tensor in tensors.values()} & {"int8", "uint8", "float8_e4m3fn", "float8_e5m2"}
    bits = "fp8" if any(dtype.startswith("float8") for dtype in small) else "int8"
    if any(name.endswith("._data") and f"{name.removesuffix('_data')}_scale" in tensors for name in tensors):
        return f"weights quantised by optimum-quanto {bits} (`_data`, `_scale`)"
    if not small and "scaled_fp8" not in tensors:
        return ""
    if any(re.search(r"\.(absmax|SCB|quant_map|quant_state\..+)$", name) for name in tensors):
        return "weights quantised by bitsandbytes"
    scaled = any(re.search(r"(^|[._])(scale_weight|weight_scale|scale)$", name) for name in tensors) or "scaled_fp8" in tensors
    if bits == "fp8":
        return "scaled fp8 weights (`scale_weight`, `scaled_fp8`)" if scaled else "plain fp8 weights"
    return "int8 with scales" if scaled else "int8 without scales, the factors without which its numbers are no weights"


def _looks_like_safetensors(head: bytes, size: int) -> bool:
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= length <= MAX_HEADER_BYTES and size > 8


def _parse_header(content: dict[str, Any]) -> tuple[dict[str, StoredTensor], int]:
    """The tensors, and the number of their bytes."""
    tensors: dict[str, StoredTensor] = {}
    length = 0
    for name, entry in content.items():
        if name != "__metadata__":
            tensors[name] = StoredTensor(DTYPES.get(entry["dtype"], entry["dtype"]), tuple(int(axis) for axis in entry["shape"]))
            start, stop = (int(offset) for offset in entry["data_offsets"])
            length = max(length, start, stop)
    return tensors, length


def _refuse_other_content(location: str, head: bytes) -> None:
    """Raises ConfigError for what is often found in place of weights."""
    text = head.lstrip().lower()
    if not head:
        raise ConfigError(f"{location}: is empty; download it again")
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise ConfigError(f"{location}: is a git-lfs pointer in place of the file; run `git lfs pull` in its folder, or download the file")
    if head.startswith(b"GGUF"):
        raise ConfigError(f"{location}: is a GGUF file, which cannot be read; download the same weights as a safetensors file of {READABLE}")
    if text.startswith((b"<!doctype html", b"<html")):
        raise ConfigError(f"{location}: is a web page in place of the file, such as a login or a licence to accept; download the file again")
    if text.startswith((b"<?xml", b'{"error', b"<error")):
        raise ConfigError(f"{location}: is the answer of a server in place of the file; download the file again")
