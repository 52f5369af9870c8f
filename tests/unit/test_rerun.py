"""What is made again: which films of which run, with which settings, from which window on; and what a person is told of those that failed."""

import json
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infinitedub.launch import cli
from infinitedub.launch.replay import choose_segment, parse_target
from infinitedub.pipeline.state.forced_rerun import ForcedRerun
from infinitedub.pipeline.state.run_log import DeadLetter, Event, RunLog
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.records import Segment, Span

Said = Callable[..., tuple[int, str, str]]

OF_TODAY = ForcedRerun(frozenset("ab"), frozenset({0}), 3, "blinks", "of today")


@dataclass(frozen=True)
class Asked:
    """What `dub rerun` would have begun."""

    ids: frozenset[str]
    parent: str
    overrides: list[str]
    forced_rerun: ForcedRerun | None


@pytest.fixture
def dub(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, storage: Storage) -> Said:
    """A command as a user types it, with its storage; its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dub", *words, f"storage.root={storage.root}"])
        code = cli.main()
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """The runs that were begun, none of which is worked at."""
    found: list[Asked] = []

    def dispatch(config: Any, overrides: list[str], session: Any, *, ids: frozenset[str], parent: str, forced_rerun: ForcedRerun | None) -> int:
        found.append(Asked(ids, parent, overrides, forced_rerun))
        return 0

    monkeypatch.setattr("infinitedub.launch.rerun.dispatch", dispatch)
    return found


def logged(
    storage: Storage,
    jobs: Sequence[str],
    *,
    done: Collection[str] = (),
    failed: Collection[str] = (),
    bad: Sequence[str] = (),
    parent: str | None = None,
    overrides: Sequence[str] = (),
    forced_rerun: dict[str, Any] | None = None,
) -> str:
    """A run of the past."""
    asked = {
        "catalogue": "/rows.jsonl",
        "jobs": list(jobs),
        "bad": list(bad),
        "overrides": list(overrides),
        "parent": parent,
        "forced_rerun": forced_rerun,
    }
    with RunLog.begin(storage, asked) as log:
        for job in done:
            log.event(Event(1.0, job, None, None, "", "job_done", None, f"films/{job}.mp4"))
        for job in failed:
            log.event(Event(1.0, job, 2, None, "generate", "job_failed", None, "no memory"))
            trace = "\n".join(f"line {number}" for number in range(20))
            log.dead_letter(DeadLetter(job, "generate", 2, "gpu_oom", "no memory [/]", 2, trace, f"dub rerun --run {log.run} --ids {job}"))
    return log.run


# -- which films ------------------------------------------------------------------------------------------------------


def test_after_a_rerun_of_some_films_the_others_are_still_missing(dub: Said, begun: list[Asked], storage: Storage):
    first = logged(storage, "abc", done="a", bad=["d"], overrides=["generate.sampler.steps=2"])
    second = logged(storage, "b", done="b", parent=first, overrides=["generate.sampler.steps=2", "pools=inline"])
    assert dub("rerun")[0] == 0
    assert (begun[0].ids, begun[0].parent) == ({"c", "d"}, second)
    assert begun[0].overrides[0] == "generate.sampler.steps=2"  # of the run for all films, not of the try with one
    assert "pools=inline" not in begun[0].overrides


def test_a_rerun_of_all_that_is_missing_hands_on_its_settings(dub: Said, begun: list[Asked], storage: Storage):
    first = logged(storage, "abc", done="a", overrides=["generate.sampler.steps=2"])
    logged(storage, "bc", done="b", parent=first, overrides=["generate.sampler.steps=3"])
    dub("rerun")
    assert (begun[0].ids, begun[0].overrides[0]) == ({"c"}, "generate.sampler.steps=3")


def test_a_word_that_may_be_said_once_only_is_said_once(dub: Said, begun: list[Asked], storage: Storage):
    """As the command of a dead letter says it again."""
    logged(storage, "a", overrides=["+storage.options.gs.project=films", "rows.seed=1", "rows.seed=2"])
    assert dub("rerun", "+storage.options.gs.project=films", "rows.seed=1")[0] == 0
    assert begun[0].overrides[:1] == ["rows.seed=2"]
    assert begun[0].overrides[2:4] == ["+storage.options.gs.project=films", "rows.seed=1"]


def test_a_film_that_was_there_and_failed_to_be_made_anew_is_missing(dub: Said, begun: list[Asked], storage: Storage):
    first = logged(storage, "ab", done="ab")
    logged(storage, "a", failed="a", parent=first)
    dub("rerun")
    assert begun[0].ids == {"a"}


def test_when_all_films_are_there_nothing_is_begun(dub: Said, begun: list[Asked], storage: Storage):
    first = logged(storage, "abc", done="ab")
    logged(storage, "c", done="c", parent=first)
    code, said, _ = dub("rerun")
    assert (code, "all 3 films exist, nothing to rerun" in said, begun) == (0, True, [])
    dub("rerun", "--only", "all")
    assert begun[0].ids == {"a", "b", "c"}


def test_a_run_that_is_named_stands_alone(dub: Said, begun: list[Asked], storage: Storage):
    first = logged(storage, "abc", done="a", overrides=["generate.sampler.steps=2"])
    second = logged(storage, "b", parent=first, overrides=["generate.sampler.steps=3"])
    dub("rerun", "--run", second)
    assert (begun[0].ids, begun[0].overrides[0]) == ({"b"}, "generate.sampler.steps=3")
    dub("rerun", "--run", first, "--ids", "a,c")
    assert (begun[1].ids, begun[1].parent) == ({"a", "c"}, first)


def test_a_story_begins_where_its_oldest_log_is_left(dub: Said, begun: list[Asked], storage: Storage):
    first = logged(storage, "abc")
    logged(storage, "b", parent=first)
    storage.delete(f"runs/{first}/run.json")
    dub("rerun")
    assert begun[0].ids == {"b"}


# -- which windows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["--segments", "0,2", "--windows", "3:", "--reason", "blinks"], ForcedRerun(frozenset("ab"), frozenset({0, 2}), 3, "blinks")),
        (["--segments", "1", "--reason", " a torn frame "], ForcedRerun(frozenset("ab"), frozenset({1}), 0, "a torn frame")),
        (["--segments", "all", "--windows", "0:", "--reason", "blinks"], ForcedRerun(frozenset("ab"), None, 0, "blinks")),
        ([], None),
    ],
)
def test_what_is_there_can_be_made_anew(dub: Said, begun: list[Asked], storage: Storage, words: list[str], asked: ForcedRerun | None):
    logged(storage, "ab", done="ab")
    assert dub("rerun", "--ids", "a,b", *words)[0] == 0
    assert (begun[0].ids, begun[0].forced_rerun) == ({"a", "b"}, asked)


@pytest.mark.parametrize(
    ("ids", "reason", "done", "goes_on"),
    [
        ("a,b", "blinks", "", True),
        ("b,a", "blinks", "a", True),
        ("a,b", "blinks", "ab", False),
        ("a", "blinks", "", False),
        ("a,b", "blinks once more", "", False),
    ],
)
def test_an_unfinished_forced_rerun_continues(dub: Said, begun: list[Asked], storage: Storage, ids: str, reason: str, done: str, goes_on: bool):
    """What it has made anew by then is not made once more."""
    first = logged(storage, "abc", done="abc")
    logged(storage, "ab", done=done, parent=first, forced_rerun=OF_TODAY.to_json())
    assert dub("rerun", "--run", first, "--ids", ids, "--segments", "0", "--windows", "3:", "--reason", reason)[0] == 0
    assert begun[0].forced_rerun is not None
    assert begun[0].forced_rerun.id
    assert (begun[0].forced_rerun.id == "of today") is goes_on


def test_a_rerun_of_missing_films_continues_the_interrupted_forced_rerun(dub: Said, begun: list[Asked], storage: Storage):
    first = logged(storage, "abcd", done="abc")
    second = logged(storage, "ab", done="a", parent=first, forced_rerun=OF_TODAY.to_json())
    logged(storage, "c", done="c", parent=second)
    code, said, _ = dub("rerun")
    assert (code, begun[0].ids, begun[0].forced_rerun) == (0, {"b", "d"}, OF_TODAY)
    assert begun[0].forced_rerun.id == "of today"
    assert "continuing the forced rerun: segments 0 made again from window 3 on: blinks" in said
    dub("rerun", "--run", second)
    assert (begun[1].ids, begun[1].forced_rerun) == ({"b"}, OF_TODAY)
    dub("rerun", "--ids", "b")
    assert begun[2].forced_rerun is None  # just the film, of what is there
    dub("rerun", "--run", first)
    assert begun[3].forced_rerun is None
    dub("rerun", "--run", second, "--ids", "b")  # as its dead letter says: what failed is tried, not the film that was there before
    assert (begun[4].ids, begun[4].forced_rerun) == ({"b"}, OF_TODAY)
    dub("rerun", "--run", second, "--ids", "a")
    assert begun[5].forced_rerun is None  # made anew, and there


def test_a_forced_rerun_whose_films_exist_is_over(dub: Said, begun: list[Asked], storage: Storage):
    first = logged(storage, "abc", done="ab")
    second = logged(storage, "ab", parent=first, forced_rerun=OF_TODAY.to_json())
    logged(storage, "abc", done="ab", parent=second)
    dub("rerun")
    assert (begun[0].ids, begun[0].forced_rerun) == ({"c"}, None)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--segments", "0", "--reason", "x"], "name it, such as --ids a,b"),
        (["--ids", "a", "--windows", "3:", "--reason", "x"], "such as --segments 0"),
        (["--ids", "a", "--reason", "x"], "such as --segments 0"),
        (["--ids", "a", "--segments", "0"], "--reason"),
        (["--ids", "a", "--segments", "0", "--reason", " "], "--reason"),
        (["--ids", "a", "--segments", "0;1", "--reason", "x"], "with commas between"),
        (["--ids", "a", "--segments", "-1", "--reason", "x"], "with commas between"),
        (["--ids", "a", "--segments", "0", "--windows", "3", "--reason", "x"], "wanted K: such as 3:"),
        (["--ids", "a", "--segments", "0", "--windows", "3:5", "--reason", "x"], "begin with frames of the one before"),
    ],
)
def test_a_surgery_that_is_not_clear_is_refused(dub: Said, begun: list[Asked], storage: Storage, words: list[str], told: str):
    logged(storage, "a", done="a")
    code, _, said = dub("rerun", *words)
    assert (code, told in said, begun) == (4, True, [])


def test_help_says_what_a_remake_gives(dub: Said):
    code, said, _ = dub("rerun", "--help")
    assert code == 0
    assert "same noise" in said
    assert '--segments 0,2 --windows 3: --reason "blinks"' in said


def test_status_tells_what_a_run_made_anew(dub: Said, storage: Storage):
    first = logged(storage, "a", done="a")
    logged(storage, "a", done="a", parent=first, forced_rerun=ForcedRerun(frozenset("a"), frozenset({2, 0}), 3, "blinks [/]").to_json())
    said = dub("status")[1]
    assert f"a rerun of {first}" in said
    assert "segments 0, 2 made again from window 3 on: blinks [/]" in said


def test_status_shows_as_many_jobs_as_were_asked_for_and_never_fewer_than_none(dub: Said, storage: Storage):
    logged(storage, "ab", failed="ab")
    for rows, told in (("1", "1 of 2 jobs"), ("0", "0 of 2 jobs"), ("-1", "0 of 2 jobs")):
        code, said, _ = dub("status", f"--rows={rows}")
        assert (code, told in said) == (0, True)


# -- what failed ------------------------------------------------------------------------------------------------------


def test_failures_tells_each_film_that_is_still_missing(dub: Said, storage: Storage):
    first = logged(storage, "abc", done="a", failed="bc")
    second = logged(storage, "b", failed="b", parent=first)
    code, said, _ = dub("failures", "--lines", "2")
    assert code == 0
    assert said.splitlines() == [
        f"run {second}: 2 failed",
        "c: generate of segment 2 failed (gpu_oom, 2 attempts): no memory [/]",
        "  | line 18",
        "  | line 19",
        f"  again: dub rerun --run {first} --ids c",
        "b: generate of segment 2 failed (gpu_oom, 2 attempts): no memory [/]",
        "  | line 18",
        "  | line 19",
        f"  again: dub rerun --run {second} --ids b",
    ]


def test_failures_for_programs(dub: Said, storage: Storage):
    first = logged(storage, "abc", done="a", failed="b")
    (letter,) = json.loads(dub("failures", "--json")[1])
    assert (letter["run"], letter["job"], letter["kind"], letter["attempts"], letter["segment"]) == (first, "b", "gpu_oom", 2, 2)
    assert letter["trace"].endswith("line 19")


def test_failures_on_a_terminal_begins_with_a_table(dub: Said, storage: Storage, monkeypatch: pytest.MonkeyPatch):
    run = logged(storage, "abc", done="a", failed="b")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    said = dub("failures")[1]
    assert "1 failed, 1 more were not reached" in said
    assert ["b", "generate", "2", "gpu_oom", "2", run] in [line.split() for line in said.splitlines()]


def test_failures_tells_of_rows_that_have_no_id(dub: Said, storage: Storage):
    with RunLog.begin(storage, {"catalogue": "/rows.jsonl", "jobs": [], "bad": ["b"], "overrides": [], "parent": None, "forced_rerun": None}) as log:
        log.dead_letters(DeadLetter(name, "catalogue", None, "input", "no JSON", 1, "", "dub run") for name in ("b", "line 7"))
    said = dub("failures")[1]
    assert "2 failed\n" in said
    assert "line 7: catalogue failed (input, 1 attempt): no JSON" in said
    logged(storage, "b", done="b", parent=log.run)  # a rerun of the other, mended
    said = dub("failures")[1]
    assert "1 failed\n" in said
    assert "line 7: catalogue failed" in said


def test_failures_of_a_whole_run_are_none(dub: Said, storage: Storage):
    logged(storage, "ab", done="ab")
    code, said, _ = dub("failures")
    assert (code, "all 2 films exist" in said) == (0, True)


# -- replay -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a/b/c"], "wanted JOB or JOB/SEGMENT"),
        (["a/-1"], "wanted JOB or JOB/SEGMENT"),
        (["a/0", "--windows", "3"], "wanted K: such as 3:"),
        (["nobody/0"], "the catalogue has no row nobody"),
        (["empty"], "line 2"),
        (["a/0", "--to", "full"], "not empty"),
        (["a/0", "--to", "rows.jsonl"], "is no folder"),
        (["a/0", "--run", "20200101-000000-0000"], "there is no run 20200101-000000-0000"),
    ],
)
def test_a_replay_of_what_is_not_there_is_refused(dub: Said, storage: Storage, tmp_path: Path, words: list[str], told: str):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "a", "source": "a.png", "speech": "a.wav"}\n{"id": "empty"}\n')
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "film.mkv").write_text("of another replay")
    with RunLog.begin(storage, {"catalogue": str(rows), "jobs": ["a"], "bad": ["empty"], "overrides": [], "parent": None}):
        pass
    code, _, said = dub("replay", *words)
    assert (code, told in said) == (4, True)


def test_the_segment_of_a_replay_may_be_left_out_where_there_is_one():
    segments = tuple(Segment(index, Span(index, index + 1), ()) for index in range(3))
    assert (parse_target("a.b-1"), parse_target("a/12")) == (("a.b-1", None), ("a", 12))
    assert choose_segment(segments, "a", 2).index == 2
    assert choose_segment(segments[:1], "a", None).index == 0
    with pytest.raises(ConfigError, match="a has segments 0 to 2; say which, such as a/0"):
        choose_segment(segments, "a", None)
    with pytest.raises(ConfigError, match="a has no segment 3; it has 0 to 2"):
        choose_segment(segments, "a", 3)


@pytest.mark.parametrize("command", ["status", "failures"])
def test_odd_names_are_shown_letter_by_letter(dub: Said, storage: Storage, monkeypatch: pytest.MonkeyPatch, command: str):
    logged(storage, ["a[/b]:cat:"], failed=["a[/b]:cat:"])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "160")
    assert dub(command)[1].count("a[/b]:cat:") >= 3  # in the table, in what is told of it, and in the command
