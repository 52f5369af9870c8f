"""Failures are told apart where they happen, and each kind has its own budget of tries."""

import asyncio
import pickle
import traceback
from typing import Any

import pytest

from pipeline.pools.pool import Label, Order
from pipeline.pools.retry import Exhausted, FailureClass, Fault, backoff_seconds, classify, fault_of, until_done
from pipeline.pools.settings import RetrySettings
from stages.errors import BadInput, ConfigError, Transient

ORDER = Order("generate", "k", (), Label("job", 3), (0.0,))
RETRY = RetrySettings(
    storage=4, worker_lost=3, gang_lost=2, node_lost=5, gpu_oom=2, numeric=2, code=1, backoff_seconds=0.001, backoff_limit_seconds=0.004
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
        (MemoryError(), FailureClass.WORKER_LOST),
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
    fault = pickle.loads(pickle.dumps(fault_of(caught.value)))
    assert fault.kind is FailureClass.CODE
    assert fault.reason.endswith("Local: 1 and 2")
    assert fault.trace.splitlines()[-1].endswith("Local: 1 and 2")
    assert len(fault.trace.splitlines()) <= 40


def test_messages_of_ours_stay_as_they_are() -> None:
    assert fault_of(BadInput("job 17: audio is 3.1 s")).reason == "job 17: audio is 3.1 s"


def fault(kind: FailureClass) -> Fault:
    return Fault(kind, f"it was {kind}", "the worker's traceback")


def tried(*answers: Any) -> tuple[Any, int]:
    """What `until_done` makes of these answers in turn, the last one for ever, and how many it asked for."""
    asked = 0

    async def once() -> Any:
        nonlocal asked
        asked += 1
        return answers[min(asked, len(answers)) - 1]

    try:
        return asyncio.run(until_done(ORDER, once, RETRY)), asked
    except (BadInput, ConfigError, Exhausted) as error:
        return error, asked


@pytest.mark.parametrize("kind", [kind for kind in FailureClass if kind not in (FailureClass.INPUT, FailureClass.CONFIG)])
def test_each_kind_has_its_own_budget(kind: FailureClass) -> None:
    error, asked = tried(fault(kind))
    assert isinstance(error, Exhausted)
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
    assert isinstance(error, Exhausted)
    assert (error.kind, error.attempts, asked) == (FailureClass.GANG_LOST, 4, 4)


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
