"""Signals during a run in one process, where stages block the event loop."""

import os
import signal
import time

import pytest

from tests.unit.scripted import Called, Rehearsal

HANG_SECONDS = 3600.0  # a signal that is ignored shows as a test that times out


def test_a_second_signal_interrupts_a_stage_that_blocks_the_loop(rehearsal: Rehearsal):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def hang(called: Called) -> None:
        if called[0] == "condition":
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(HANG_SECONDS)

    rehearsal.trouble = hang
    outcome = rehearsal.dub(rehearsal.job("a"))
    assert (outcome.stopped, outcome.why, outcome.done, outcome.failed) == (True, "SIGINT", {}, ())
    assert {number: signal.getsignal(number) for number in before} == before
    rehearsal.trouble = lambda called: None
    assert rehearsal.dub(rehearsal.job("a")).done.keys() == {"a"}


def test_one_signal_lets_a_stage_that_blocks_the_loop_finish(rehearsal: Rehearsal):
    def signalled(called: Called) -> None:
        if called[0] == "listen":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    rehearsal.trouble = signalled
    outcome = rehearsal.dub(rehearsal.job("a"))
    assert outcome.stopped
    rehearsal.trouble = lambda called: None
    rehearsal.dub(rehearsal.job("a"))
    assert rehearsal.called()["listen"] == 0  # it was committed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_interrupts_the_start_of_the_cluster(rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch, number: signal.Signals):
    def hang() -> None:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        time.sleep(HANG_SECONDS)

    monkeypatch.setattr(rehearsal, "start_cluster", hang, raising=False)
    outcome = rehearsal.dub(rehearsal.job("a"))
    assert (outcome.stopped, outcome.why, outcome.worked) == (True, number.name, 0)
