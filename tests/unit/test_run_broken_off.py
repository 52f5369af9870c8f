"""What a run that was broken off, stopped or operated on takes up again, and what it makes anew."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from infinitedub.pipeline.pools.calls import StageCall
from infinitedub.pipeline.run import driver
from infinitedub.pipeline.state.forced_rerun import ForcedRerun
from infinitedub.pipeline.state.run_log import read_run
from infinitedub.stages.errors import BadInput
from tests.unit.scripted import Called, ScriptedRun


def test_an_interrupted_segment_continues_after_its_last_window(scripted_run: ScriptedRun):
    scripted_run.error_for = lambda called: BadInput("the assembler's") if called[0] == "assemble" else None
    scripted_run.dub(scripted_run.job("a"))
    assert sorted(scripted_run.windows()) == [(0, 0), (1, 0), (1, 1)]
    (commit,) = Path(scripted_run.storage.root).glob("cas/generate/*/*/_window.00001.json")
    commit.unlink()
    for clip in Path(scripted_run.storage.root).glob("cas/generate/*/*/_commit.json"):
        clip.unlink()
    scripted_run.error_for = lambda called: None
    assert scripted_run.dub(scripted_run.job("a")).done.keys() == {"a"}
    assert scripted_run.windows() == [(1, 1)]


@pytest.mark.parametrize("changed", ["setting", "weights", "seed", "input"])
def test_windows_of_another_film_are_not_reused(scripted_run: ScriptedRun, changed: str):
    """Though their segment was never finished."""
    job = scripted_run.job("a")
    scripted_run.dub(job)
    for clip in Path(scripted_run.storage.root).glob("cas/generate/*/*/_commit.json"):
        clip.unlink()
    if changed == "setting":
        scripted_run.steps["generate"] = 8
    elif changed == "weights":
        scripted_run.weights.write_text("other training")
    elif changed == "seed":
        job = replace(job, seed=8)
    else:
        Path(job.material.picture).write_text("another face")
    assert scripted_run.dub(job).done.keys() == {"a"}
    assert len(scripted_run.windows()) == 3


@pytest.mark.parametrize(
    ("segments", "first_window", "windows"), [({1}, 1, [(1, 1)]), ({1}, 0, [(1, 0), (1, 1)]), (None, 0, [(1, 0), (1, 1), (0, 0)]), ({0}, 0, [(0, 0)])]
)
def test_forced_windows_are_made_again_to_the_end_of_their_segment_and_nothing_else(scripted_run: ScriptedRun, segments, first_window, windows):
    before = scripted_run.dub(scripted_run.job("a"))
    film = Path(before.done["a"]).read_bytes()
    forced_rerun = ForcedRerun(frozenset("a"), None if segments is None else frozenset(segments), first_window, "she blinks")
    after = scripted_run.dub(scripted_run.job("a"), forced_rerun=forced_rerun)
    assert sorted(scripted_run.windows()) == sorted(windows)
    assert scripted_run.called() == Counter(generate=len({segment for segment, _ in windows}))  # the same bits: the film is there already
    assert Path(after.done["a"]).read_bytes() == film
    assert read_run(scripted_run.storage, after.run)["forced_rerun"] == {
        "jobs": ["a"],
        "segments": None if segments is None else sorted(segments),
        "first_window": first_window,
        "reason": "she blinks",
        "id": "",
    }
    withdrawn = [path.read_text() for path in Path(scripted_run.storage.root).glob("cas/generate/*/*/_*.1.json")]
    assert len(withdrawn) == len(windows) + len({segment for segment, _ in windows})
    assert all("she blinks" in entry for entry in withdrawn)
    assert scripted_run.dub(scripted_run.job("a")).worked == 0


def test_a_forced_rerun_leaves_other_jobs_alone(scripted_run: ScriptedRun):
    scripted_run.dub(scripted_run.job("a"), scripted_run.job("b"))
    scripted_run.windows()
    assert scripted_run.dub(
        scripted_run.job("a"), scripted_run.job("b"), forced_rerun=ForcedRerun(frozenset("b"), frozenset({1}), 1, "she blinks")
    ).done.keys() == {
        "a",
        "b",
    }
    assert scripted_run.windows() == [(1, 1)]


def test_a_stopped_forced_rerun_continues_after_the_windows_it_has_made(scripted_run: ScriptedRun):
    scripted_run.dub(scripted_run.job("a"))
    forced_rerun = ForcedRerun(frozenset("a"), frozenset({1}), 0, "she blinks", "of today")
    scripted_run.error_for = lambda called: os.kill(os.getpid(), signal.SIGTERM) if called[0] == "generate" else None
    assert scripted_run.dub(scripted_run.job("a"), forced_rerun=forced_rerun).stopped
    assert scripted_run.windows() == [(1, 0)]
    scripted_run.error_for = lambda called: None
    assert scripted_run.dub(scripted_run.job("a"), forced_rerun=forced_rerun).done.keys() == {"a"}
    assert scripted_run.windows() == [(1, 1)]
    scripted_run.dub(scripted_run.job("a"), forced_rerun=replace(forced_rerun, id="of tomorrow"))
    assert scripted_run.windows() == [(1, 0), (1, 1)]


def test_a_forced_rerun_of_half_a_film_makes_nothing_twice(scripted_run: ScriptedRun):
    """What it makes where nothing lay before is not older than it."""
    scripted_run.error_for = lambda called: BadInput("half-way") if called[0] == "generate" and called[2] == 0 else None
    scripted_run.dub(scripted_run.job("a"))
    assert scripted_run.windows() == [(1, 0), (1, 1)]
    forced_rerun = ForcedRerun(frozenset("a"), None, 0, "a faulty GPU", "of today")
    scripted_run.error_for = lambda called: BadInput("half-way") if called[0] == "assemble" else None
    scripted_run.dub(scripted_run.job("a"), forced_rerun=forced_rerun)
    assert sorted(scripted_run.windows()) == [(0, 0), (1, 0), (1, 1)]
    scripted_run.error_for = lambda called: None
    assert scripted_run.dub(scripted_run.job("a"), forced_rerun=forced_rerun).done.keys() == {"a"}
    assert scripted_run.windows() == []


@pytest.mark.parametrize(
    ("forced_rerun", "said"),
    [
        (ForcedRerun(frozenset("a"), frozenset({0, 2}), 0, "why not"), "there is no segment 2 to make again; the film has 0 to 1"),
        (ForcedRerun(frozenset("a"), frozenset({1}), 2, "why not"), "segment 1 has no window 2 to make again; it has 0 to 1"),
        (ForcedRerun(frozenset("a"), None, 1, "why not"), "segment 0 has no window 1"),
    ],
)
def test_segments_and_windows_that_do_not_exist_cannot_be_made_again(scripted_run: ScriptedRun, forced_rerun: ForcedRerun, said: str):
    scripted_run.dub(scripted_run.job("a"))
    (letter,) = scripted_run.dub(scripted_run.job("a"), forced_rerun=forced_rerun).failed
    assert (letter.kind, letter.stage) == ("input", "segment")
    assert said in letter.reason
    assert "to make no segment again, use dub rerun --ids=a" in letter.reason
    assert scripted_run.dub(scripted_run.job("a")).worked == 0


def test_a_stopped_run_ends_after_its_current_window(scripted_run: ScriptedRun):
    def stop_in_the_long_segment(called: Called) -> None:
        if called[0] == "generate":
            os.kill(os.getpid(), signal.SIGTERM)

    scripted_run.error_for = stop_in_the_long_segment
    outcome = scripted_run.dub(scripted_run.job("a"), scripted_run.job("b"))
    assert (outcome.stopped, outcome.done, outcome.failed) == (True, {}, ())
    assert len(scripted_run.windows()) == 1
    scripted_run.error_for = lambda called: None
    assert scripted_run.dub(scripted_run.job("a"), scripted_run.job("b")).done.keys() == {"a", "b"}
    assert len(scripted_run.windows()) == 5
    assert scripted_run.called()["generate"] == 4  # the one that was stopped among them


def test_a_second_signal_does_not_wait(scripted_run: ScriptedRun, monkeypatch: pytest.MonkeyPatch):
    waited: list[str] = []

    class Endless:
        """A pool whose work never comes to a commit."""

        async def run(self, call: StageCall, on_progress: object) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            while not waited:
                await asyncio.sleep(0.01)
            waited.append(call.stage)  # once was not enough
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()

        def drain(self) -> None:
            waited.append("drained")

        async def close(self) -> None:
            waited.append("closed")

    monkeypatch.setattr(driver, "open_pools", lambda *_, **__: {"ingest": Endless()})
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        outcome = scripted_run.dub(scripted_run.job("a"))
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    assert waited == ["drained", "ingest", "closed"]
    assert (outcome.stopped, outcome.why, outcome.done, outcome.failed) == (True, "SIGTERM", {}, ())


def test_a_third_signal_kills_the_process():
    code = (
        "import asyncio, time\n"
        "from infinitedub.pipeline.run.stop import StopSignal\n"
        "async def main():\n"
        "    stop = StopSignal()\n"
        "    stop.watch_signals()\n"
        "    hung = asyncio.create_task(asyncio.to_thread(time.sleep, 60))\n"
        "    print('soft', flush=True)\n"
        "    await stop.soft.wait()\n"
        "    print('hard', flush=True)\n"
        "    await stop.hard.wait()\n"
        "    print('over', flush=True)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for word in ("soft", "hard", "over"):
            assert process.stdout.readline().strip() == word
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM


def test_one_signal_after_the_circuit_breaker_is_still_a_soft_stop():
    code = (
        "import asyncio, os, signal\n"
        "from infinitedub.pipeline.run.stop import StopSignal\n"
        "async def main():\n"
        "    stop = StopSignal()\n"
        "    stop.watch_signals()\n"
        "    stop.request('the circuit breaker')\n"
        "    for _ in range(2):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        await asyncio.sleep(0.1)\n"
        "        print(stop.soft.is_set(), stop.hard.is_set(), stop.reason)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == ["True False the circuit breaker", "True True the circuit breaker"], done.stderr
