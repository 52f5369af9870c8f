"""The retry policy: each failure class has its own budget of attempts."""

import asyncio
import traceback
from typing import Any

import pytest

from infinitedub.pipeline.pools.calls import CallLabel, OnProgress, StageCall, Yielded
from infinitedub.pipeline.pools.circuit_breaker import CircuitBreaker
from infinitedub.pipeline.pools.failures import Failure, FailureClass, RetriesExhausted
from infinitedub.pipeline.pools.retry import RetryPolicy, backoff_seconds
from infinitedub.pipeline.pools.settings import RetrySettings
from infinitedub.stages.errors import BadInput, ConfigError
from infinitedub.stages.records import Artifact, Chunk

CALL = StageCall("generate", "k", (), CallLabel("job", 3), (0.0,))
UNTRIPPED = CircuitBreaker(1000, print)
RETRY = RetrySettings(
    storage=4, worker_lost=3, gang_lost=2, node_lost=5, host_oom=2, gpu_oom=2, numeric=2, code=1, backoff_seconds=0.001, backoff_limit_seconds=0.004
)


def failure(kind: FailureClass) -> Failure:
    return Failure(kind, f"it was {kind}", "the worker's traceback")


def window(number: int) -> Chunk:
    return Chunk(number, Artifact("", "", 0, "chunk/mkv"), 1)


def tried(*answers: Any) -> tuple[Any, int]:
    """What the policy makes of these answers in turn, the last one repeated, and its number of attempts. A list is windows made before its last."""
    attempts = 0

    async def attempt(on_progress: OnProgress, low_memory: bool) -> Any:
        nonlocal attempts
        attempts += 1
        answer = answers[min(attempts, len(answers)) - 1]
        if not isinstance(answer, list):
            return answer
        for part in answer[:-1]:
            on_progress(Yielded(part, 1.0))
        return answer[-1]

    try:
        return asyncio.run(RetryPolicy(RETRY, UNTRIPPED).run(CALL, lambda progress: None, attempt)), attempts
    except (BadInput, ConfigError, RetriesExhausted) as error:
        return error, attempts


@pytest.mark.parametrize("kind", [kind for kind in FailureClass if kind not in (FailureClass.INPUT, FailureClass.CONFIG)])
def test_each_failure_class_has_its_own_budget(kind: FailureClass) -> None:
    error, attempts = tried(failure(kind))
    assert isinstance(error, RetriesExhausted)
    assert attempts == getattr(RETRY, kind)
    assert (error.kind, error.attempts, error.trace) == (kind, attempts, "the worker's traceback")
    assert f"it was {kind}" in str(error)


@pytest.mark.parametrize(("kind", "wanted"), [(FailureClass.INPUT, BadInput), (FailureClass.CONFIG, ConfigError)])
def test_bad_input_and_settings_are_not_retried(kind: FailureClass, wanted: type[Exception]) -> None:
    error, attempts = tried(failure(kind), "a record")
    assert type(error) is wanted
    assert str(error) == f"it was {kind}"
    assert attempts == 1
    assert "the worker's traceback" in "".join(traceback.format_exception(error))


def test_budgets_do_not_mix() -> None:
    lost, oom, full = failure(FailureClass.GANG_LOST), failure(FailureClass.GPU_OOM), failure(FailureClass.STORAGE)
    assert tried(lost, oom, full, full, full, "a record") == ("a record", 6)
    error, attempts = tried(lost, oom, full, lost, "a record")
    assert isinstance(error, RetriesExhausted)
    assert (error.kind, error.attempts, attempts) == (FailureClass.GANG_LOST, 4, 4)


def test_a_new_window_renews_the_budgets() -> None:
    lost = failure(FailureClass.GANG_LOST)
    assert tried([window(0), lost], [window(1), lost], [window(2), lost], "a record") == ("a record", 4)
    for stuck in ([window(0), lost], [window(0), window(1), lost]):
        error, attempts = tried([window(0), window(1), lost], stuck)  # making the same windows once more is not getting further
        assert isinstance(error, RetriesExhausted)
        assert (error.attempts, attempts) == (2, 2)


def test_low_memory_mode_follows_a_gpu_oom_and_stays() -> None:
    given: list[bool] = []
    answers = iter([failure(FailureClass.GANG_LOST), failure(FailureClass.GPU_OOM), failure(FailureClass.STORAGE), "a record"])

    async def attempt(on_progress: OnProgress, low_memory: bool) -> Any:
        given.append(low_memory)
        return next(answers)

    assert asyncio.run(RetryPolicy(RETRY, UNTRIPPED).run(CALL, lambda progress: None, attempt)) == "a record"
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
