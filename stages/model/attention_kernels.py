"""The kernels of scaled dot-product attention that a user may choose."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.models.attention_dispatch import attention_backend

from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.shards import attention

BACKENDS = {
    "native": "native",
    "flash": "_native_flash",
    "efficient": "_native_efficient",
    "cudnn": "_native_cudnn",
    "math": "_native_math",
}
"""Torch's own kernels, by their names in diffusers; native leaves the choice to torch. None of them is downloaded or installed separately."""


@contextmanager
def attention_kernel(name: str) -> Iterator[None]:
    """Within this context `attention` uses the kernel."""
    with attention_backend(BACKENDS[name]):
        yield


def check_kernel(name: str, head_dim: int, dtype: torch.dtype, device: torch.device | str) -> None:
    """Raises ConfigError if torch has no such kernel for heads of that size, number format and device."""
    tokens = torch.zeros(1, 16, 1, head_dim, dtype=dtype, device=device)
    try:
        with attention_kernel(name):
            attention(tokens, tokens, tokens)
    except RuntimeError as error:
        raise ConfigError(
            f"torch has no attention kernel {name!r} for {str(dtype).removeprefix('torch.')} on {device} with heads of {head_dim} "
            f"({str(error).splitlines()[0]}); take generate.attention=native"
        ) from error
