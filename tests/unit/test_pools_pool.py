"""The pool's queue and its groups: priority, cancellation, closing, and groups that cannot be started."""

import asyncio
from typing import Any

import pytest

from infinitedub.pipeline.pools.calls import CallLabel, OnProgress, StageCall, Started
from infinitedub.pipeline.pools.circuit_breaker import CircuitBreaker
from infinitedub.pipeline.pools.failures import NO_ROOM, Failure, FailureClass, RetriesExhausted
from infinitedub.pipeline.pools.pool import Pool
from infinitedub.pipeline.pools.retry import RetryPolicy
from infinitedub.pipeline.pools.settings import RetrySettings
from infinitedub.stages.errors import ConfigError

RETRY = RetrySettings(
    storage=1, worker_lost=1, gang_lost=1, node_lost=1, host_oom=1, gpu_oom=1, numeric=1, code=1, backoff_seconds=0.001, backoff_limit_seconds=0.002
)
NO_NODE = Failure(FailureClass.CONFIG, "no node had room (free in all: 3 CPU)", "", NO_ROOM).at_opening()
OTHER_WEIGHTS = Failure(FailureClass.CONFIG, "on node-2 the weights are not those that this run began with", "", "weights").at_opening()


def call(name: str = "call", *priority: float) -> StageCall:
    return StageCall("generate", name, (), CallLabel(name), priority or (0.0,))


def pool_of(*groups: Any, rest_seconds: float = 60.0) -> Pool:
    return Pool(groups, RetryPolicy(RETRY, CircuitBreaker(1000, print)), rest_seconds)


def ignore(progress: Any) -> None:
    """For calls whose progress does not matter."""


class ListedAnswers:
    """A group that answers from a list, and is ready after each answer that is no failure."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.ready = False
        self.closed = False

    async def serve(self, call: StageCall, on_progress: OnProgress, low_memory: bool) -> Any:
        answer = self.answers.pop(0)
        self.ready = not isinstance(answer, Failure)
        return answer

    async def close(self) -> None:
        self.closed = True


class Gate:
    """A group that notes each call when it starts and answers with its key when the gate is open."""

    ready = True

    def __init__(self, *, opened: bool = False) -> None:
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.busy = self.most_busy = 0
        self.gate = asyncio.Event()
        if opened:
            self.gate.set()

    async def serve(self, call: StageCall, on_progress: OnProgress, low_memory: bool) -> str:
        self.started.append(call.key)
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.append(call.key)
            raise
        finally:
            self.busy -= 1
        return call.key

    async def close(self) -> None: ...


async def settle() -> None:
    """Lets every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


def results(pool: Pool, times: int) -> list[Any]:
    """The results or errors of that many calls, one after the other."""

    async def work() -> list[Any]:
        ends = [(await asyncio.gather(pool.run(call(), ignore), return_exceptions=True))[0] for _ in range(times)]
        await pool.close()
        return ends

    return asyncio.run(work())


# -- the queue --------------------------------------------------------------------------------------------------------


def test_the_smallest_priority_is_served_first_and_among_equals_the_first_to_arrive() -> None:
    async def main() -> list[str]:
        group = Gate()
        pool = pool_of(group)
        priorities = {"first": (5.0,), "late": (9.0,), "early": (1.0, 0.0), "early and long": (1.0, -80.0), "late too": (9.0,), "zero": (0.0,)}
        tasks = [asyncio.create_task(pool.run(call("first", 5.0), ignore))]
        await settle()
        tasks += [asyncio.create_task(pool.run(call(name, *priority), ignore)) for name, priority in priorities.items() if name != "first"]
        await settle()
        group.gate.set()
        await asyncio.gather(*tasks)
        await pool.close()
        return group.started

    assert asyncio.run(main()) == ["first", "zero", "early and long", "early", "late", "late too"]


def test_each_group_serves_one_call_at_a_time_and_all_groups_work() -> None:
    async def main() -> list[int]:
        groups = [Gate(opened=True), Gate(opened=True)]
        pool = pool_of(*groups)
        assert await asyncio.gather(*(pool.run(call(str(number)), ignore) for number in range(9))) == [str(number) for number in range(9)]
        await pool.close()
        assert all(group.started for group in groups)
        return [group.most_busy for group in groups]

    assert asyncio.run(main()) == [1, 1]


def test_a_started_group_is_preferred_to_one_that_was_never_needed() -> None:
    async def main() -> list[int]:
        groups = [Gate(opened=True) for _ in range(3)]
        pool = pool_of(*groups)
        for number in range(3):
            await pool.run(call(str(number)), ignore)
        await pool.close()
        return sorted(len(group.started) for group in groups)

    assert asyncio.run(main()) == [0, 0, 3]


def test_the_wait_and_the_queues_depth_are_reported() -> None:
    async def main() -> list[Started]:
        group, progress = Gate(), list[Any]()
        pool = pool_of(group)
        tasks = [asyncio.create_task(pool.run(call(str(number)), progress.append)) for number in range(3)]
        await settle()
        group.gate.set()
        await asyncio.gather(*tasks)
        await pool.close()
        return progress

    started = asyncio.run(main())
    assert [each.queue_depth for each in started] == [2, 1, 0]
    assert all(0 <= each.waited_seconds < 60 for each in started)


# -- cancelling, draining, closing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("served", [False, True], ids=["in the queue", "being served"])
def test_a_cancelled_call_costs_no_group(served: bool) -> None:
    async def main() -> tuple[list[str], list[str]]:
        group = Gate()
        pool = pool_of(group)
        first = asyncio.create_task(pool.run(call("first"), ignore))
        await settle()
        second = asyncio.create_task(pool.run(call("second"), ignore))
        await settle()
        cancelled, other = (first, second) if served else (second, first)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        assert cancelled.cancelled()
        group.gate.set()
        assert await other == ("second" if served else "first")
        assert await asyncio.wait_for(pool.run(call("third"), ignore), 5) == "third"
        await pool.close()
        return group.started, group.cancelled

    assert asyncio.run(main()) == ((["first", "second", "third"], ["first"]) if served else (["first", "third"], []))


def test_an_exception_of_a_progress_callback_ends_its_call_and_no_other() -> None:
    async def main() -> str:
        pool = pool_of(Gate(opened=True))

        def refuse(progress: Any) -> None:
            raise KeyError("stop here")

        with pytest.raises(KeyError):
            await pool.run(call("first"), refuse)
        result: str = await pool.run(call("second"), ignore)
        await pool.close()
        return result

    assert asyncio.run(main()) == "second"


def test_draining_ends_waiting_and_later_calls_and_lets_the_served_one_finish() -> None:
    async def main() -> None:
        group = Gate()
        pool = pool_of(group)
        served, waiting = (asyncio.create_task(pool.run(call(name), ignore)) for name in ("served", "waiting"))
        await settle()
        pool.drain()
        later = asyncio.create_task(pool.run(call("later"), ignore))
        await asyncio.gather(waiting, later, return_exceptions=True)
        assert waiting.cancelled()
        assert later.cancelled()
        group.gate.set()
        assert await served == "served"
        await pool.close()

    asyncio.run(main())


def test_closing_cancels_the_served_call_and_closes_every_group() -> None:
    async def main() -> None:
        gate, unused = Gate(), ListedAnswers()
        pool = pool_of(gate, unused)
        served = asyncio.create_task(pool.run(call("served"), ignore))
        await settle()
        await pool.close()
        await asyncio.gather(served, return_exceptions=True)
        assert served.cancelled()
        assert gate.cancelled == ["served"]
        assert unused.closed

    asyncio.run(main())


# -- groups that cannot be started ------------------------------------------------------------------------------------


def test_settings_that_no_node_can_satisfy_are_a_config_error() -> None:
    assert [type(end) for end in results(pool_of(ListedAnswers(NO_NODE)), 1)] == [ConfigError]


def test_room_that_was_there_before_and_is_gone_means_a_lost_node() -> None:
    first, *lost = results(pool_of(ListedAnswers("film", NO_NODE, NO_NODE)), 3)
    assert first == "film"
    assert [error.kind for error in lost if isinstance(error, RetriesExhausted)] == [FailureClass.NODE_LOST] * 2


def test_a_lost_room_is_counted_over_all_calls() -> None:
    breaker_reasons: list[str] = []
    pool = Pool([ListedAnswers("film", NO_NODE, NO_NODE)], RetryPolicy(RETRY, CircuitBreaker(2, breaker_reasons.append)), 60)

    async def main() -> None:
        for name in "abc":
            await asyncio.gather(pool.run(call(name), ignore), return_exceptions=True)
        await pool.close()

    asyncio.run(main())
    assert len(breaker_reasons) == 1


def test_wrong_weights_on_the_only_node_are_a_config_error() -> None:
    film, error = results(pool_of(ListedAnswers("film", OTHER_WEIGHTS)), 2)
    assert film == "film"
    assert isinstance(error, ConfigError)


def test_a_group_that_cannot_be_started_rests_while_another_serves_its_call() -> None:
    async def main() -> tuple[list[Any], list[Any]]:
        up, starting = asyncio.Event(), asyncio.Event()

        class SlowStart(ListedAnswers):
            async def serve(self, call: StageCall, on_progress: OnProgress, low_memory: bool) -> Any:
                starting.set()
                await up.wait()
                return await super().serve(call, on_progress, low_memory)

        good, bad = SlowStart("film 1", "film 2", "film 3"), ListedAnswers(OTHER_WEIGHTS, "film 4")
        pool = pool_of(good, bad, rest_seconds=60)
        first = asyncio.create_task(pool.run(call("1"), ignore))
        await starting.wait()
        second = asyncio.create_task(pool.run(call("2"), ignore))
        while len(bad.answers) > 1:
            await asyncio.sleep(0)
        up.set()
        answers = [await first, await second, await pool.run(call("3"), ignore)]
        await pool.close()
        return answers, bad.answers

    assert asyncio.run(main()) == (["film 1", "film 2", "film 3"], ["film 4"])


def test_a_rested_group_is_tried_again() -> None:
    async def main() -> Any:
        good, bad = Gate(), ListedAnswers(OTHER_WEIGHTS, "from the rested group")
        pool = pool_of(good, bad, rest_seconds=0.01)
        stuck = asyncio.create_task(pool.run(call("stuck"), ignore))
        await settle()
        result = await asyncio.wait_for(pool.run(call("other"), ignore), 30)
        stuck.cancel()
        await pool.close()
        return result

    assert asyncio.run(main()) == "from the rested group"


def test_groups_none_of_which_can_be_started_end_their_calls() -> None:
    async def main() -> list[Any]:
        pool = pool_of(ListedAnswers(OTHER_WEIGHTS, OTHER_WEIGHTS), ListedAnswers(OTHER_WEIGHTS, OTHER_WEIGHTS), rest_seconds=0.01)
        ends = await asyncio.gather(*(pool.run(call(name), ignore) for name in "ab"), return_exceptions=True)
        await pool.close()
        return ends

    assert [type(end) for end in asyncio.run(main())] == [ConfigError] * 2


# -- retiring idle groups ---------------------------------------------------------------------------------------------


class SlowToClose(Gate):
    """A group whose processes need a while to end."""

    def __init__(self) -> None:
        super().__init__(opened=True)
        self.closing = asyncio.Event()
        self.closed = 0

    async def close(self) -> None:
        self.closed += 1
        await self.closing.wait()


def test_a_call_that_arrives_while_its_only_group_is_being_retired_is_served_afterwards() -> None:
    async def main() -> list[str]:
        group = SlowToClose()
        pool = pool_of(group)
        await pool.run(call("first"), ignore)
        await settle()
        retiring = asyncio.create_task(pool.retire(group))
        await settle()
        second = asyncio.create_task(pool.run(call("second"), ignore))
        await settle()
        assert group.started == ["first"]
        group.closing.set()
        await retiring
        async with asyncio.timeout(5):
            await second
        await pool.close()
        return group.started

    assert asyncio.run(main()) == ["first", "second"]


def test_a_group_that_is_being_retired_is_not_idle_so_no_other_waiting_group_retires_it_again() -> None:
    async def main() -> tuple[int, int]:
        group = SlowToClose()
        pool = pool_of(group)
        await pool.run(call("first"), ignore)
        await settle()
        assert list(pool.idle) == [group]
        retiring = asyncio.create_task(pool.retire(group))
        await asyncio.sleep(0)  # the retirement has begun, and the group's server has not ended yet
        assert not pool.idle
        group.closing.set()
        await retiring
        closed = group.closed
        await asyncio.gather(*(pool.run(call(name), ignore) for name in ("second", "third")))
        await pool.close()
        return closed, group.most_busy

    assert asyncio.run(main()) == (1, 1)
