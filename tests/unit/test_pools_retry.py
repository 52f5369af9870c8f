"""Failures are told apart where they happen, and each kind has its own budget of tries."""

import asyncio
import errno
import pickle
import subprocess
import sys
import traceback
from typing import Any

import pytest

from infinitedub.pipeline.pools.circuit_breaker import CircuitBreaker
from infinitedub.pipeline.pools.pool import CallLabel, OnPart, StageCall
from infinitedub.pipeline.pools.retry import Failure, FailureClass, RetriesExhausted, RetryPolicy, backoff_seconds, classify, failure_of
from infinitedub.pipeline.pools.settings import RetrySettings
from infinitedub.stages.errors import BadInput, ConfigError, Transient
from infinitedub.stages.records import Artifact, Chunk

ORDER = StageCall("generate", "k", (), CallLabel("job", 3), (0.0,))
QUIET = CircuitBreaker(1000, print)
RETRY = RetrySettings(
    storage=4, worker_lost=3, gang_lost=2, node_lost=5, host_oom=2, gpu_oom=2, numeric=2, code=1, backoff_seconds=0.001, backoff_limit_seconds=0.004
)


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


def test_torch_s_own_errors_are_known() -> None:
    torch = pytest.importorskip("torch")
    assert classify(torch.cuda.OutOfMemoryError("CUDA out of memory")) is FailureClass.GPU_OOM
    assert classify(torch.distributed.DistNetworkError("The client socket has timed out")) is FailureClass.GANG_LOST


def test_an_allocation_that_the_machine_refuses_is_its_memory_that_is_full() -> None:
    script = """
import resource, torch
from infinitedub.pipeline.pools.retry import classify
resource.setrlimit(resource.RLIMIT_AS, (2**35, resource.RLIM_INFINITY))
try:
    torch.empty(2**36, dtype=torch.uint8)
except RuntimeError as error:
    print(classify(error))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["host_oom"], done.stderr


def test_the_same_error_is_told_from_others_whatever_it_says() -> None:
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
    assert one.mark == same.mark
    assert "KeyError" in one.mark
    assert "lookup" in one.mark
    assert raised(lambda: other("a")).mark != one.mark
    assert raised(lambda: int("a")).mark != one.mark
    assert failure_of(Transient("503")).mark == failure_of(BadInput("no sound")).mark == ""
    assert failure_of(ConfigError("no such weights")).mark == "no such weights"


def test_a_fault_survives_an_exception_that_cannot_be_pickled() -> None:
    class Local(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    def deep(level: int) -> None:
        if level == 0:
            raise Local(1, 2)
        deep(level - 1)

    with pytest.raises(Local) as caught:
        deep(60)
    fault = pickle.loads(pickle.dumps(failure_of(caught.value)))
    assert fault.kind is FailureClass.CODE
    assert fault.reason.endswith("Local: 1 and 2")
    assert fault.trace.splitlines()[-1].endswith("Local: 1 and 2")
    assert len(fault.trace.splitlines()) <= 40


def test_messages_of_ours_stay_as_they_are() -> None:
    assert failure_of(BadInput("job 17: audio is 3.1 s")).reason == "job 17: audio is 3.1 s"


def fault(kind: FailureClass) -> Failure:
    return Failure(kind, f"it was {kind}", "the worker's traceback")


def window(number: int) -> Chunk:
    return Chunk(number, Artifact("", "", 0, "chunk/mkv"), 1)


def tried(*answers: Any) -> tuple[Any, int]:
    """What `until_done` makes of these answers in turn, the last one for ever, and how many it asked for. A list is windows made before its last."""
    asked = 0

    async def once(heard: OnPart, low_memory: bool) -> Any:
        nonlocal asked
        asked += 1
        answer = answers[min(asked, len(answers)) - 1]
        if not isinstance(answer, list):
            return answer
        for part in answer[:-1]:
            heard(part)
        return answer[-1]

    try:
        return asyncio.run(RetryPolicy(RETRY, QUIET).until_done(ORDER, lambda part: None, once)), asked
    except (BadInput, ConfigError, RetriesExhausted) as error:
        return error, asked


@pytest.mark.parametrize("kind", [kind for kind in FailureClass if kind not in (FailureClass.INPUT, FailureClass.CONFIG)])
def test_each_kind_has_its_own_budget(kind: FailureClass) -> None:
    error, asked = tried(fault(kind))
    assert isinstance(error, RetriesExhausted)
    assert asked == getattr(RETRY, kind)
    assert (error.kind, error.attempts, error.trace) == (kind, asked, "the worker's traceback")
    assert f"it was {kind}" in str(error)


@pytest.mark.parametrize(("kind", "wanted"), [(FailureClass.INPUT, BadInput), (FailureClass.CONFIG, ConfigError)])
def test_the_job_s_and_the_launcher_s_faults_are_not_tried_again(kind: FailureClass, wanted: type[Exception]) -> None:
    error, asked = tried(fault(kind), "a record")
    assert type(error) is wanted
    assert str(error) == f"it was {kind}"
    assert asked == 1
    assert "the worker's traceback" in "".join(traceback.format_exception(error))


def test_budgets_do_not_mix() -> None:
    lost, oom, full = fault(FailureClass.GANG_LOST), fault(FailureClass.GPU_OOM), fault(FailureClass.STORAGE)
    assert tried(lost, oom, full, full, full, "a record") == ("a record", 6)
    error, asked = tried(lost, oom, full, lost, "a record")
    assert isinstance(error, RetriesExhausted)
    assert (error.kind, error.attempts, asked) == (FailureClass.GANG_LOST, 4, 4)


def test_who_gets_further_is_not_stuck() -> None:
    lost = fault(FailureClass.GANG_LOST)
    assert tried([window(0), lost], [window(1), lost], [window(2), lost], "a record") == ("a record", 4)
    for stuck in ([window(0), lost], [window(0), window(1), lost]):
        error, asked = tried([window(0), window(1), lost], stuck)  # making the same windows once more is not getting further
        assert isinstance(error, RetriesExhausted)
        assert (error.attempts, asked) == (2, 2)


def test_only_who_ran_out_of_gpu_memory_is_given_the_low_memory_profile_and_keeps_it() -> None:
    given: list[bool] = []
    answers = iter([fault(FailureClass.GANG_LOST), fault(FailureClass.GPU_OOM), fault(FailureClass.STORAGE), "a record"])

    async def once(heard: OnPart, low_memory: bool) -> Any:
        given.append(low_memory)
        return next(answers)

    assert asyncio.run(RetryPolicy(RETRY, QUIET).until_done(ORDER, lambda part: None, once)) == "a record"
    assert given == [False, False, True, True]


def test_a_record_that_is_none_is_a_result() -> None:
    assert tried(None) == (None, 1)


def test_waits_double_up_to_a_limit_and_differ() -> None:
    waits = [{backoff_seconds(FailureClass.STORAGE, failures, RETRY) for _ in range(50)} for failures in (1, 2, 3, 4, 30)]
    for wait, longest in zip(waits, (0.001, 0.002, 0.004, 0.004, 0.004), strict=True):
        assert len(wait) > 1
        assert longest / 2 <= min(wait)
        assert max(wait) <= longest


def test_a_lost_worker_is_replaced_without_waiting() -> None:
    assert backoff_seconds(FailureClass.WORKER_LOST, 1, RETRY) == 0
