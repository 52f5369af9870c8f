"""Failure classes: what an exception of a stage, of Ray or of the storage means for the call that met it."""

import errno
import traceback
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from infinitedub.stages.errors import BadInput, ConfigError, DubError, Transient

TRACE_LINES = 40
NAMESPACE = "infinitedub"
NO_ROOM = "no room on the cluster"
"""The fingerprint of a failed placement: the message differs with what is free at the moment, the failure is the same."""
TRANSIENT_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EHOSTUNREACH, errno.ENETUNREACH)
"""A disk that is full or gone, a network that is down: a failure of the machine, not of the code."""

GPU_MEMORY = (
    "cuda error: out of memory",
    "cuda out of memory",
    "cudaerrormemoryallocation",
    "cuda_error_out_of_memory",  # the driver API's name, as Triton and NVRTC print it
    "cuda failure 2",  # NCCL, which allocates its buffers at the first collective
    "cuda failure 'out of memory'",  # older NCCL
    "cudahostalloc",  # pinned memory, which low-memory mode uses
    "cublas_status_alloc_failed",
    "cublas_status_not_initialized",  # cuBLAS creates its workspace at the first call and reports a full GPU so
    "cudnn_status_alloc_failed",
    "cudnn_status_internal_error_device_allocation_failed",  # since cuDNN 9
    "unable to find an engine",  # cuDNN found no algorithm whose workspace fits
    "unable to find a valid cudnn algorithm",  # older torch
    "cusolver_status_alloc_failed",
    "cufft_alloc_failed",
)
"""Parts of messages, in lower case, with which torch and NVIDIA's libraries report that the GPU's memory is full."""


class FailureClass(StrEnum):
    """Why a call failed. Each class has its own budget in `RetrySettings`, under the same name, except the first two."""

    INPUT = "input"  # the job's material: never retried
    CONFIG = "config"  # the settings: never retried
    STORAGE = "storage"
    WORKER_LOST = "worker_lost"  # the process died, or the watchdog killed it
    GANG_LOST = "gang_lost"  # a rank died, or the ranks lost their connections
    NODE_LOST = "node_lost"
    HOST_OOM = "host_oom"  # the machine ran out of memory
    GPU_OOM = "gpu_oom"
    NUMERIC = "numeric"  # NaN or infinity
    CODE = "code"  # every other exception


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure as plain data: a worker's exception need neither be picklable nor known to the driver."""

    kind: FailureClass
    reason: str
    trace: str  # the last lines of the traceback, or of the process's standard error before it died
    fingerprint: str = ""  # equal for the same error with the same origin; empty for failures that say nothing about other calls
    while_opening: bool = False  # the stage could not be opened, so the call's own records were never read

    @property
    def worker_is_reusable(self) -> bool:
        """Whether the process may take the next call: the stage ended the call in good order."""
        return self.kind in (FailureClass.INPUT, FailureClass.CONFIG, FailureClass.STORAGE)

    def at_opening(self) -> Self:
        """The same failure, marked as one of opening the stage: it concerns every call of the stage."""
        return replace(self, fingerprint=self.fingerprint or f"{self.kind} while the stage was opened", while_opening=True)


class RetriesExhausted(DubError):
    """The retry budget of a failure class is spent."""

    def __init__(self, message: str, kind: FailureClass, attempts: int, trace: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.attempts = attempts
        self.trace = trace


class WorkerTraceback(Exception):
    """The `__cause__` of a driver's exception that stands for a worker's: prints the worker's traceback."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def classify(error: BaseException) -> FailureClass:
    """The failure class of an exception, judged in the process that raised it. Torch's exceptions are recognised by name, without importing torch."""
    if isinstance(error, BadInput):
        return FailureClass.INPUT
    if isinstance(error, ConfigError):
        return FailureClass.CONFIG
    if isinstance(error, Transient | ConnectionError | TimeoutError) or (isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS):
        return FailureClass.STORAGE
    if isinstance(error, FloatingPointError):
        return FailureClass.NUMERIC
    torch_names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.partition(".")[0] == "torch"}
    text = str(error)
    if "OutOfMemoryError" in torch_names or any(part in text.lower() for part in GPU_MEMORY):
        return FailureClass.GPU_OOM
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: " in text or getattr(error, "errno", None) == errno.ENOMEM:
        return FailureClass.HOST_OOM
    if "DistError" in torch_names or "/gloo/transport/" in text or "NCCL error" in text:
        return FailureClass.GANG_LOST  # a rank's view of another rank's death
    if "AcceleratorError" in torch_names or text.startswith("CUDA error: "):
        return FailureClass.WORKER_LOST  # after such an error every later CUDA call of the process fails
    return FailureClass.CODE


def failure_of(error: BaseException) -> Failure:
    """The `Failure` of an exception. The reason names the exception's type, except for a `DubError`, whose message is complete."""
    kind = classify(error)
    reason = (str(error) if isinstance(error, DubError) else "".join(traceback.format_exception_only(error)).strip()) or type(error).__name__
    fingerprint = {FailureClass.CODE: _origin(error), FailureClass.CONFIG: reason}.get(kind, "")
    return Failure(kind, reason, last_lines("".join(traceback.format_exception(error))), fingerprint)


def retries_exhausted(failure: Failure, attempts: int) -> RetriesExhausted:
    """The exception to raise when the budget of the last failure's class is spent."""
    count = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    return RetriesExhausted(f"given up after {count} ({failure.kind}): {failure.reason}", failure.kind, attempts, failure.trace)


def _origin(error: BaseException) -> str:
    """The exception's type, our last three calls and the raising call. Messages are left out: they name files and sizes, which differ per job."""
    calls = [(str(frame.f_globals.get("__name__")), frame.f_code.co_name, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    ours = [call for call in calls if call[0].partition(".")[0] == NAMESPACE]
    return " < ".join([type(error).__name__, *(f"{module}.{function}:{line}" for module, function, line in reversed([*ours[-3:], *calls[-1:]]))])


def last_lines(text: str, lines: int = TRACE_LINES) -> str:
    """The end of a traceback or log, where the error is."""
    return "\n".join(text.splitlines()[-lines:])
