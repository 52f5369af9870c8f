"""Sequence parallelism: several processes share one window. The only file that imports torch.distributed and xfuser.

Each rank holds an equal part of the tokens. For self-attention the ranks exchange tokens for heads (Jacobs et al., DeepSpeed Ulysses, 2023), so that
each has all tokens with its share of the heads, and exchange back.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor

from infinitedub.stages.contract import Rank
from infinitedub.stages.engines.settings import ParallelSettings
from infinitedub.stages.errors import BadInput, ConfigError, Transient
from infinitedub.stages.model.shards import Shards, SingleDevice, attention


@dataclass(frozen=True, slots=True)
class TorchUlysses:
    """`Shards` with torch's collectives only, on any device and backend."""

    rank: int
    degree: int

    def attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        exchanged = all_to_all(rearrange(torch.stack([query, key, value]), "three b s (r n) k -> r three b s n k", r=self.degree))
        query, key, value = rearrange(exchanged, "r three b s n k -> three b (r s) n k")
        attended = attention(query, key, value)
        return rearrange(all_to_all(rearrange(attended, "b (r s) n k -> r b s n k", r=self.degree)), "r b s n k -> b s (r n) k")

    def gather(self, tokens: Tensor) -> Tensor:
        gathered = tokens.new_empty(self.degree * tokens.shape[0], *tokens.shape[1:])
        dist.all_gather_single(gathered, tokens.contiguous())
        return rearrange(gathered, "(r b) s d -> b (r s) d", r=self.degree)

    def first_frame(self, keys: Tensor, frame_tokens: int) -> Tensor:
        holders = -(-frame_tokens // keys.shape[1])
        pieces = [broadcast(keys[:, :frame_tokens], source) for source in range(holders)]
        return torch.cat(pieces, dim=1)[:, :frame_tokens]

    def min_max(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        low, high = torch.aminmax(rows, dim=1)
        both = torch.cat([-low, high])
        dist.all_reduce(both, dist.ReduceOp.MAX)
        return -both[: len(rows)], both[len(rows) :]


class XfuserUlysses(TorchUlysses):
    """`Shards` whose attention is xfuser's unified sequence parallelism: fused exchange, and the fastest kernel the GPU has."""

    def attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        from xfuser.core.distributed.attention_backend import AttentionBackendType
        from xfuser.model_executor.layers.usp import USP

        kernel = (
            AttentionBackendType.SDPA if query.dtype == torch.float32 else None
        )  # None: the kernel that `start_xfuser` chose, none of which supports float32
        heads_first = [tensor.transpose(1, 2) for tensor in (query, key, value)]
        return USP(*heads_first, combine_qkv_a2a=True, backend=kernel).transpose(1, 2)


def all_to_all(pieces: Tensor) -> Tensor:
    """Sends `pieces`[r] to rank r, and returns what all ranks sent to this one, in rank order."""
    received = torch.empty_like(pieces, memory_format=torch.contiguous_format)
    dist.all_to_all_single(received, pieces.contiguous())
    return received


def broadcast(tensor: Tensor, source: int = 0) -> Tensor:
    """The tensor of rank `source` on every rank; the others pass one of the same shape and type, whose values are ignored."""
    shared = tensor.contiguous().clone()
    dist.broadcast(shared, source)
    return shared


def join(rank: Rank, settings: ParallelSettings) -> Shards:
    """Joins the other ranks at `rank.rendezvous`. `leave` is the counterpart."""
    if rank.world_size != settings.degree:
        raise ConfigError(f"the gang has {rank.world_size} ranks, but generate.parallel.degree={settings.degree}; make both the same")
    if settings.degree == 1:
        return SingleDevice()
    device = torch.device(rank.device)
    backend = settings.backend
    if backend == "auto":
        backend = "xfuser" if device.type == "cuda" else "torch"
    if backend == "xfuser" and device.type != "cuda":
        raise ConfigError(f"generate.parallel.backend=xfuser needs CUDA, but the gang is on {rank.device}; set it to torch or auto")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=rank.rendezvous,
        rank=rank.index,
        world_size=rank.world_size,
        timeout=timedelta(seconds=settings.timeout_seconds),
    )
    if backend == "torch":
        return TorchUlysses(rank.index, rank.world_size)
    start_xfuser(rank, device)
    return XfuserUlysses(rank.index, rank.world_size)


def start_xfuser(rank: Rank, device: torch.device) -> None:
    """Initialises xfuser with the existing process group. Imported here, since xfuser cannot be imported without CUDA."""
    from xfuser import xFuserArgs
    from xfuser.core.distributed import init_distributed_environment, initialize_model_parallel, runtime_state

    init_distributed_environment(rank.world_size, rank.index, local_rank=device.index or 0, backend=dist.get_backend())
    initialize_model_parallel(sequence_parallel_degree=rank.world_size, ulysses_degree=rank.world_size, backend=dist.get_backend())

    class State(runtime_state.RuntimeState):
        """USP reads its kernel from a runtime state. xfuser creates one for a diffusers pipeline or for a single process only."""

        def _check_distributed_env(self, parallel_config: Any) -> None:
            """The groups were created three lines above, in this process."""

    engine, _ = xFuserArgs(ulysses_degree=rank.world_size).create_config()
    runtime_state._RUNTIME = State(engine)


def leave(shards: Shards) -> None:
    """Leaves the process group. Does not wait for the other ranks, which may have died."""
    if isinstance(shards, XfuserUlysses):
        from xfuser.core.distributed.parallel_state import destroy_distributed_environment, destroy_model_parallel

        destroy_model_parallel()
        destroy_distributed_environment()
    if dist.is_initialized() and not isinstance(shards, SingleDevice):
        dist.destroy_process_group()


def broadcast_number(number: int, shards: Shards, device: torch.device | str) -> int:
    """Rank 0's number on every rank."""
    return number if shards.degree == 1 else int(broadcast(torch.tensor([number], device=device)))


FAILURES: tuple[type[Exception], ...] = (BadInput, ConfigError, Transient, FloatingPointError, MemoryError, ConnectionError, TimeoutError, OSError)
"""Classes of failures that are sent between ranks, by number from 1; all others are sent as RuntimeError."""
STATUS_BYTES = 1024
"""Size of a rank's status: a byte for the class of its failure (0: none), two for the errno, the rest for the message in UTF-8, padded with zeros."""


@contextmanager
def raise_on_all_ranks(shards: Shards, device: torch.device | str) -> Iterator[None]:
    """Makes a failure of the block on any rank a failure of all ranks, so that none of them waits in a collective for one that has failed.

    Every rank must enter the block, which must not contain collectives of its own. A rank that failed raises its own error. The others raise an
    error of the same class whose message names the lowest failing rank. Costs one small all-gather.
    """
    if shards.degree == 1:
        yield
        return
    failure: Exception | None = None
    try:
        yield
    except Exception as error:  # noqa: BLE001 - raised again below
        failure = error
    statuses = torch.zeros(shards.degree * STATUS_BYTES, dtype=torch.uint8, device=device)
    dist.all_gather_single(statuses, encode_status(failure).to(device))
    if failure is not None:
        raise failure
    for rank, status in enumerate(statuses.cpu().view(shards.degree, STATUS_BYTES)):
        if status[0]:
            raise decode_status(status, rank)


def encode_status(failure: Exception | None) -> Tensor:
    """The status of a rank as bytes [STATUS_BYTES], uint8."""
    if failure is None:
        return torch.zeros(STATUS_BYTES, dtype=torch.uint8)
    number = next((number for number, kind in enumerate(FAILURES, start=1) if isinstance(failure, kind)), len(FAILURES) + 1)
    known = number <= len(FAILURES)
    message = str(failure) if known else f"{type(failure).__name__}: {failure}"
    errno = getattr(failure, "errno", None) or 0
    encoded = bytes([number]) + errno.to_bytes(2, "little") + message.encode()[: STATUS_BYTES - 3]
    return torch.frombuffer(bytearray(encoded.ljust(STATUS_BYTES, b"\0")), dtype=torch.uint8)


def decode_status(status: Tensor, rank: int) -> Exception:
    """The failure that `encode_status` wrote on another rank."""
    encoded = bytes(status.tolist())
    number, errno = encoded[0], int.from_bytes(encoded[1:3], "little")
    message = f"rank {rank}: {encoded[3:].rstrip(bytes(1)).decode(errors='ignore')}"
    if number > len(FAILURES):
        return RuntimeError(message)
    kind = FAILURES[number - 1]
    return kind(errno, message) if errno and issubclass(kind, OSError) else kind(message)


def from_first(tensor: Tensor | None, shape: Sequence[int], shards: Shards, device: torch.device) -> Tensor:
    """Rank 0's float32 `tensor` on every rank; the other ranks pass None."""
    if tensor is None:
        tensor = torch.empty(tuple(shape), device=device)
    return tensor if shards.degree == 1 else broadcast(tensor)
