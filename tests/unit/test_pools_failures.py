"""Exceptions become failures: classified where they are raised, as plain data."""

import errno
import pickle
import subprocess
import sys
from typing import Any

import pytest

from infinitedub.pipeline.pools.failures import Failure, FailureClass, classify, failure_of
from infinitedub.stages.errors import BadInput, ConfigError, Transient


def torch_error(name: str, *bases: type[Exception]) -> type[Exception]:
    """An exception as torch defines it, without importing torch."""
    return type(name, bases or (RuntimeError,), {"__module__": "torch"})


DIST_ERROR = torch_error("DistError")
GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:47522"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadInput("no sound"), FailureClass.INPUT),
        (ConfigError("no such weights"), FailureClass.CONFIG),
        (Transient("503"), FailureClass.STORAGE),
        (FloatingPointError("NaN in window 2"), FailureClass.NUMERIC),
        (MemoryError(), FailureClass.HOST_OOM),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), FailureClass.HOST_OOM),
        (OSError(errno.ENOSPC, "No space left on device"), FailureClass.STORAGE),
        (ConnectionResetError("by peer"), FailureClass.STORAGE),
        (TimeoutError("timed out"), FailureClass.STORAGE),
        (torch_error("AcceleratorError")("CUDA error: an illegal memory access was encountered"), FailureClass.WORKER_LOST),
        (torch_error("OutOfMemoryError")("CUDA out of memory. Tried to allocate 2 GiB"), FailureClass.GPU_OOM),
        (RuntimeError("CUDA error: out of memory"), FailureClass.GPU_OOM),
        (torch_error("DistBackendError", DIST_ERROR)("NCCL error in: ProcessGroupNCCL.cpp"), FailureClass.GANG_LOST),
        (RuntimeError(GLOO), FailureClass.GANG_LOST),
        (type("OutOfMemoryError", (Exception,), {"__module__": "elsewhere"})("not torch's"), FailureClass.CODE),
        (RuntimeError("shape mismatch"), FailureClass.CODE),
        (OSError("disk"), FailureClass.CODE),
    ],
)
def test_classify(error: Exception, kind: FailureClass) -> None:
    assert classify(error) is kind


@pytest.mark.parametrize(
    "text",
    [
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "GET was unable to find an engine to execute this computation",
        "FIND was unable to find an engine to execute this computation",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
        "cuFFT error: CUFFT_ALLOC_FAILED",
        "cudaHostAlloc failed: out of memory",
        "CUDA out of memory. Tried to allocate 7.80 GiB",
        "Triton Error [CUDA]: CUDA_ERROR_OUT_OF_MEMORY",
    ],
)
def test_a_full_gpu_is_recognised_in_the_words_of_every_library(text: str) -> None:
    for kind in (RuntimeError, torch_error("AcceleratorError")):
        assert classify(kind(text)) is FailureClass.GPU_OOM


def test_nccl_without_gpu_memory_is_not_a_lost_gang() -> None:
    text = "NCCL error in: ProcessGroupNCCL.cpp, unhandled cuda error. Last error:\nCuda failure {}"
    nccl_error = torch_error("DistBackendError", DIST_ERROR)
    assert classify(nccl_error(text.format("2 'out of memory'"))) is FailureClass.GPU_OOM
    assert classify(nccl_error(text.format("719 'unspecified launch failure'"))) is FailureClass.GANG_LOST


def test_exceptions_of_torch_are_classified() -> None:
    torch = pytest.importorskip("torch")
    assert classify(torch.cuda.OutOfMemoryError("CUDA out of memory")) is FailureClass.GPU_OOM
    assert classify(torch.distributed.DistNetworkError("The client socket has timed out")) is FailureClass.GANG_LOST


def test_a_refused_allocation_means_that_host_memory_is_full() -> None:
    script = """
import resource, torch
from infinitedub.pipeline.pools.failures import classify
resource.setrlimit(resource.RLIMIT_AS, (2**35, resource.RLIM_INFINITY))
try:
    torch.empty(2**36, dtype=torch.uint8)
except RuntimeError as error:
    print(classify(error))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["host_oom"], done.stderr


def test_the_fingerprint_is_that_of_the_origin_not_of_the_message() -> None:
    def raised(step: Any) -> Failure:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - whatever the step raises
            return failure_of(error)
        raise AssertionError("nothing was raised")

    table: dict[str, int] = {}

    def lookup(name: str) -> int:
        return table[name]

    def other(name: str) -> int:
        return table[name]

    one, same = raised(lambda: lookup("a")), raised(lambda: lookup("b"))
    assert one.reason != same.reason
    assert one.fingerprint == same.fingerprint
    assert "KeyError" in one.fingerprint
    assert "lookup" in one.fingerprint
    assert raised(lambda: other("a")).fingerprint != one.fingerprint
    assert raised(lambda: int("a")).fingerprint != one.fingerprint
    assert failure_of(Transient("503")).fingerprint == failure_of(BadInput("no sound")).fingerprint == ""
    assert failure_of(ConfigError("no such weights")).fingerprint == "no such weights"


def test_a_failure_survives_an_exception_that_cannot_be_pickled() -> None:
    class Local(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    def deep(level: int) -> None:
        if level == 0:
            raise Local(1, 2)
        deep(level - 1)

    with pytest.raises(Local) as caught:
        deep(60)
    failure = pickle.loads(pickle.dumps(failure_of(caught.value)))
    assert failure.kind is FailureClass.CODE
    assert failure.reason.endswith("Local: 1 and 2")
    assert failure.trace.splitlines()[-1].endswith("Local: 1 and 2")
    assert len(failure.trace.splitlines()) <= 40


def test_a_dub_error_keeps_its_message() -> None:
    assert failure_of(BadInput("job 17: audio is 3.1 s")).reason == "job 17: audio is 3.1 s"
