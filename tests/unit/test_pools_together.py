"""Who works together is judged together: the first failure counts, silence counts, and the cause is told from its consequences."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from infinitedub.pipeline.pools.gather import GatherResult, Watchdog, gather_ranks
from infinitedub.pipeline.pools.retry import Failure, FailureClass

PATIENCE = 60.0


def fault(kind: FailureClass) -> Failure:
    return Failure(kind, str(kind), "")


async def gives(answer: Any, after: float = 0.0) -> Any:
    await asyncio.sleep(after)
    return answer


async def blocks() -> Any:
    await asyncio.Event().wait()


def ended(*calls: Coroutine[Any, Any, Any], patience: float = PATIENCE, settle: float = 0.05) -> GatherResult:
    async def main() -> GatherResult:
        return await gather_ranks(calls, Watchdog(patience), settle)

    return asyncio.run(main())


def test_all_well() -> None:
    end = ended(gives("a record", 0.01), gives(None))
    assert end.verdict() == "a record"
    assert end.intact


def test_a_fault_raised_alike_leaves_the_gang_whole() -> None:
    end = ended(gives(fault(FailureClass.INPUT)), gives(fault(FailureClass.INPUT), 0.01))
    assert end.verdict().kind is FailureClass.INPUT
    assert end.intact


def test_a_fault_of_one_leaves_the_others_in_a_collective() -> None:
    end = ended(gives(fault(FailureClass.INPUT)), blocks())
    assert end.verdict().kind is FailureClass.INPUT
    assert not end.intact
    assert end.hushed == (1,)


@pytest.mark.parametrize(
    ("first", "later", "kind"),
    [
        (FailureClass.CODE, FailureClass.WORKER_LOST, FailureClass.WORKER_LOST),  # the survivor's error arrives before the news of the death
        (FailureClass.GANG_LOST, FailureClass.GPU_OOM, FailureClass.GPU_OOM),
        (FailureClass.WORKER_LOST, FailureClass.NODE_LOST, FailureClass.NODE_LOST),
    ],
)
def test_the_cause_is_told_from_its_consequence(first: FailureClass, later: FailureClass, kind: FailureClass) -> None:
    end = ended(gives(fault(first)), gives(fault(later), 0.01), settle=PATIENCE)
    assert end.verdict().kind is kind
    assert not end.intact


def test_every_kind_of_failure_has_its_rank() -> None:
    for kind in FailureClass:
        assert ended(gives(fault(kind))).verdict().kind is kind


def test_silence_is_a_loss() -> None:
    end = ended(gives(None), blocks(), patience=0.05)
    assert end.verdict().kind is FailureClass.WORKER_LOST
    assert "rank 1 of 2 gave no sign for 0.05 s" in end.verdict().reason
    assert not end.intact


def test_signs_of_life_keep_the_watch_quiet() -> None:
    async def main() -> GatherResult:
        watch = Watchdog(0.2)

        async def slow() -> str:
            for _ in range(8):
                await asyncio.sleep(0.05)
                watch.heard()
            return "a record"

        return await gather_ranks([slow()], watch, 0)

    assert asyncio.run(main()).verdict() == "a record"


def test_patience_may_shorten_on_the_way() -> None:
    async def main() -> GatherResult:
        watch = Watchdog(PATIENCE)

        async def hangs_after_a_sign() -> None:
            watch.heard()
            watch.seconds = 0.05
            await asyncio.Event().wait()

        return await gather_ranks([hangs_after_a_sign()], watch, 0)

    assert "gave no sign for 0.05 s" in asyncio.run(main()).verdict().reason


def test_what_is_broken_off_is_cancelled() -> None:
    async def main() -> list[str]:
        seen: list[str] = []

        async def stuck() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        task = asyncio.create_task(gather_ranks([stuck(), stuck()], Watchdog(PATIENCE), 0))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        return seen

    assert asyncio.run(main()) == ["cancelled", "cancelled"]
