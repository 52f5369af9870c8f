"""A whole run with scripted stages in the driver's process: what is reused, what a failure costs, and who goes first."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.compose import checked, compose
from pipeline import run
from pipeline.catalogue import Catalogue
from pipeline.config import RunConfig
from pipeline.crew import Crew, StageFailed, Works
from pipeline.events import Event, read_dead, read_events, read_run, read_summary
from pipeline.flow import dub_job
from pipeline.ledger import Ledger
from pipeline.pools.pool import Order, Took
from pipeline.roster import Verb
from pipeline.run import Outcome, again, run_jobs
from pipeline.storage import Storage
from pipeline.surgery import Surgery
from stages.contract import Files, Seat
from stages.errors import BadInput, ConfigError, Transient
from stages.records import (
    Artifact,
    Chunk,
    Clip,
    Conditions,
    Film,
    Job,
    Material,
    Prompt,
    Provenance,
    Receipt,
    Segment,
    Source,
    Speaker,
    Speech,
    Take,
    Turns,
    Voice,
)
from stages.settings import Decides, Settings, Weights
from tests.unit.tiny import segment_of

RESULTS = {
    "ingest": Source,
    "segment": tuple[Segment, ...],
    "listen": Speech,
    "condition": Conditions,
    "generate": Clip,
    "assemble": Film,
    "publish": Receipt,
}
SEGMENTS = (segment_of(20), segment_of(50, index=1, start=20))  # the longer one last


class Told(Settings):
    """What a scripted stage is told."""

    steps: Decides[int]
    """Anything that changes its result."""
    weights: Weights
    """What the result depends on as well."""


Called = tuple[str, str | None, int | None]  # verb, job where it is known, segment where there is one


class Scripted:
    """Any of the verbs: makes small records, and notes that it was called. `trouble` says when it fails."""

    def __init__(self, verb: str, config: Told, calls: list[Called], trouble: Callable[[Called], Exception | None]) -> None:
        self.verb, self.config = verb, config
        self.calls, self.trouble = calls, trouble

    def open(self, seat: Seat) -> None:
        pass

    def close(self) -> None:
        pass

    def __call__(self, *records: Any, files: Files) -> Any:
        job = next((record.id for record in records if isinstance(record, Job)), None)
        segment = next((record.index for record in records if isinstance(record, Segment)), None)
        called = (self.verb, job, segment)
        self.calls.append(called)
        if error := self.trouble(called):
            raise error
        return getattr(self, f"_{self.verb}")(*records, files=files)

    def _file(self, files: Files, *content: object) -> Path:
        path = files.scratch() / self.verb
        path.write_text(f"{self.config.steps} {content}")
        return path

    def _ingest(self, material: Material, *, files: Files) -> Source:
        kept = files.keep(self._file(files, Path(material.picture).read_text()), "picture/png")
        return Source(kept, False, 64, 64, 25.0, 1, (Voice(kept, 16000, 16000, 0, None),))

    def _segment(self, source: Source, length: object, *, files: Files) -> tuple[Segment, ...]:
        return SEGMENTS

    def _listen(self, source: Source, *, files: Files) -> Speech:
        return Speech(files.keep(self._file(files, source.picture.sha256), "tensors/safetensors"), 70, (None,))

    def _condition(self, source: Source, segment: Segment, prompt: Prompt, *, files: Files) -> Conditions:
        return Conditions(files.keep(self._file(files, source.picture.sha256, segment), "tensors/safetensors"), 64, 64)

    def _generate(self, segment: Segment, conditions: Conditions, speech: Speech, seed: object, *, files: Files) -> Iterator[Chunk | Clip]:
        takes = []
        for number, window in enumerate(segment.windows):
            take = files.recall(number, Take)
            if take is None:
                kept = files.keep(self._file(files, conditions.tensors.sha256, seed, number), "chunk/mkv")
                take = files.remember(number, Take(Chunk(number, kept, window.fresh.frames), None))
                self.calls.append(("window", f"{segment.index}", number))
                yield take.chunk
            takes.append(take)
        yield Clip(segment.index, segment.span, tuple(take.chunk for take in takes))

    def _assemble(self, source: Source, clips: tuple[Clip, ...], *, files: Files) -> Film:
        chunks = [chunk.picture.sha256 for clip in clips for chunk in clip.chunks]
        return Film(files.keep(self._file(files, chunks), "film/mp4"), 70, 25.0, 0.0)

    def _publish(self, job: Job, source: Source, film: Film, provenance: Provenance, *, files: Files) -> Receipt:
        path = files.fetch(film.file)
        sidecar = files.deliver(self._file(files, provenance.run), f"films/{job.id}.json")
        return Receipt(files.deliver(path, f"films/{job.id}.mp4"), film.file.sha256, film.file.bytes, sidecar)


class Studio:
    """Runs jobs with scripted stages."""

    def __init__(self, folder: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.storage = folder, storage
        self.calls: list[Called] = []
        self.clusters = 0
        self.trouble: Callable[[Called], Exception | None] = lambda called: None
        self.steps = dict.fromkeys(RESULTS, 4)
        self.weights = folder / "weights"
        self.weights.write_text("first training")
        composed = checked(compose(["catalogue=rows.jsonl", "pools=inline", f"storage.root={storage.root}"]))
        self.config: RunConfig = composed.model_copy(update={"storage": storage.settings})
        monkeypatch.setattr(run, "roster", lambda config: self.verbs())

    def verbs(self) -> dict[str, Verb]:
        def stage(name: str) -> Scripted:
            weights = str(self.weights) if name == "generate" else "bundled:tiny"
            return Scripted(name, Told(steps=self.steps[name], weights=weights), self.calls, self.trouble)

        return {name: Verb(name, stage(name), result) for name, result in RESULTS.items()}

    def job(self, name: str) -> Job:
        picture = self.folder / f"{name}.png"
        if not picture.exists():  # an input that is written anew is another one
            picture.write_text(f"the face of {name}")
        return Job(name, Material(str(picture), (Speaker(str(picture), None),), Turns.TOGETHER), None, Prompt("a person", ""), 7)

    def dub(self, *jobs: Job, surgery: Surgery | None = None) -> Outcome:
        """A run of its own; `calls` are those of this run."""
        self.calls.clear()

        def raise_cluster() -> None:
            self.clusters += 1

        overrides = ["catalogue=rows.jsonl"]
        return asyncio.run(run_jobs(self.config, Catalogue(jobs, ()), self.storage, raise_cluster, overrides=overrides, parent=None, surgery=surgery))

    def called(self) -> Counter[str]:
        return Counter(verb for verb, _, _ in self.calls if verb != "window")

    def windows(self) -> list[tuple[int, int]]:
        """Segment and number of the windows that were made, in order."""
        return [(int(segment), number) for verb, segment, number in self.calls if verb == "window"]


ONCE = Counter(ingest=1, segment=1, listen=1, condition=2, generate=2, assemble=1, publish=1)


@pytest.fixture
def studio(tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Studio:
    return Studio(tmp_path, storage, monkeypatch)


# -- what is taken up again, and what is made anew --------------------------------------------------------------------


def test_a_segment_that_broke_off_is_taken_up_behind_its_last_window(studio: Studio):
    studio.trouble = lambda called: BadInput("the assembler's") if called[0] == "assemble" else None
    studio.dub(studio.job("a"))
    assert sorted(studio.windows()) == [(0, 0), (1, 0), (1, 1)]
    (commit,) = Path(studio.storage.root).glob("cas/generate/*/*/_window.00001.json")
    commit.unlink()
    for clip in Path(studio.storage.root).glob("cas/generate/*/*/_commit.json"):
        clip.unlink()
    studio.trouble = lambda called: None
    assert studio.dub(studio.job("a")).done.keys() == {"a"}
    assert studio.windows() == [(1, 1)]


@pytest.mark.parametrize("changed", ["setting", "weights", "seed", "input"])
def test_windows_of_another_film_are_not_taken_up(studio: Studio, changed: str):
    """Though their segment was never finished."""
    job = studio.job("a")
    studio.dub(job)
    for clip in Path(studio.storage.root).glob("cas/generate/*/*/_commit.json"):
        clip.unlink()
    if changed == "setting":
        studio.steps["generate"] = 8
    elif changed == "weights":
        studio.weights.write_text("other training")
    elif changed == "seed":
        job = replace(job, seed=8)
    else:
        Path(job.material.picture).write_text("another face")
    assert studio.dub(job).done.keys() == {"a"}
    assert len(studio.windows()) == 3


@pytest.mark.parametrize(
    ("segments", "first_window", "windows"), [({1}, 1, [(1, 1)]), ({1}, 0, [(1, 0), (1, 1)]), (None, 0, [(1, 0), (1, 1), (0, 0)]), ({0}, 0, [(0, 0)])]
)
def test_forced_windows_are_made_anew_to_the_end_of_their_segment_and_nothing_else(studio: Studio, segments, first_window, windows):
    before = studio.dub(studio.job("a"))
    film = Path(before.done["a"]).read_bytes()
    surgery = Surgery(frozenset("a"), None if segments is None else frozenset(segments), first_window, "she blinks")
    after = studio.dub(studio.job("a"), surgery=surgery)
    assert sorted(studio.windows()) == sorted(windows)
    assert studio.called() == Counter(generate=len({segment for segment, _ in windows}))  # the same bits: the film is there already
    assert Path(after.done["a"]).read_bytes() == film
    assert read_run(studio.storage, after.run)["surgery"] == {
        "jobs": ["a"],
        "segments": None if segments is None else sorted(segments),
        "first_window": first_window,
        "reason": "she blinks",
        "name": "",
    }
    withdrawn = [path.read_text() for path in Path(studio.storage.root).glob("cas/generate/*/*/_*.1.json")]
    assert len(withdrawn) == len(windows) + len({segment for segment, _ in windows})
    assert all("she blinks" in entry for entry in withdrawn)
    assert studio.dub(studio.job("a")).worked == 0


def test_jobs_that_a_surgery_is_not_of_stay_as_they_are(studio: Studio):
    studio.dub(studio.job("a"), studio.job("b"))
    studio.windows()
    assert studio.dub(studio.job("a"), studio.job("b"), surgery=Surgery(frozenset("b"), frozenset({1}), 1, "she blinks")).done.keys() == {"a", "b"}
    assert studio.windows() == [(1, 1)]


def test_a_surgery_that_was_stopped_goes_on_behind_what_it_has_made_anew(studio: Studio):
    studio.dub(studio.job("a"))
    surgery = Surgery(frozenset("a"), frozenset({1}), 0, "she blinks", "of today")
    studio.trouble = lambda called: os.kill(os.getpid(), signal.SIGTERM) if called[0] == "generate" else None
    assert studio.dub(studio.job("a"), surgery=surgery).stopped
    assert studio.windows() == [(1, 0)]
    studio.trouble = lambda called: None
    assert studio.dub(studio.job("a"), surgery=surgery).done.keys() == {"a"}
    assert studio.windows() == [(1, 1)]
    studio.dub(studio.job("a"), surgery=replace(surgery, name="of tomorrow"))
    assert studio.windows() == [(1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("surgery", "said"),
    [
        (Surgery(frozenset("a"), frozenset({0, 2}), 0, "why not"), "there is no segment 2 to make anew; the film has 0 to 1"),
        (Surgery(frozenset("a"), frozenset({1}), 2, "why not"), "segment 1 has no window 2 to make anew; it has 0 to 1"),
        (Surgery(frozenset("a"), None, 1, "why not"), "segment 0 has no window 1"),
    ],
)
def test_what_is_not_there_cannot_be_made_anew(studio: Studio, surgery: Surgery, said: str):
    studio.dub(studio.job("a"))
    (letter,) = studio.dub(studio.job("a"), surgery=surgery).failed
    assert (letter.kind, letter.stage) == ("input", "segment")
    assert said in letter.reason
    assert "dub rerun --ids=a leaves it as it is" in letter.reason
    assert studio.dub(studio.job("a")).worked == 0


def test_told_to_stop_a_run_ends_behind_the_window_it_is_at(studio: Studio):
    def stop_in_the_long_segment(called: Called) -> None:
        if called[0] == "generate":
            os.kill(os.getpid(), signal.SIGTERM)

    studio.trouble = stop_in_the_long_segment
    outcome = studio.dub(studio.job("a"), studio.job("b"))
    assert (outcome.stopped, outcome.done, outcome.failed) == (True, {}, ())
    assert len(studio.windows()) == 1
    studio.trouble = lambda called: None
    assert studio.dub(studio.job("a"), studio.job("b")).done.keys() == {"a", "b"}
    assert len(studio.windows()) == 5
    assert studio.called()["generate"] == 4  # the one that was stopped among them


def test_told_twice_it_does_not_wait(studio: Studio, monkeypatch: pytest.MonkeyPatch):
    waited: list[str] = []

    class Endless:
        """A pool whose work never comes to a commit."""

        async def run(self, order: Order, on_part: object) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.2)
            waited.append(order.stage)  # once was not enough
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()

        def drain(self) -> None:
            waited.append("no more orders")

        async def close(self) -> None:
            waited.append("closed")

    monkeypatch.setattr(run, "open_pools", lambda *_: {"ingest": Endless()})
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        outcome = studio.dub(studio.job("a"))
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    assert waited == ["no more orders", "ingest", "closed"]
    assert (outcome.stopped, outcome.why, outcome.done, outcome.failed) == (True, "SIGTERM", {}, ())


def test_told_three_times_it_does_not_wait_for_the_storage_either():
    code = (
        "import asyncio, time\n"
        "from pipeline.run import Stop\n"
        "async def main():\n"
        "    stop = Stop()\n"
        "    stop.heed_signals()\n"
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


# -- what is reused ---------------------------------------------------------------------------------------------------


def test_the_same_run_again_does_no_work_and_raises_no_cluster(studio: Studio):
    """Though what is written into sidecars, such as the run's id, is another."""
    first = studio.dub(studio.job("a"))
    assert (first.worked, studio.called(), studio.clusters) == (9, ONCE, 1)
    assert Path(first.done["a"]).is_file()
    again = studio.dub(studio.job("a"))
    assert (again.worked, studio.calls, studio.clusters) == (0, [], 1)
    assert again.done == first.done
    assert again.run != first.run


def test_a_changed_setting_redoes_its_stage_and_what_follows(studio: Studio):
    studio.dub(studio.job("a"))
    studio.steps["generate"] = 8
    studio.dub(studio.job("a"))
    assert studio.called() == Counter(generate=2, assemble=1, publish=1)


def test_a_retrained_model_of_the_same_size_is_another_model(studio: Studio):
    studio.dub(studio.job("a"))
    studio.weights.write_text("other training")
    studio.dub(studio.job("a"))
    assert studio.called() == Counter(generate=2)  # it makes the same here, so that what follows is found


def test_a_film_that_was_taken_away_is_delivered_again(studio: Studio):
    film = Path(studio.dub(studio.job("a")).done["a"])
    film.unlink()
    studio.dub(studio.job("a"))
    assert studio.called() == Counter(publish=1)
    assert film.is_file()


def test_another_picture_is_another_film(studio: Studio):
    job = studio.job("a")
    studio.dub(job)
    Path(job.material.picture).write_text("an older face of a")
    studio.dub(job)
    assert studio.called() == ONCE


# -- what a failure costs ---------------------------------------------------------------------------------------------


def test_a_failing_segment_costs_its_film_and_nothing_else(studio: Studio):
    studio.trouble = lambda called: BadInput("nobody is to be seen") if called == ("generate", None, 0) else None
    failed = studio.dub(studio.job("a"))
    assert (failed.done, failed.stopped) == ({}, False)
    (letter,) = failed.failed
    assert (letter.job, letter.stage, letter.segment, letter.kind, letter.reason) == ("a", "generate", 0, "input", "nobody is to be seen")
    assert "nobody is to be seen" in letter.trace
    assert f"--run {failed.run} --ids a" in letter.repro
    assert ("generate", None, 1) in studio.calls  # the other segment is finished, for the rerun
    assert read_dead(studio.storage, failed.run) == [letter]
    summary = read_summary(studio.storage, failed.run)
    assert summary is not None
    assert (summary["failed"], summary["stopped"]) == (["a"], False)

    studio.trouble = lambda called: None
    mended = studio.dub(studio.job("a"))
    assert list(mended.done) == ["a"]
    assert [call for call in studio.calls if call[0] == "generate"] == [("generate", None, 0)]
    assert studio.called() == Counter(generate=1, assemble=1, publish=1)


@pytest.mark.parametrize("error", [BadInput("bad"), ConfigError("bad"), RuntimeError("a bug")])
def test_one_job_fails_and_the_others_go_on(studio: Studio, error: Exception):
    studio.trouble = lambda called: error if called == ("publish", "b", None) else None
    outcome = studio.dub(*(studio.job(name) for name in "abc"))
    assert sorted(outcome.done) == ["a", "c"]
    assert [letter.job for letter in outcome.failed] == ["b"]
    ended = {event["job"]: event["what"] for event in read_events(studio.storage, outcome.run) if event["what"].startswith("job_")}
    assert ended == {"a": "job_done", "b": "job_failed", "c": "job_done"}


def test_the_same_bug_in_every_job_stops_the_run(studio: Studio):
    studio.trouble = lambda called: KeyError("a bug") if called[0] == "listen" else None
    outcome = studio.dub(*(studio.job(name) for name in "abcdef"))
    assert outcome.stopped
    assert "listen failed for 3 orders with the same error" in outcome.why
    assert [(letter.job, letter.kind) for letter in outcome.failed] == [("a", "code"), ("b", "code"), ("c", "code")]


def test_an_odd_job_at_the_head_of_the_catalogue_does_not_stop_those_behind_it(studio: Studio):
    """It has as many segments as an error needs orders to be taken for everybody's, and nothing has worked before it."""
    studio.config = studio.config.model_copy(update={"pools": studio.config.pools.model_copy(update={"same_error_limit": len(SEGMENTS)})})
    odd = len(SEGMENTS)

    def trouble(called: Called) -> Exception | None:
        return KeyError("odd") if called[0] == "generate" and sum(call[0] == "generate" for call in studio.calls) <= odd else None

    studio.trouble = trouble
    outcome = studio.dub(*(studio.job(name) for name in "abc"))
    assert ([letter.job for letter in outcome.failed], sorted(outcome.done), outcome.stopped) == (["a"], ["b", "c"], False)


def test_a_file_that_is_not_there_costs_one_film(studio: Studio):
    gone = studio.job("gone")
    Path(gone.material.picture).unlink()
    outcome = studio.dub(gone, studio.job("a"))
    assert list(outcome.done) == ["a"]
    (letter,) = outcome.failed
    assert (letter.job, letter.stage, letter.kind) == ("gone", "ingest", "input")
    assert "gone.png" in letter.reason


def patient(config: RunConfig, tries: int) -> RunConfig:
    """With so many tries for a storage that fails."""
    retry = config.pools.retry.model_copy(update={"storage": tries, "backoff_seconds": 0.001})
    return config.model_copy(update={"pools": config.pools.model_copy(update={"retry": retry})})


@pytest.mark.parametrize("down", [1, 2, 3])
@pytest.mark.parametrize("call", ["read", "stat_input"])
def test_a_storage_that_fails_under_the_driver_has_the_budget_of_one_that_fails_under_a_stage(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, call: str, down: int
):
    studio.config = patient(studio.config, 3)
    real, failures = getattr(studio.storage, call), []

    def failing(name: str) -> Any:
        if len(failures) < down and (call == "stat_input" or name.startswith("cas/listen")):
            failures.append(name)
            raise Transient("the bucket is on holiday")
        return real(name)

    monkeypatch.setattr(studio.storage, call, failing)
    job = studio.job("a")
    job = replace(job, material=replace(job.material, speakers=()))  # one source, so that its tries can be counted
    outcome = studio.dub(job)
    assert [(letter.kind, letter.attempts) for letter in outcome.failed] == ([("storage", 3)] if down == 3 else [])
    assert ("on holiday" in outcome.failed[0].reason) if outcome.failed else outcome.done


def test_a_source_that_the_settings_do_not_open_costs_one_film(studio: Studio, monkeypatch: pytest.MonkeyPatch):
    """Such as one in a bucket of another region."""
    stat = studio.storage.stat_input

    def region(uri: str) -> Any:
        if Path(uri).stem in "bdfhijkl":
            raise ConfigError(f"{uri}: wrong region or endpoint")
        return stat(uri)

    monkeypatch.setattr(studio.storage, "stat_input", region)
    outcome = studio.dub(*(studio.job(name) for name in "abcdefg"))
    assert (sorted(outcome.done), outcome.stopped) == (["a", "c", "e", "g"], False)
    assert [(letter.job, letter.stage, letter.kind) for letter in outcome.failed] == [(job, "ingest", "config") for job in "bdf"]
    outcome = studio.dub(*(studio.job(name) for name in "hijkl"))
    assert (len(outcome.failed), outcome.stopped) == (3, True)
    assert "ingest failed for 3 orders with the same error" in outcome.why


def test_a_dead_letter_that_the_storage_refuses_is_written_later(studio: Studio, monkeypatch: pytest.MonkeyPatch):
    studio.trouble = lambda called: BadInput("bad") if called == ("publish", "a", None) else None
    put, refused = studio.storage.put, []

    def failing(name: str, source: bytes | Path) -> str:
        if "/dead/" in name and not refused:
            refused.append(name)
            raise Transient("the bucket is on holiday")
        return put(name, source)

    monkeypatch.setattr(studio.storage, "put", failing)
    outcome = studio.dub(*(studio.job(name) for name in "abc"))
    assert sorted(outcome.done) == ["b", "c"]
    assert read_dead(studio.storage, outcome.run) == list(outcome.failed)
    assert [letter.job for letter in outcome.failed] == ["a"]


def test_a_cluster_that_cannot_be_had_is_the_runs_failure(studio: Studio):
    def unreachable() -> None:
        raise ConfigError("no Ray cluster could be had")

    with pytest.raises(ConfigError, match="no Ray cluster"):
        asyncio.run(run_jobs(studio.config, Catalogue((studio.job("a"),), ()), studio.storage, unreachable, overrides=[], parent=None))
    assert studio.calls == []


def test_the_log_says_what_was_asked_and_every_window(studio: Studio):
    outcome = studio.dub(studio.job("a"))
    asked = read_run(studio.storage, outcome.run)
    assert (asked["jobs"], asked["overrides"], asked["parent"]) == (["a"], ["catalogue=rows.jsonl"], None)
    windows = [event for event in read_events(studio.storage, outcome.run) if event["what"] == "window"]
    assert sorted((event["segment"], event["window"], event["detail"]) for event in windows) == [(0, 0, "1/1"), (1, 0, "1/2"), (1, 1, "2/2")]


def test_the_repro_command_finds_the_storage_and_asks_for_what_a_single_process_can_do(studio: Studio):
    config = studio.config
    words = ["catalogue=a.jsonl", "storage=s3", "storage.options.s3.addressing_style=path", "storage.root=s3://bucket/a", "rows.seed=3"]
    assert again("20261121-070512-3fa2", "a", config, words).startswith(
        "dub rerun --run 20261121-070512-3fa2 --ids a pools=inline storage=s3 storage.options.s3.addressing_style=path storage.root="
    )
    assert again("20261121-070512-3fa2", "-x", config, words).startswith("dub rerun --run 20261121-070512-3fa2 --ids=-x pools=inline")  # no flag
    beside = ["hydra.searchpath=[file:///mine]", "preset=b", "+storage.options.gs.project=films"] * 2
    said = again("20261121-070512-3fa2", "a", config, beside)
    assert " 'hydra.searchpath=[file:///mine]' +storage.options.gs.project=films storage.root=" in said
    gang = config.generate.model_copy(update={"parallel": config.generate.parallel.model_copy(update={"degree": 2})})
    assert "pools=" not in again("20261121-070512-3fa2", "a", config.model_copy(update={"generate": gang}), words)


def test_a_large_catalogue_does_not_lie_in_memory_as_tasks(studio: Studio):
    tasks: list[int] = []
    studio.trouble = lambda called: tasks.append(len(asyncio.all_tasks()))  # which is no trouble
    outcome = studio.dub(*(replace(studio.job("a"), id=f"job-{number}") for number in range(12)))
    assert len(outcome.done) == 12
    assert len(tasks) == 9 + 11 * 4  # noise, and so frames and film, depend on the job's id
    assert max(tasks) < 12


# -- who goes first ---------------------------------------------------------------------------------------------------


class Clerk:
    """A pool that notes its orders and answers from a list."""

    def __init__(self, orders: list[Order], answer: Callable[[Order], Any]) -> None:
        self.orders, self.answer = orders, answer

    async def run(self, order: Order, on_part: Callable[[Any], None]) -> Any:
        self.orders.append(order)
        on_part(Took(2.0))
        return self.answer(order)

    async def close(self) -> None:
        pass


def test_jobs_begun_earlier_go_first_and_in_a_job_the_longest_segment(studio: Studio, storage: Storage):
    orders: list[Order] = []
    told: list[Event] = []
    provenances: list[dict[str, float]] = []
    nothing = Provenance("", {}, "", {}, {})

    def provenance(seconds: dict[str, float]) -> Provenance:
        provenances.append(seconds)
        return replace(nothing, seconds=seconds)

    artifact = Artifact(str(studio.weights), "", len("first training"), "picture/png")
    answers: dict[str, Callable[[Order], Any]] = {
        "ingest": lambda order: Source(artifact, False, 64, 64, 25.0, 1, ()),
        "segment": lambda order: SEGMENTS,
        "listen": lambda order: Speech(artifact, 70, (None,)),
        "condition": lambda order: Conditions(artifact, 64, 64),
        "generate": lambda order: Clip(order.records[0].index, order.records[0].span, ()),
        "assemble": lambda order: Film(artifact, 70, 25.0, 0.0),
        "publish": lambda order: Receipt("films/b.mp4", "", 0, "films/b.json"),
    }
    pools = {name: Clerk(orders, answers[name]) for name in RESULTS}
    works = Works(studio.verbs(), lambda: pools, Ledger(storage), storage, {}, told.append, provenance)
    asyncio.run(dub_job(studio.job("b"), Crew(works, studio.job("b"), place=5)))
    priorities = {(order.stage, order.label.segment): order.priority for order in orders}
    assert priorities["ingest", None] == (5, 0)
    assert priorities["generate", 1] == (5, -50) < priorities["generate", 0] == (5, -20) < (6, -1000)
    assert provenances[0]["generate"] == 4.0  # both segments' work, none of their waiting
    assert Counter(event.what for event in told) == Counter(started=9, finished=9)


def test_the_error_of_a_stage_names_the_stage(studio: Studio, storage: Storage):
    class Broken:
        async def run(self, order: Order, on_part: Callable[[Any], None]) -> Any:
            raise BadInput("no")

        async def close(self) -> None:
            pass

    works = Works(studio.verbs(), lambda: dict.fromkeys(RESULTS, Broken()), Ledger(storage), storage, {}, lambda event: None, lambda seconds: None)
    with pytest.raises(StageFailed, match="no") as failed:
        asyncio.run(dub_job(studio.job("a"), Crew(works, studio.job("a"), place=0)))
    assert (failed.value.stage, failed.value.segment) == ("ingest", None)
    assert isinstance(failed.value.__cause__, BadInput)
