"""Sweeping: what nobody needs goes when it is old enough, what anybody may need stays, whoever else is at work."""

import fcntl
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from infinitedub.launch.cli import main
from infinitedub.pipeline.state.garbage_collection import Garbage, GarbageKind, collect_garbage
from infinitedub.pipeline.state.ledger import Ledger
from infinitedub.pipeline.state.stage_files import StageFiles
from infinitedub.pipeline.storage.scratch import scratch_folder
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.pipeline.storage.weights import on_this_node
from infinitedub.stages.records import Artifact, Chunk, Clip, Span, WindowCheckpoint
from infinitedub.stages.settings import Settings, Weights

KEY, OTHER = "0f" + "e" * 62, "a1" + "b" * 62
HOUR = 3600


def keep(storage: Storage, *names: str, key: str = KEY) -> tuple[str, list[Artifact]]:
    """Files of an attempt, each as long as its name."""
    with StageFiles(storage, stage="generate", key=key) as files:
        kept = []
        for name in names:
            path = files.scratch() / name
            path.write_text(name)
            kept.append(files.store(path, "test/x"))
        return files.attempt, kept


def clip(*pictures: Artifact) -> Clip:
    return Clip(0, Span(0, 4 * len(pictures)), tuple(Chunk(number, picture, 4) for number, picture in enumerate(pictures)))


def committed(storage: Storage, *names: str, key: str = KEY) -> tuple[str, Clip]:
    attempt, kept = keep(storage, *names, key=key)
    return attempt, Ledger(storage).commit("generate", key, attempt, clip(*kept))


def age(folder: Path | str, hours: float) -> None:
    """Makes everything there older."""
    when = time.time() - hours * HOUR
    for path in [*Path(folder).rglob("*"), Path(folder)]:
        os.utime(path, (when, when))


def files(storage: Storage) -> set[str]:
    return {path.name for path in Path(storage.root).rglob("*") if path.is_file() and not path.name.startswith("_")}


def swept(storage: Storage, grace: float = 24 * HOUR, *, checkpoints: bool = False, dry_run: bool = False) -> list[Garbage]:
    return list(collect_garbage(storage, grace, checkpoints=checkpoints, dry_run=dry_run))


# -- results ----------------------------------------------------------------------------------------------------------


def test_files_that_no_commit_names_go_and_results_films_and_logs_stay(storage: Storage):
    _, record = committed(storage, "winner", key=KEY)
    loser, _ = keep(storage, "loser", "too")
    killed, _ = keep(storage, "killed", key=OTHER)
    storage.put("films/a.mp4", b"film")
    storage.put("runs/r/run.json", b"{}")
    age(storage.root, 25)
    assert set(swept(storage)) == {
        Garbage(GarbageKind.UNNAMED, f"cas/generate/0f/{KEY}/{loser}", 2, 8),
        Garbage(GarbageKind.UNNAMED, f"cas/generate/a1/{OTHER}/{killed}", 1, 6),
    }
    assert files(storage) == {"winner", "a.mp4", "run.json"}
    assert Ledger(storage).find("generate", KEY, Clip) == record
    assert not (Path(storage.root) / "cas" / "generate" / "a1").exists()  # no empty folders either
    assert swept(storage) == []


def test_what_is_younger_than_the_grace_period_stays(storage: Storage):
    keep(storage, "killed")
    age(storage.root, 23)
    assert swept(storage) == []
    assert len(swept(storage, 22 * HOUR)) == 1


def test_a_result_that_anybody_still_works_on_is_left_alone(storage: Storage):
    """A run that has been going for days writes into its folder: what lies there unnamed may be about to be named."""
    keep(storage, "of days ago")
    age(storage.root, 100)
    attempt, _ = keep(storage, "of now")
    assert swept(storage) == []
    age(storage.root, 100)
    os.utime(Path(storage.root) / "cas" / "generate" / "0f" / KEY / attempt / "of now")
    assert swept(storage) == []


def test_what_was_withdrawn_or_superseded_goes(storage: Storage):
    ledger = Ledger(storage)
    committed(storage, "first")
    assert ledger.withdraw("generate", KEY, Clip, "a mouth is shut")
    age(storage.root, 25)
    assert [one.kind for one in swept(storage)] == [GarbageKind.UNNAMED]
    _, second = committed(storage, "second")
    Path(second.chunks[0].picture.uri).write_text("cut")
    _, third = committed(storage, "third")
    age(storage.root, 25)
    assert [one.files for one in swept(storage)] == [1]
    assert files(storage) == {"third"}
    assert ledger.find("generate", KEY, Clip) == third
    anew = keep(storage, "fourth")
    assert ledger.commit("generate", KEY, anew[0], clip(*anew[1])) == third  # the chain is whole


def test_a_chain_of_many_generations_ends_with_the_last(storage: Storage):
    ledger = Ledger(storage)
    for number in range(7):
        committed(storage, f"result {number}")
        assert ledger.withdraw("generate", KEY, Clip, "again")
    _, last = committed(storage, "last")
    age(storage.root, 25)
    assert len(swept(storage)) == 7
    assert ledger.find("generate", KEY, Clip) == last


def test_a_segment_that_was_broken_off_keeps_its_windows(storage: Storage):
    ledger = Ledger(storage)
    attempt, (picture, motion, surplus) = keep(storage, "picture", "motion", "surplus")
    take = WindowCheckpoint(Chunk(0, picture, 4), motion)
    ledger.commit("generate", KEY, attempt, take, part=0)
    age(storage.root, 1000)
    for checkpoints in (False, True):
        assert [one.files for one in swept(storage, checkpoints=checkpoints)] == ([] if checkpoints else [1])
    assert files(storage) == {"picture", "motion"}
    assert not Path(surplus.uri).exists()
    assert ledger.find("generate", KEY, WindowCheckpoint, part=0) == take


def test_checkpoints_of_finished_segments_go_where_that_is_asked_for(storage: Storage):
    ledger = Ledger(storage)
    attempt, (one, two, motion) = keep(storage, "picture 0", "picture 1", "motion 0")
    ledger.commit("generate", KEY, attempt, WindowCheckpoint(Chunk(0, one, 4), motion), part=0)
    ledger.commit("generate", KEY, attempt, WindowCheckpoint(Chunk(1, two, 4), None), part=1)
    record = ledger.commit("generate", KEY, attempt, clip(one, two))
    age(storage.root, 25)
    assert swept(storage) == []
    assert swept(storage, checkpoints=True) == [Garbage(GarbageKind.CHECKPOINT, f"cas/generate/0f/{KEY}/{attempt}", 1, 8)]
    assert files(storage) == {"picture 0", "picture 1"}
    assert ledger.find("generate", KEY, Clip) == record
    assert ledger.find("generate", KEY, WindowCheckpoint, part=0) is None  # made anew from the segment's start
    assert swept(storage, checkpoints=True) == []


def test_checkpoints_of_a_segment_that_is_to_be_redone_stay(storage: Storage):
    """Window 1 is forced: its take and the clip are withdrawn, the take of window 0 is what the rerun starts from."""
    ledger = Ledger(storage)
    attempt, (one, two, motion) = keep(storage, "picture 0", "picture 1", "motion 0")
    take = ledger.commit("generate", KEY, attempt, WindowCheckpoint(Chunk(0, one, 4), motion), part=0)
    ledger.commit("generate", KEY, attempt, WindowCheckpoint(Chunk(1, two, 4), None), part=1)
    ledger.commit("generate", KEY, attempt, clip(one, two))
    assert ledger.withdraw("generate", KEY, Clip, "a seam")
    assert ledger.withdraw("generate", KEY, WindowCheckpoint, "a seam", part=1)
    age(storage.root, 25)
    assert [gone.kind for gone in swept(storage, checkpoints=True)] == [GarbageKind.UNNAMED]
    assert files(storage) == {"picture 0", "motion 0"}
    assert ledger.find("generate", KEY, WindowCheckpoint, part=0) == take


def test_nothing_is_taken_where_a_commit_cannot_be_read(storage: Storage, caplog: pytest.LogCaptureFixture):
    keep(storage, "loser")
    committed(storage, "winner")
    (Path(storage.root) / "cas" / "generate" / "0f" / KEY / "_commit.json").write_text('{"record": {"seg')
    age(storage.root, 25)
    with caplog.at_level(logging.WARNING):
        assert swept(storage) == []
    assert "_commit.json cannot be read" in caplog.text
    assert files(storage) == {"loser", "winner"}


def test_a_root_that_is_mounted_elsewhere_is_the_same_root(storage: Storage, tmp_path: Path):
    keep(storage, "loser")
    committed(storage, "winner")
    age(storage.root, 25)
    Path(storage.root).rename(tmp_path / "mounted elsewhere")
    moved = Storage(storage.settings.model_copy(update={"root": str(tmp_path / "mounted elsewhere")}))
    assert len(swept(moved)) == 1
    assert files(moved) == {"winner"}


def test_two_at_once_take_the_same_away(storage: Storage):
    for number in range(40):
        key = f"{number:02x}" * 32
        keep(storage, "loser", key=key)
        committed(storage, f"winner {number}", key=key)
    age(storage.root, 25)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: swept(storage), range(3)))
    assert files(storage) == {f"winner {number}" for number in range(40)}


def test_who_writes_while_empty_folders_are_taken_away_succeeds(storage: Storage):
    def write(number: int) -> None:
        for turn in range(50):
            storage.put(f"cas/a/b/{number}-{turn}/x", b"x")
            storage.delete(f"cas/a/b/{number}-{turn}/x")
            storage.remove_empty_folders(f"cas/a/b/{number}-{turn}")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    assert not (Path(storage.root) / "cas").exists()
    assert Path(storage.root).is_dir()


# -- what dead processes leave ----------------------------------------------------------------------------------------


def killed(code: str, storage: Storage) -> None:
    """Runs the code in a process that is to die of SIGKILL; `storage` is at hand there."""
    begin = f"import os, signal, pickle\nstorage = pickle.loads({pickle.dumps(storage)!r})\n"
    done = subprocess.run([sys.executable, "-c", begin + code], check=False)
    assert done.returncode == -signal.SIGKILL


def test_half_written_files_of_killed_processes_go(storage: Storage):
    dies = "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
    storage.put("films/b.mp4", b"other")
    (Path(storage.root) / "cas" / "generate" / "0f" / KEY / "a1").mkdir(parents=True)
    killed(dies + "storage.put('films/a.mp4', b'half')", storage)
    killed(f"{dies}storage.put('cas/generate/0f/{KEY}/a1/chunk.mkv', b'half a chunk')", storage)
    assert swept(storage) == []
    age(storage.root, 25)
    assert sorted((one.kind, one.bytes) for one in swept(storage)) == [(GarbageKind.UNFINISHED, 4), (GarbageKind.UNFINISHED, 12)]
    assert sorted(path.name for path in Path(storage.root).rglob("*")) == ["b.mp4", "films"]


def test_scratch_of_killed_processes_goes_and_that_of_the_living_stays(storage: Storage):
    calls = Path(storage.settings.cache) / "calls"
    killed(
        "from infinitedub.pipeline.storage.scratch import scratch_folder\nfrom pathlib import Path\n"
        f"with scratch_folder(Path({str(calls)!r})) as folder:\n (folder / 'big').write_bytes(b'xyz')\n os.kill(os.getpid(), signal.SIGKILL)",
        storage,
    )
    (dead,) = (path for path in calls.iterdir() if path.is_dir())
    with StageFiles(storage, stage="a", key=KEY):  # the next call sweeps as well
        assert not dead.exists()
    killed(f"import fcntl\np = '{dead}'\nos.mkdir(p)\nopen(p + '/big', 'w').write('xyz')\nopen(p + '.lock', 'w')\nos.kill(os.getpid(), 9)", storage)
    (calls / "mine.lock").touch()
    with (calls / "mine.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        (calls / "mine").mkdir()
        assert swept(storage, dry_run=True) == [Garbage(GarbageKind.SCRATCH, str(dead), 1, 3)]
        assert dead.exists()
        assert swept(storage) == [Garbage(GarbageKind.SCRATCH, str(dead), 1, 3)]
        assert sorted(path.name for path in calls.iterdir()) == ["mine", "mine.lock"]


def test_a_scratch_folder_whose_lock_was_swept_in_the_same_instant_gets_another(tmp_path: Path):
    with ThreadPoolExecutor(8) as threads:

        def use(_: int) -> None:
            with scratch_folder(tmp_path) as folder:
                assert folder.with_suffix(".lock").exists()
                (folder / "a").touch()

        list(threads.map(use, range(200)))
    assert list(tmp_path.iterdir()) == []


class Network(Settings):
    """Settings of a stage that reads weights."""

    weights: Weights
    """A folder."""


@pytest.fixture
def model(tmp_path: Path):
    """A model in an object store."""
    bucket = fsspec.filesystem("memory")
    bucket.pipe("/gc/model/config.json", b"{}")
    bucket.pipe("/gc/other/config.json", b"{ }")
    yield "memory://gc"
    bucket.rm("/gc", recursive=True)


def test_copies_of_weights_that_nobody_uses_go(storage: Storage, model: str):
    used, unused = (Path(on_this_node(storage, Network(weights=f"{model}/{name}")).weights) for name in ("model", "other"))
    age(used.parent, 25)
    assert on_this_node(storage, Network(weights=f"{model}/model")).weights == str(used)
    (unused.parent / f"{'0' * 64}.lock").touch()
    half = unused.parent / f"{'0' * 64}.part"
    half.mkdir()
    age(half, 25)
    assert {one.location for one in swept(storage, dry_run=True)} == {str(unused), str(half)}
    assert {(one.kind, one.location, one.bytes) for one in swept(storage)} == {
        (GarbageKind.WEIGHTS, str(unused), 3),
        (GarbageKind.WEIGHTS, str(half), 0),
    }
    assert used.exists()
    assert not unused.exists()
    assert not half.exists()
    assert (Path(on_this_node(storage, Network(weights=f"{model}/other")).weights) / "config.json").read_bytes() == b"{ }"


# -- the command ------------------------------------------------------------------------------------------------------


def gc(monkeypatch: pytest.MonkeyPatch, storage: Storage, *words: str) -> int:
    places = [f"storage.root={storage.root}", f"storage.cache={storage.settings.cache}"]
    monkeypatch.setattr(sys, "argv", ["dub", "gc", *words, *places])
    return main()


def test_a_dry_run_says_what_would_go_and_takes_nothing(storage: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    attempt, _ = keep(storage, "x" * 200)
    committed(storage, "winner")
    age(storage.root, 2)
    before = files(storage)
    assert gc(monkeypatch, storage) == 0
    assert "nothing to remove" in capsys.readouterr().out
    assert gc(monkeypatch, storage, "--grace", "90m", "--dry-run") == 0
    told = capsys.readouterr().out
    assert f"cas/generate/0f/{KEY}/{attempt}" in told
    assert "unnamed: 1 places, 1 files, 200 B would be removed" in told
    assert files(storage) == before
    assert gc(monkeypatch, storage, "--grace", "90m") == 0
    assert f"{storage.root}: 200 B removed" in capsys.readouterr().out
    assert files(storage) == {"winner"}


def test_a_root_where_nothing_is_yet_has_nothing_to_sweep(storage: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert gc(monkeypatch, storage, "--grace=0s") == 0
    assert "nothing to remove, and no run here; name the root" in capsys.readouterr().out
    assert not Path(storage.root).exists()


@pytest.mark.parametrize("grace", ["yesterday", "-1h", "24", "1w", ""])
def test_a_grace_period_that_is_no_time_is_refused(storage: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], grace: str):
    keep(storage, "killed")
    age(storage.root, 1000)
    assert gc(monkeypatch, storage, f"--grace={grace}") == 4
    assert "no time; wanted a number and s, m, h or d" in capsys.readouterr().err
    assert files(storage) == {"killed"}


def test_entries_of_tomorrow_are_believed(storage: Storage):
    """A file beside the commits that this version does not know may name what it needs."""
    _, (named, _) = keep(storage, "named", "unnamed")
    storage.put(f"cas/generate/0f/{KEY}/_note.json", json.dumps({"about": [{"uri": named.uri}]}).encode())
    age(storage.root, 25)
    assert [one.files for one in swept(storage)] == [1]
    assert files(storage) == {"named"}
