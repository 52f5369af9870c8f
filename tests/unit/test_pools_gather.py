"""Ranks of a group: the first failure ends the call, the watchdog ends a hang, and the cause is told from its consequences."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from infinitedub.pipeline.pools.failures import Failure, FailureClass
from infinitedub.pipeline.pools.gather import AdaptiveTimeout, GatherResult, Watchdog, gather_ranks

LONG = 60.0


def failure(kind: FailureClass) -> Failure:
    return Failure(kind, str(kind), "")


async def gives(answer: Any, after: float = 0.0) -> Any:
    await asyncio.sleep(after)
    return answer


async def blocks() -> Any:
    await asyncio.Event().wait()


def ended(*calls: Coroutine[Any, Any, Any], timeout: float = LONG, settle: float = 0.05) -> GatherResult:
    async def main() -> GatherResult:
        return await gather_ranks(calls, Watchdog(timeout), settle)

    return asyncio.run(main())


def test_every_rank_succeeds() -> None:
    end = ended(gives("a record", 0.01), gives(None))
    assert end.outcome() == "a record"
    assert end.group_is_reusable


def test_a_failure_raised_by_every_rank_keeps_the_gang() -> None:
    end = ended(gives(failure(FailureClass.INPUT)), gives(failure(FailureClass.INPUT), 0.01))
    assert end.outcome().kind is FailureClass.INPUT
    assert end.group_is_reusable


def test_a_failure_of_one_rank_loses_the_gang() -> None:
    end = ended(gives(failure(FailureClass.INPUT)), blocks())
    assert end.outcome().kind is FailureClass.INPUT
    assert not end.group_is_reusable
    assert end.unfinished == (1,)


@pytest.mark.parametrize(
    ("first", "later", "kind"),
    [
        (FailureClass.CODE, FailureClass.WORKER_LOST, FailureClass.WORKER_LOST),  # the survivor's error arrives before the news of the death
        (FailureClass.GANG_LOST, FailureClass.GPU_OOM, FailureClass.GPU_OOM),
        (FailureClass.WORKER_LOST, FailureClass.NODE_LOST, FailureClass.NODE_LOST),
    ],
)
def test_the_cause_is_told_from_its_consequences(first: FailureClass, later: FailureClass, kind: FailureClass) -> None:
    end = ended(gives(failure(first)), gives(failure(later), 0.01), settle=LONG)
    assert end.outcome().kind is kind
    assert not end.group_is_reusable


def test_every_failure_class_has_its_place_in_the_order() -> None:
    for kind in FailureClass:
        assert ended(gives(failure(kind))).outcome().kind is kind


def test_a_rank_without_progress_is_lost() -> None:
    end = ended(gives(None), blocks(), timeout=0.05)
    assert end.outcome().kind is FailureClass.WORKER_LOST
    assert "rank 1 of 2 made no progress for 0.05 s" in end.outcome().reason
    assert not end.group_is_reusable


def test_progress_resets_the_watchdog() -> None:
    async def main() -> GatherResult:
        watchdog = Watchdog(0.2)

        async def slow() -> str:
            for _ in range(8):
                await asyncio.sleep(0.05)
                watchdog.reset()
            return "a record"

        return await gather_ranks([slow()], watchdog, 0)

    assert asyncio.run(main()).outcome() == "a record"


def test_the_timeout_may_change_during_a_call() -> None:
    async def main() -> GatherResult:
        watchdog = Watchdog(LONG)

        async def hangs_after_progress() -> None:
            watchdog.reset()
            watchdog.timeout_seconds = 0.05
            await asyncio.Event().wait()

        return await gather_ranks([hangs_after_progress()], watchdog, 0)

    assert "made no progress for 0.05 s" in asyncio.run(main()).outcome().reason


def test_a_cancelled_gather_cancels_its_calls() -> None:
    async def main() -> list[str]:
        seen: list[str] = []

        async def stuck() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        task = asyncio.create_task(gather_ranks([stuck(), stuck()], Watchdog(LONG), 0))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        return seen

    assert asyncio.run(main()) == ["cancelled", "cancelled"]


def test_the_timeout_is_learnt_for_each_kind_of_window() -> None:
    timeout = AdaptiveTimeout(longest_seconds=3600, factor=4, floor_seconds=300)
    assert timeout.seconds_for("480p") == 3600
    timeout.observe("480p", 200)
    timeout.observe("480p", 100)  # the slowest counts
    assert timeout.seconds_for("480p") == 800
    assert timeout.seconds_for("720p") == 3600  # which may need five times as long


def test_the_timeout_has_a_lower_and_an_upper_bound() -> None:
    timeout = AdaptiveTimeout(longest_seconds=3600, factor=4, floor_seconds=300)
    timeout.observe("toy", 0.1)
    assert timeout.seconds_for("toy") == 300
    timeout.observe("slow", 2000)
    assert timeout.seconds_for("slow") == 3600
