"""What meets every order stops the run; what meets one job does not."""

import asyncio
from typing import Any

import pytest

from infinitedub.pipeline.pools.circuit_breaker import CircuitBreaker
from infinitedub.pipeline.pools.opening import open_pools
from infinitedub.pipeline.pools.pool import CallLabel, StageCall
from infinitedub.pipeline.pools.settings import InlineSettings, RetrySettings
from infinitedub.pipeline.storage.storage import StorageSettings
from infinitedub.stages.contract import Files, Rank
from infinitedub.stages.errors import BadInput, ConfigError, DubError
from infinitedub.stages.settings import Settings

RETRY = RetrySettings(
    storage=1, worker_lost=1, gang_lost=1, node_lost=1, host_oom=1, gpu_oom=1, numeric=1, code=1, backoff_seconds=0.001, backoff_limit_seconds=0.002
)
INLINE = InlineSettings(kind="inline", jobs_in_flight=1, threads=1, same_error_limit=3, retry=RETRY)


def order(job: str, segment: int = 0, stage: str = "generate") -> StageCall:
    return StageCall(stage, f"{job} {segment}", (job,), CallLabel(job, segment), (0.0,))


def alarm() -> tuple[CircuitBreaker, list[str]]:
    told: list[str] = []
    return CircuitBreaker(3, told.append), told


def test_the_same_error_of_three_orders_stops_the_run_once() -> None:
    bell, told = alarm()
    for job in "abcdef":
        assert bool(told) == (job > "c")
        bell.failed(order(job), "KeyError < stages.x:7", f"KeyError: {job}")
    assert told == ["generate failed for 3 orders with the same error and has not worked since: KeyError: c [KeyError < stages.x:7]; jobs a, b, c"]


def test_other_errors_other_stages_and_the_same_order_again_do_not_add_up() -> None:
    bell, told = alarm()
    for number in range(9):
        bell.failed(order(str(number)), f"error {number}", "")
        bell.failed(order(str(number)), "", "a worker was lost")
        bell.failed(order("again"), "the same", "")
    bell.failed(order("a", stage="ingest"), "the same", "")
    assert told == []


def test_a_stage_that_still_works_for_others_does_not_stop_the_run() -> None:
    bell, told = alarm()
    for number in range(9):
        bell.failed(order(f"bad {number}"), "the same", "")
        if number % 2:
            bell.ended_well(order(f"good {number}"))
    assert told == []


def test_one_job_alone_stops_only_a_run_in_which_a_stage_cannot_be_opened() -> None:
    bell, told = alarm()
    bell.ended_well(order("good"))
    for segment in range(9):
        bell.failed(order("odd", segment), "the same", "")
    assert told == []
    bell.failed(order("another"), "the same", "")
    assert len(told) == 1

    bell, told = alarm()
    for segment in range(9):
        bell.failed(order("first", segment), "the same", "")
    assert told == []
    for segment in range(3):
        bell.failed(order("first", segment), "no weights", "", opening=True)
    assert len(told) == 1


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
def test_pools_tell_of_what_meets_every_order(stage: Breaks, stops: bool, storage_settings: StorageSettings) -> None:
    told: list[str] = []
    pool = open_pools({"generate": stage}, 1, INLINE, storage_settings, told.append, {})["generate"]

    async def main() -> list[Any]:
        ends = [await asyncio.gather(pool.run(order(job), lambda part: None), return_exceptions=True) for job in "abcd"]
        await pool.close()
        return [end for (end,) in ends]

    assert all(isinstance(end, DubError) for end in asyncio.run(main()))
    assert len(told) == stops
    assert all(str(stage.error) in reason for reason in told)
