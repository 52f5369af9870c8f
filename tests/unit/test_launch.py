"""The command line before anything runs: what is refused, and with which words; where a sweep's points go; what a person is told of a run."""

import shlex
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image

from infinitedub.launch import cli
from infinitedub.launch.compose import checked, compose
from infinitedub.launch.contact_sheet import contact_sheet, read_row
from infinitedub.launch.run import point_name, swept_keys
from infinitedub.pipeline.config import quoted
from infinitedub.pipeline.state.run_log import DeadLetter, Event, RunLog, latest_run, read_run
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.errors import ConfigError

DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo"


@pytest.fixture
def dub(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Runs a command as a user does; its exit code, and what it said on standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # put back when the test ends: `dub run` sets it

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dub", *words])
        code = cli.main()
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


# -- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("generate.sampler.stepz=3", r"generate\.sampler\.stepz: there is no 'stepz' in generate\.sampler \(did you mean steps\?\)"),
        ("genrate.sampler.steps=3", r"there is no 'genrate' in the top level \(did you mean generate\?\)"),
        ("generate.sampler.steps.more=3", r"there is no 'more' in generate\.sampler\.steps; known there: nothing, it is a value"),
        ("generate/sampler=eulr", "eulr"),
        ("preset=fusion", r"Available options in 'preset': fusionx"),  # a group that has no value of its own
        ("generate.sampler.steps=[3", r"'generate\.sampler\.steps=\[3' is no override"),
    ],
)
def test_an_override_that_names_nothing_is_told_in_one_line(word: str, told: str):
    with pytest.raises(ConfigError, match=told) as refused:
        compose(["catalogue=a.jsonl", word])
    assert "\n" not in str(refused.value)


def test_every_bad_value_is_told_at_once_by_its_dotted_path():
    with pytest.raises(ConfigError) as refused:
        checked(compose(["catalogue=a.jsonl", "generate.sampler.steps=0", "assemble.crf=99", "rows.seed=-1"]))
    assert all(path in str(refused.value) for path in ("generate.sampler.steps: ", "assemble.crf: ", "rows.seed: ", "got 99"))


def test_what_has_no_value_yet_is_asked_for():
    with pytest.raises(ConfigError, match=r"^catalogue: needs a value \(catalogue=\.\.\.\)$"):
        checked(compose([]))


@pytest.mark.parametrize("words", [("status", "--bogus"), ("rerun", "--only", "some"), ("run", "--bogus"), ("verify",), ("dance",)])
def test_words_that_are_not_understood_leave_with_4(dub, words: tuple[str, ...]):
    code, _, said = dub(*words)
    assert code == 4
    assert said


@pytest.mark.parametrize("verb", [verb for verb in cli.VERBS if verb != "run"])
def test_every_verb_tells_how_it_is_used(dub, verb: str):
    code, said, _ = dub(verb, "--help")
    assert (code, f"usage: dub {verb} " in said) == (0, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("generate/sampler=5",), "must be a string"),  # Hydra itself fails with a ValueError
        (("generate.sampler.steps=many",), "generate.sampler.steps"),
        (("storage=s3",), "storage.root"),  # a bucket has no default, and certainly not the local folder
        (("generate.device=cuda",), "condition.device is cuda, but the pools give condition no GPU; take pools=cluster"),
        (("pools=cluster",), "condition.device is cpu, but the pools give condition GPUs; take pools=local"),
    ],
)
def test_a_run_that_cannot_be_is_refused_in_one_line(dub, words: tuple[str, ...], told: str):
    code, _, said = dub("run", "catalogue=a.jsonl", *words)
    assert code == 4
    assert said.startswith("dub run: ")
    assert told in said
    assert len(said.splitlines()) == 1


PATHS = ["/a/b-1.mp4", "s3://bucket/x", "/a b", "/\u00e4\u540d/%20", "/it's", "/a\\", "/a\\'b", "/x,y(z)=~[1]", "/${a}", "/\\${a}'"]


@pytest.mark.parametrize("path", PATHS)
def test_a_quoted_value_is_read_back_as_it_was(path: str):
    assert compose([f"catalogue={quoted(path)}"]).catalogue == path


def test_a_rerun_from_another_folder_finds_the_catalogue(dub, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "rows (new).jsonl").write_text('{"id": "a", "source": "gone.png", "speech": "gone.png"}\n')
    code, _, said = dub("run", "catalogue='rows (new).jsonl'", f"storage.root={storage.root}", "pools=inline")
    assert (code, "gone.png does not exist" in said) == (2, True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, said = dub("rerun", f"storage.root={storage.root}")
    assert (code, "gone.png does not exist" in said) == (2, True)


def test_a_rerun_finds_the_users_own_configuration(dub, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "rows.jsonl").write_text('{"id": "a", "source": "gone.png", "speech": "gone.png"}\n')
    (tmp_path / "it's mine" / "preset").mkdir(parents=True)
    (tmp_path / "it's mine" / "preset" / "quick.yaml").write_text("# @package _global_\ngenerate:\n  sampler:\n    steps: 77\n")
    mine = ["preset=quick", "catalogue=rows.jsonl", f"storage.root={storage.root}", "pools=inline"]
    code, _, said = dub("run", "--config-dir", "it's mine", *mine)
    assert (code, "gone.png does not exist" in said) == (2, True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    printed = next(line for line in said.splitlines() if "again: dub " in line).partition("again: dub ")[2]
    for words in (["rerun", f"storage.root={storage.root}"], shlex.split(printed)):
        code, _, said = dub(*words)
        assert (code, "gone.png does not exist" in said) == (2, True)
        assert read_run(storage, latest_run(storage) or "")["config"]["generate"]["sampler"]["steps"] == 77


def test_a_main_configuration_that_a_rerun_would_not_know_of_is_refused(dub, tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("defaults:\n  - run\n")
    code, _, said = dub("run", "--config-dir", ".", "--config-name", "mine", "catalogue=a.jsonl")
    assert (code, "preset=NAME" in said, len(said.splitlines())) == (4, True, 1)


# -- sweeps -----------------------------------------------------------------------------------------------------------


def test_a_point_is_named_by_what_is_swept_alone():
    words = ["catalogue=a.jsonl", "generate.sampler.steps=2,3", "generate/guidance=cfg,apg", "seed=[1,2]"]
    keys = swept_keys(words, {"rows.prompt": "a,b"})
    assert keys == {"generate.sampler.steps", "generate/guidance", "rows.prompt"}
    point = ["catalogue=a.jsonl", "generate/guidance=apg", "generate.sampler.steps=3", "rows.prompt=hello", "seed=[1,2]"]
    assert point_name(keys, point) == "generate.sampler.steps=3,generate_guidance=apg,rows.prompt=hello"


def test_no_two_points_share_a_folder():
    """However alike their values are, or however long."""
    values = ["'is it?'", "'is it!'", "'Grüße / you'", "_is_it__", "a" * 300, "a" * 301]
    names = [point_name({"rows.prompt"}, [f"rows.prompt={value}"]) for value in values]
    assert len(set(names)) == len(values)
    assert names[0].startswith("rows.prompt=_is_it__-")
    assert max(map(len, names)) < 200


def test_a_point_of_a_sweep_is_logged_with_the_folder_it_delivers_to(dub, monkeypatch: pytest.MonkeyPatch):
    """So that a rerun of it delivers there as well."""
    seen = []

    def dispatched(config, overrides, session: ExitStack) -> int:
        again = checked(compose(overrides))
        seen.append((config.generate.sampler.steps, config.publish.folder, again.publish.folder))
        return 3 if config.generate.sampler.steps == 3 else 0

    monkeypatch.setattr("infinitedub.launch.run.dispatch", dispatched)
    code, _, _ = dub("run", "-m", "catalogue=a.jsonl", "generate.sampler.steps=2,3,4", "hydra.sweep.dir=sweeps")
    assert code == 3
    assert seen == [(steps, *[f"films/generate.sampler.steps={steps}"] * 2) for steps in (2, 3)]  # stopped at 3, so 4 is not begun


# -- status -----------------------------------------------------------------------------------------------------------


def test_status_tells_where_each_job_stands(dub, storage: Storage):
    letter = DeadLetter("c", "ingest", None, "input", "c.mp4: is empty [/]", 1, "Traceback ...", "dub rerun --ids c")
    with RunLog.begin(storage, {"catalogue": "rows.jsonl", "jobs": ["a", "b", "c", "d"], "overrides": [], "bad": []}) as log:
        for event in (
            Event(1.0, "a", None, None, "ingest", "reused", None, ""),
            Event(2.0, "a", 0, 0, "generate", "window", 3.0, "1/2"),
            Event(3.0, "a", 0, None, "generate", "finished", 6.5, ""),
            Event(4.0, "a", None, None, "", "job_done", None, "films/a.mp4"),
            Event(5.0, "b", 1, 0, "generate", "window", 3.0, "1/2"),
            Event(6.0, "c", None, None, "ingest", "job_failed", None, "c.mp4: is empty"),
        ):
            log.event(event)
        log.dead_letter(letter)
    code, said, _ = dub("status", f"storage.root={storage.root}")
    assert code == 0
    rows = {words[0]: words[1:] for line in said.splitlines() if (words := line.split()) and words[0] in "abcd"}
    assert rows == {
        "a": ["done", "1", "1", "1", "1", "6.5"],  # segments, windows, made, reused, seconds
        "b": ["running", "generate", "1", "1", "0", "0", "0.0"],
        "c": ["failed", "ingest", "0", "0", "0", "0", "0.0"],
        "d": ["waiting", "0", "0", "0", "0", "0.0"],
    }
    assert "1 done, 1 failed, 1 running, 1 waiting" in said
    assert "no summary yet" in said
    assert "c: ingest failed (input, 1 attempt): c.mp4: is empty [/]" in said
    assert "again: dub rerun --ids c" in said


def test_status_of_a_large_run_shows_what_is_worth_a_look(dub, storage: Storage):
    jobs = [f"job-{number}" for number in range(7)]
    with RunLog.begin(storage, {"catalogue": "rows.jsonl", "jobs": jobs, "overrides": [], "bad": []}) as log:
        for job, what in zip(jobs, ("job_done", "job_done", "started", "job_failed", "job_failed"), strict=False):
            log.event(Event(1.0, job, None, None, "publish" if what == "started" else "", what, None, ""))
            if what == "job_failed":
                log.dead_letter(DeadLetter(job, "ingest", None, "input", "no", 1, "", f"dub rerun --ids {job}"))
        log.finish({"stopped": True, "why": "SIGTERM", "seconds": 3.2})
    code, said, _ = dub("status", "--rows", "4", f"storage.root={storage.root}")
    assert code == 0
    assert [line.split()[0] for line in said.splitlines() if line.split()[:1] and line.split()[0] in jobs] == ["job-3", "job-4", "job-2", "job-5"]
    assert "2 done, 2 failed, 1 running, 2 waiting" in said
    assert "4 of 7 jobs" in said
    assert "stopped (SIGTERM) after 3 s" in said
    code, said, _ = dub("status", "--rows", "1", f"storage.root={storage.root}")
    assert "and 1 dead letters more" in said


def test_status_and_rerun_want_a_run(dub, storage: Storage):
    for verb in ("status", "rerun"):
        code, _, said = dub(verb, f"storage.root={storage.root}")
        assert (code, "no run under" in said) == (4, True)
    code, _, said = dub("status", "--run", "20200101-000000-0000", f"storage.root={storage.root}")
    assert (code, "there is no run 20200101-000000-0000" in said) == (4, True)


def test_a_rerun_of_a_whole_run_has_nothing_to_do(dub, storage: Storage):
    with RunLog.begin(storage, {"catalogue": "rows.jsonl", "jobs": ["a"], "overrides": [], "bad": []}) as log:
        log.event(Event(1.0, "a", None, None, "", "job_done", None, "films/a.mp4"))
    assert read_run(storage, log.run)["jobs"] == ["a"]
    code, said, _ = dub("rerun", f"storage.root={storage.root}")
    assert (code, "nothing to rerun" in said) == (0, True)


# -- contact sheet ----------------------------------------------------------------------------------------------------


def test_a_contact_sheet_has_a_row_for_each_film(tmp_path: Path):
    film = DEMO / "footage.mp4"
    row = read_row(film, 4)
    assert (row.name, len(row.tiles), row.fps) == ("footage", 4, 30.0)
    assert list(row.times) == sorted(set(row.times))
    assert 0 < row.times[0] < row.times[-1] < row.seconds
    for films in (1, 2):
        contact_sheet([film] * films, tmp_path / "sheets" / f"{films}.png", columns=4)
    one, two = (Image.open(tmp_path / "sheets" / f"{films}.png").size for films in (1, 2))
    assert one[0] == two[0]
    assert one[1] < two[1]
    with pytest.raises(ValueError, match="at least"):
        contact_sheet([], tmp_path / "none.png")
