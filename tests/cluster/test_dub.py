"""The main job as a user runs it: the `dub` command in a process of its own, a real local Ray cluster, real media, real S3 servers."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
from reference_film import HANGING_SECONDS
from servers import S3Server

from infinitedub.pipeline.state.run_log import latest_run, read_events
from infinitedub.pipeline.storage.storage import Storage, StorageSettings

pytestmark = pytest.mark.timeout(2 * HANGING_SECONDS)

DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo"
PORTRAIT = {"id": "portrait", "source": "astronaut.jpg", "speech": "guest.flac", "seed": 7}
FOOTAGE = {"id": "footage", "source": "footage.mp4", "speech": "report.flac", "length": "video", "seed": 7}
INTERVIEW = {
    "id": "interview",
    "source": "interview.png",
    "turns": "in_turn",
    "speakers": [{"speech": "host.flac", "box": [87, 54, 259, 269]}, {"speech": "guest.flac", "box": [383, 63, 552, 275]}],
}


@dataclass
class DubCommand:
    """A user's working folder."""

    folder: Path

    def catalogue(self, *rows: dict[str, Any], name: str = "catalogue.jsonl") -> Path:
        for path in DEMO.iterdir():
            if path.suffix in (".jpg", ".png", ".flac", ".mp4") and not (self.folder / path.name).exists():
                (self.folder / path.name).write_bytes(path.read_bytes())
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "infinitedub.launch.cli", *words, f"storage.cache={self.folder / 'node'}"]

    def dub(self, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        environment, command = os.environ | (env or {}), self.command(*words)
        return subprocess.run(command, check=False, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=HANGING_SECONDS)

    def root(self, name: str = "out") -> str:
        return f"storage.root={self.folder / name}"

    def events(self, settings: StorageSettings, name: str = "out") -> list[dict[str, Any]]:
        """What the latest run's log says."""
        storage = Storage(settings.model_copy(update={"root": str(self.folder / name)}))
        run = latest_run(storage)
        assert run is not None
        return read_events(storage, run)


@pytest.fixture
def cli(tmp_path: Path) -> DubCommand:
    return DubCommand(tmp_path)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def sound(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)[0]


def generated(root: Path) -> np.ndarray:
    """The frames of a film of one segment as the denoiser gave them: the film's own encoder makes whole levels of the last bits."""
    (commit,) = root.glob("cas/generate/*/*/_commit.json")
    chunks = json.loads(commit.read_text())["record"]["chunks"]
    return np.concatenate([frames(Path(chunk["picture"]["uri"])) for chunk in chunks]).astype(int)


def made(events: list[dict[str, Any]], what: str) -> Counter[str]:
    return Counter(event["stage"] for event in events if event["what"] == what)


def test_a_catalogue_becomes_films_and_only_what_is_missing_is_done_again(cli, storage_settings):
    broken = {"id": "broken", "source": "broken.mp4", "speech": "guest.flac"}
    catalogue = cli.catalogue(PORTRAIT, FOOTAGE, INTERVIEW, broken)
    (cli.folder / "broken.mp4").write_text("this is no film")

    first = cli.dub("run", f"catalogue={catalogue}", cli.root(), "generate.sampler.steps=2")
    assert first.returncode == 2, first.stderr
    assert "broken: ingest failed (input)" in first.stderr
    films = {name: cli.folder / "out" / "films" / f"{name}.mp4" for name in ("portrait", "footage", "interview")}
    assert frames(films["footage"]).shape[0] == 140  # 168 frames at 30 a second are 5.6 s, at 25 a second 140
    assert frames(films["portrait"]).shape[0] == round(52622 / 22050 * 25)
    assert frames(films["interview"]).shape[0] == round((52921 + 52622) / 22050 * 25)
    given = sound(DEMO / "guest.flac")
    delivered = sound(films["portrait"])
    assert np.array_equal(delivered[: len(given)], given[: len(delivered)])  # the given speech, sample by sample
    sidecar = json.loads((cli.folder / "out" / "films" / "portrait.json").read_text())
    assert sidecar["film"]["sha256"] == sha256(films["portrait"])
    assert sidecar["job"]["seed"] == 7
    before = {name: sha256(path) for name, path in films.items()}

    again = cli.dub("run", f"catalogue={catalogue}", cli.root(), "generate.sampler.steps=2")
    assert again.returncode == 2
    assert made(cli.events(storage_settings), "finished") == Counter()  # the broken one is tried, and nothing else
    assert made(cli.events(storage_settings), "failed") == Counter(ingest=1)

    status = cli.dub("status", cli.root())
    assert status.returncode == 0
    assert "3 done" in status.stdout
    assert "1 failed" in status.stdout
    assert "dub rerun --run" in status.stdout

    (cli.folder / "broken.mp4").write_bytes((DEMO / "footage.mp4").read_bytes())  # mended by its owner; silence follows the shorter speech
    rerun = cli.dub("rerun", cli.root())
    assert rerun.returncode == 0, rerun.stderr
    assert {event["job"] for event in cli.events(storage_settings)} == {"broken"}
    assert (cli.folder / "out" / "films" / "broken.mp4").is_file()
    assert {name: sha256(path) for name, path in films.items()} == before

    nothing = cli.dub("rerun", cli.root())
    assert nothing.returncode == 0
    assert "nothing to rerun" in nothing.stdout


def test_a_sweep_shares_what_the_sampler_does_not_touch(cli, storage_settings):
    catalogue = cli.catalogue(PORTRAIT)
    done = cli.dub("run", "-m", f"catalogue={catalogue}", cli.root(), "generate.sampler.steps=1,2", "pools=inline")
    assert done.returncode == 0, done.stderr
    films = [cli.folder / "out" / "films" / f"generate.sampler.steps={steps}" / "portrait.mp4" for steps in (1, 2)]
    assert sha256(films[0]) != sha256(films[1])
    assert made(cli.events(storage_settings), "finished") == Counter(generate=1, assemble=1, publish=1)
    assert made(cli.events(storage_settings), "reused") == Counter(ingest=1, segment=1, listen=1, condition=1)


@pytest.mark.parametrize("server", ["moto_server", "swift_server"])
def test_the_same_films_come_out_over_s3(cli, request, server):
    s3: S3Server = request.getfixturevalue(server)
    bucket, filesystem = s3.bucket(), s3.filesystem()
    quick = ("generate.sampler.steps=1", "pools=inline" if server == "moto_server" else "pools=local")
    local = cli.dub("run", f"catalogue={cli.catalogue(PORTRAIT)}", cli.root(), "generate.sampler.steps=1", "pools=inline")
    assert local.returncode == 0, local.stderr
    for name in ("astronaut.jpg", "guest.flac", "catalogue.jsonl"):
        filesystem.put_file(str(cli.folder / name), f"{bucket}/in/{name}")

    words = [f"catalogue=s3://{bucket}/in/catalogue.jsonl", *s3.overrides(bucket), *quick]
    remote = cli.dub("run", *words, env=s3.env)
    assert remote.returncode == 0, remote.stderr
    film = filesystem.cat_file(f"{bucket}/dub/films/portrait.mp4")
    sidecar = json.loads(filesystem.cat_file(f"{bucket}/dub/films/portrait.json"))
    assert hashlib.sha256(film).hexdigest() == sidecar["film"]["sha256"]
    assert hashlib.sha256(film).hexdigest() == sha256(cli.folder / "out" / "films" / "portrait.mp4")  # one thread or two, here or there

    again = cli.dub("run", *words, env=s3.env)
    assert again.returncode == 0
    assert "nothing to do" in again.stderr


def windows(lines: list[str]) -> Counter[str]:
    """How often each window of each segment was made, by the lines of one run or several."""
    return Counter(found[0] for line in lines if (found := re.search(r"job=.* generate window \d+/\d+", line)))


def ranks_at_work(driver: int) -> list[psutil.Process]:
    """The processes of a driver's gangs."""
    found = []
    for child in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # others end while they are looked at
            if child.name().startswith("ray::Rank"):
                found.append(child)
    return found


@pytest.mark.parametrize("ranks", ["single", "ulysses_2"])
def test_a_killed_rank_costs_the_window_it_was_at_and_no_film(cli, ranks):
    catalogue = cli.catalogue(PORTRAIT)
    words = [f"catalogue={catalogue}", f"generate/parallel={ranks}"]
    reference = cli.dub("run", *words, cli.root("reference"), *(["pools=inline"] if ranks == "single" else []))
    assert reference.returncode == 0, reference.stderr

    run = subprocess.Popen(cli.command("run", *words, cli.root()), cwd=cli.folder, stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    lines = []
    for line in run.stderr:
        lines.append(line)
        if "generate window 1/" in line:
            ranks_at_work(run.pid)[-1].send_signal(signal.SIGKILL)
            break
    lines += run.stderr.readlines()
    assert run.wait(HANGING_SECONDS) == 0, "".join(lines)
    assert "attempt 1 failed (gang_lost)" in "".join(lines)
    assert set(windows(lines).values()) == {1}, "".join(lines)  # the next gang goes on behind the first window
    assert sha256(cli.folder / "out" / "films" / "portrait.mp4") == sha256(cli.folder / "reference" / "films" / "portrait.mp4")


def test_a_stopped_run_finishes_its_windows_and_continues_from_there(cli, storage_settings):
    catalogue = cli.catalogue(FOOTAGE)
    run = subprocess.Popen(cli.command("run", f"catalogue={catalogue}", cli.root()), cwd=cli.folder, stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    lines = []
    for line in run.stderr:
        lines.append(line)
        if "generate window 1/" in line:
            run.send_signal(signal.SIGTERM)
            break
    lines += run.stderr.readlines()
    assert run.wait(HANGING_SECONDS) == 3, "".join(lines)
    assert "stopped before all was done" in "".join(lines)
    assert not (cli.folder / "out" / "films").exists()

    on = cli.dub("rerun", cli.root())
    assert on.returncode == 0, on.stderr
    assert made(cli.events(storage_settings), "reused")["ingest"] == 1
    assert set(windows(lines + on.stderr.splitlines()).values()) == {1}, "".join(lines) + on.stderr
    assert (cli.folder / "out" / "films" / "footage.mp4").is_file()


def committed(root: Path) -> set[str]:
    """The entries of all results and windows."""
    return {path.relative_to(root).as_posix() for path in root.glob("cas/*/*/*/_*.json")}


def tally(entries: set[str]) -> Counter[tuple[str, str]]:
    """How many results and windows of each stage these are."""
    return Counter((name.split("/")[1], "window" if "/_window." in name else "finished") for name in entries)


def counts_of(lines: list[str]) -> Counter[tuple[str, str]]:
    """The same, by the lines of a run: each follows its entry."""
    found = (re.search(r"job=\S+(?: segment=\d+)? (\w+) (window|finished)", line) for line in lines)
    return Counter((line[1], line[2]) for line in found if line)


def test_a_killed_driver_costs_nothing_that_was_committed(cli):
    catalogue = cli.catalogue(FOOTAGE)
    words = [f"catalogue={catalogue}", "pools=inline"]
    reference = cli.dub("run", *words, cli.root("reference"))
    assert reference.returncode == 0, reference.stderr
    root, before = cli.folder / "out", set[str]()
    for sign in ("ingest finished", "generate window 1/", "generate window 2/", "assemble finished"):
        run = subprocess.Popen(cli.command("run", *words, cli.root()), cwd=cli.folder, stderr=subprocess.PIPE, text=True)
        assert run.stderr is not None
        lines = []
        for line in run.stderr:
            lines.append(line)
            if sign in line:
                run.kill()
                break
        lines += run.stderr.readlines()
        run.wait(HANGING_SECONDS)
        after = committed(root)
        assert counts_of(lines) <= tally(after - before), "".join(lines)  # what was there is not made again; the kill may have come before a line
        before = after
    last = cli.dub("run", *words, cli.root())
    assert last.returncode == 0, last.stderr
    assert counts_of(last.stderr.splitlines()) == tally(committed(root) - before), last.stderr
    assert committed(root) == committed(cli.folder / "reference")
    assert sha256(cli.folder / "out" / "films" / "footage.mp4") == sha256(cli.folder / "reference" / "films" / "footage.mp4")


def test_a_gang_of_two_makes_the_same_film(cli):
    catalogue = cli.catalogue(INTERVIEW)
    one = cli.dub("run", f"catalogue={catalogue}", cli.root("one"), "generate.sampler.steps=2", "pools=inline")
    two = cli.dub("run", f"catalogue={catalogue}", cli.root("two"), "generate.sampler.steps=2", "generate/parallel=ulysses_2")
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    alone, shared = (generated(cli.folder / root) for root in ("one", "two"))
    assert alone.shape == shared.shape
    assert np.abs(alone - shared).mean() < 0.05  # levels of 255: two ranks may add up in another order than one
    assert np.abs(alone - alone[::-1]).mean() > 1  # other frames would show


def test_impossible_requests_are_refused_before_anything_starts(cli):
    good, unknown = PORTRAIT, {**PORTRAIT, "id": "second", "speach": "guest.flac"}
    catalogue = cli.catalogue(good, unknown, good)
    for words, message in (
        ((f"catalogue={catalogue}",), "bad rows"),
        ((f"catalogue={cli.folder}/none.jsonl",), "none.jsonl"),
        ((), "catalogue: needs a value"),
        ((f"catalogue={catalogue}", "generate.sampler.stepz=3"), "did you mean steps?"),
        ((f"catalogue={catalogue}", "generate.sampler.steps=many"), "generate.sampler.steps"),
        ((f"catalogue={catalogue}", "generate.model.window_frames=80"), "take 77 or 81"),
    ):
        refused = cli.dub("run", cli.root(), *words)
        assert refused.returncode == 4, (words, refused.stderr)
        assert message in refused.stderr
        assert "Traceback" not in refused.stderr
    assert not (cli.folder / "out" / "cas").exists()
