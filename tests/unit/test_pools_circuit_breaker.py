"""An error that meets every call stops the run; an error of one job does not."""

import asyncio
from typing import Any

import pytest

from infinitedub.pipeline.pools import open_pools
from infinitedub.pipeline.pools.calls import CallLabel, StageCall
from infinitedub.pipeline.pools.circuit_breaker import CircuitBreaker
from infinitedub.pipeline.pools.settings import InlineSettings, RetrySettings
from infinitedub.pipeline.storage.storage import StorageSettings
from infinitedub.stages.contract import Files, Rank
from infinitedub.stages.errors import BadInput, ConfigError, DubError
from infinitedub.stages.settings import Settings

RETRY = RetrySettings(
    storage=1, worker_lost=1, gang_lost=1, node_lost=1, host_oom=1, gpu_oom=1, numeric=1, code=1, backoff_seconds=0.001, backoff_limit_seconds=0.002
)
INLINE = InlineSettings(kind="inline", jobs_in_flight=1, threads=1, same_error_limit=3, retry=RETRY)


def call(job: str, segment: int = 0, stage: str = "generate") -> StageCall:
    return StageCall(stage, f"{job} {segment}", (job,), CallLabel(job, segment), (0.0,))


def breaker_and_reasons() -> tuple[CircuitBreaker, list[str]]:
    reasons: list[str] = []
    return CircuitBreaker(3, reasons.append), reasons


def test_the_same_error_of_three_calls_stops_the_run_once() -> None:
    breaker, reasons = breaker_and_reasons()
    for job in "abcdef":
        assert bool(reasons) == (job > "c")
        breaker.record_failure(call(job), "KeyError < stages.x:7", f"KeyError: {job}")
    assert reasons == [
        "generate failed for 3 calls with the same error and has not succeeded since: KeyError: c [KeyError < stages.x:7]; jobs a, b, c"
    ]


def test_other_errors_other_stages_and_the_same_call_again_do_not_add_up() -> None:
    breaker, reasons = breaker_and_reasons()
    for number in range(9):
        breaker.record_failure(call(str(number)), f"error {number}", "")
        breaker.record_failure(call(str(number)), "", "a worker was lost")
        breaker.record_failure(call("again"), "the same", "")
    breaker.record_failure(call("a", stage="ingest"), "the same", "")
    assert reasons == []


def test_a_stage_that_still_works_for_others_does_not_stop_the_run() -> None:
    breaker, reasons = breaker_and_reasons()
    for number in range(9):
        breaker.record_failure(call(f"bad {number}"), "the same", "")
        if number % 2:
            breaker.record_success(call(f"good {number}"))
    assert reasons == []


def test_one_job_alone_stops_only_a_run_in_which_a_stage_cannot_be_opened() -> None:
    breaker, reasons = breaker_and_reasons()
    breaker.record_success(call("good"))
    for segment in range(9):
        breaker.record_failure(call("odd", segment), "the same", "")
    assert reasons == []
    breaker.record_failure(call("another"), "the same", "")
    assert len(reasons) == 1

    breaker, reasons = breaker_and_reasons()
    for segment in range(9):
        breaker.record_failure(call("first", segment), "the same", "")
    assert reasons == []
    for segment in range(3):
        breaker.record_failure(call("first", segment), "no weights", "", while_opening=True)
    assert len(reasons) == 1


class Breaks:
    """A stage that raises what it is made with, when it is opened or when it is called."""

    config = Settings()

    def __init__(self, error: Exception, opening: bool = False) -> None:
        self.error, self.opening = error, opening

    def open(self, rank: Rank) -> None:
        if self.opening:
            raise self.error

    def __call__(self, job: str, *, files: Files) -> Any:
        raise type(self.error)(*self.error.args)  # a new one each time, as errors are

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("stage", "stops"),
    [
        (Breaks(KeyError("a bug")), True),
        (Breaks(ConfigError("no such weights")), True),
        (Breaks(ConfigError("no such weights"), opening=True), True),
        (Breaks(MemoryError("weights of 28 GB"), opening=True), True),
        (Breaks(BadInput("no face")), False),
        (Breaks(FloatingPointError("NaN")), False),
    ],
)
def test_pools_tell_of_what_meets_every_call(stage: Breaks, stops: bool, storage_settings: StorageSettings) -> None:
    reasons: list[str] = []
    pool = open_pools({"generate": stage}, 1, INLINE, storage_settings, CircuitBreaker(INLINE.same_error_limit, reasons.append), {})["generate"]

    async def main() -> list[Any]:
        ends = [await asyncio.gather(pool.run(call(job), lambda progress: None), return_exceptions=True) for job in "abcd"]
        await pool.close()
        return [end for (end,) in ends]

    assert all(isinstance(end, DubError) for end in asyncio.run(main()))
    assert len(reasons) == stops
    assert all(str(stage.error) in reason for reason in reasons)
