"""A place that cannot be filled costs no film as long as others can."""

import asyncio
from typing import Any

from infinitedub.pipeline.pools.pool import CallLabel, OnPart, StageCall
from infinitedub.pipeline.pools.posts import Dispatcher
from infinitedub.pipeline.pools.retry import NO_ROOM, Failure, FailureClass

ORDER = StageCall("generate", "k", (), CallLabel("job"), (0.0,))
NO_NODE = Failure(FailureClass.CONFIG, "no node had room (free in all: 3 CPU)", "", NO_ROOM).at_opening()
OTHER_WEIGHTS = Failure(FailureClass.CONFIG, "on node-2 the weights are not those that this run began with", "", "weights").at_opening()


class Bench:
    """A post that answers from a list, and stands after each good answer."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.stands = False

    async def serve(self, order: StageCall, on_part: OnPart, low_memory: bool) -> Any:
        answer = self.answers.pop(0)
        self.stands = not isinstance(answer, Failure)
        return answer


def served(posts: Dispatcher[Bench], times: int) -> list[Any]:
    async def work() -> list[Any]:
        return [await posts.serve(ORDER, print, False) for _ in range(times)]

    return asyncio.run(work())


def told(answers: list[Any]) -> list[Any]:
    return [answer.kind if isinstance(answer, Failure) else answer for answer in answers]


def test_where_nobody_has_stood_it_is_the_settings_that_ask_for_too_much() -> None:
    assert told(served(Dispatcher([Bench(NO_NODE)], 60), 1)) == [FailureClass.CONFIG]


def test_room_that_is_gone_again_was_a_nodes() -> None:
    answers = served(Dispatcher([Bench("film", NO_NODE, NO_NODE)], 60), 3)
    assert told(answers) == ["film", FailureClass.NODE_LOST, FailureClass.NODE_LOST]
    assert answers[1].opening  # counted over all orders, in case it meets them all
    assert answers[1].mark == answers[2].mark != ""


def test_weights_that_are_wrong_everywhere_are_the_settings() -> None:
    assert told(served(Dispatcher([Bench("film", OTHER_WEIGHTS)], 60), 2)) == ["film", FailureClass.CONFIG]


def test_a_place_that_cannot_be_filled_is_passed_over_while_another_comes_up() -> None:
    """The order waits for that one, is not tried in vain, and comes back to a rested place only where no other is free."""

    async def work() -> tuple[list[Any], list[Any]]:
        up, told = asyncio.Event(), asyncio.Event()

        class Slow(Bench):
            async def serve(self, order: StageCall, on_part: OnPart, low_memory: bool) -> Any:
                told.set()
                await up.wait()  # its weights are many
                return await super().serve(order, on_part, low_memory)

        good, bad = Slow("film 1", "film 2", "film 3"), Bench(OTHER_WEIGHTS, "film 4")
        posts = Dispatcher([good, bad], 0.2)
        first = asyncio.create_task(posts.serve(ORDER, print, False))
        await told.wait()
        second = asyncio.create_task(posts.serve(ORDER, print, False))
        while len(bad.answers) > 1:
            await asyncio.sleep(0)
        up.set()
        answers = [await first, await second]
        await asyncio.sleep(0.5)  # the rest is over
        answers.append(await posts.serve(ORDER, print, False))
        return answers, bad.answers

    assert asyncio.run(work()) == (["film 1", "film 2", "film 3"], ["film 4"])


def test_places_that_can_none_of_them_be_filled_end_the_order() -> None:
    async def work() -> list[Any]:
        posts = Dispatcher([Bench(OTHER_WEIGHTS, OTHER_WEIGHTS), Bench(OTHER_WEIGHTS, OTHER_WEIGHTS)], 60)
        return await asyncio.gather(*(posts.serve(ORDER, print, False) for _ in range(2)))

    assert told(asyncio.run(work())) == [FailureClass.CONFIG] * 2
