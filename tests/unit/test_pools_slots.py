"""Places are handed out by priority, and none is lost when somebody changes his mind."""

import asyncio
from typing import Any

import pytest

from infinitedub.pipeline.pools.slots import Slots


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_smallest_priority_first_then_first_come() -> None:
    async def main() -> list[str]:
        slots, served = Slots(["only"]), []

        async def wants(name: str, priority: tuple[float, ...]) -> None:
            async with slots.place(priority):
                served.append(name)
                await asyncio.sleep(0)

        async with slots.place((0.0,)):
            asked = {"late": (9.0,), "early": (1.0, 0.0), "early and long": (1.0, -80.0), "late too": (9.0,), "first": (0.0,)}
            tasks = [asyncio.create_task(wants(*item)) for item in asked.items()]
            await settle()
        await asyncio.gather(*tasks)
        return served

    assert run(main()) == ["first", "early and long", "early", "late", "late too"]


def test_no_more_at_once_than_there_are_places() -> None:
    async def main() -> int:
        slots, busy, most = Slots(["a", "b"]), set(), 0

        async def works(priority: float) -> None:
            nonlocal most
            async with slots.place((priority,)) as place:
                assert place not in busy
                busy.add(place)
                most = max(most, len(busy))
                await asyncio.sleep(0.001)
                busy.remove(place)

        await asyncio.gather(*(works(-index) for index in range(9)))
        return most

    assert run(main()) == 2


def test_the_place_used_last_is_used_next() -> None:
    async def main() -> list[str]:
        slots, used = Slots(["a", "b", "c"]), []
        for _ in range(3):
            async with slots.place((0.0,)) as place:
                used.append(place)
        return used

    assert len(set(run(main()))) == 1


@pytest.mark.parametrize("served_first", [False, True], ids=["still waiting", "already served"])
def test_called_off_waiters_lose_no_place(served_first: bool) -> None:
    async def main() -> str:
        slots = Slots(["only"])

        async def wants() -> str:
            async with slots.place((0.0,)) as place:
                return place

        held = slots.place((0.0,))
        await held.__aenter__()
        goes = asyncio.create_task(wants())
        await settle()
        if served_first:  # the place is promised to the waiter, who is called off before it wakes up
            await held.__aexit__(None, None, None)
            goes.cancel()
        else:
            goes.cancel()
            await held.__aexit__(None, None, None)
        await asyncio.gather(goes, return_exceptions=True)
        assert goes.cancelled()
        return await asyncio.wait_for(wants(), 5)

    assert run(main()) == "only"


def test_an_error_inside_gives_the_place_back() -> None:
    async def main() -> str:
        slots = Slots(["only"])
        with pytest.raises(KeyError):
            async with slots.place((0.0,)):
                raise KeyError
        async with slots.place((0.0,)) as place:
            return place

    assert run(main()) == "only"


def test_close_sends_away_who_waits_and_who_comes() -> None:
    async def main() -> None:
        slots = Slots(["only"])

        async def wants() -> None:
            async with slots.place((0.0,)):
                raise AssertionError("served by closed slots")

        async with slots.place((0.0,)):
            waits = asyncio.create_task(wants())
            await settle()
            slots.close()
            comes = asyncio.create_task(wants())
            await asyncio.gather(waits, comes, return_exceptions=True)
        assert waits.cancelled()
        assert comes.cancelled()

    run(main())
