"""Signals during a run in one process, where stages block the event loop."""

import os
import signal
import time

import pytest

from tests.unit.scripted import Called, ScriptedRun

HANG_SECONDS = 3600.0  # a signal that is ignored shows as a test that times out


def test_a_second_signal_interrupts_a_stage_that_blocks_the_loop(scripted_run: ScriptedRun):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def hang(called: Called) -> None:
        if called[0] == "condition":
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(HANG_SECONDS)

    scripted_run.error_for = hang
    outcome = scripted_run.dub(scripted_run.job("a"))
    assert (outcome.stopped, outcome.why, outcome.done, outcome.failed) == (True, "SIGINT", {}, ())
    assert {number: signal.getsignal(number) for number in before} == before
    scripted_run.error_for = lambda called: None
    assert scripted_run.dub(scripted_run.job("a")).done.keys() == {"a"}


def test_one_signal_lets_a_stage_that_blocks_the_loop_finish(scripted_run: ScriptedRun):
    def signalled(called: Called) -> None:
        if called[0] == "listen":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    scripted_run.error_for = signalled
    outcome = scripted_run.dub(scripted_run.job("a"))
    assert outcome.stopped
    scripted_run.error_for = lambda called: None
    scripted_run.dub(scripted_run.job("a"))
    assert scripted_run.called()["listen"] == 0  # it was committed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_interrupts_the_start_of_the_cluster(scripted_run: ScriptedRun, monkeypatch: pytest.MonkeyPatch, number: signal.Signals):
    def hang() -> None:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        time.sleep(HANG_SECONDS)

    monkeypatch.setattr(scripted_run, "start_cluster", hang, raising=False)
    outcome = scripted_run.dub(scripted_run.job("a"))
    assert (outcome.stopped, outcome.why, outcome.worked) == (True, number.name, 0)
