"""A film of two shots is made, a part of it made anew, and one of its segments replayed: the `dub` command with real stages, in this process."""

import io
import json
import sys
from pathlib import Path

import pytest

from infinitedub.launch import cli
from infinitedub.pipeline.state.run_log import latest_run, read_events, read_run
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.media.video_io import read_all, write_lossless

DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo"


def test_some_windows_are_made_anew_and_one_segment_is_replayed(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    around_the_cut = list(read_all(DEMO / "footage.mp4"))[58:132]
    write_lossless(tmp_path / "footage.mkv", around_the_cut, 30)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "a", "source": "footage.mkv", "speech": str(DEMO / "guest.flac")}) + "\n")
    root = Path(storage.root)

    def dub(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["dub", *words, f"storage.root={root}", f"storage.cache={tmp_path / 'node'}"])
        code = cli.main()
        said = capsys.readouterr()
        return code, said.out + said.err

    def windows() -> list[tuple[int, int]]:
        """Of the latest run: those that were made, by segment and number."""
        run = latest_run(storage)
        assert run is not None
        return sorted((event["segment"], event["window"]) for event in read_events(storage, run) if event["what"] == "window")

    code, said = dub("run", "catalogue=rows.jsonl", "pools=inline", "generate.sampler.steps=1")
    assert code == 0, said
    made = windows()
    film = (root / "films" / "a.mp4").read_bytes()
    last = max(segment for segment, _ in made)
    behind = [(segment, window) for segment, window in made if segment == last and window >= 1]
    assert last > 0, "the footage has a cut"
    assert behind, "and the shot behind it is longer than a window"

    code, said = dub("rerun", "--ids", "a", "--segments", str(last), "--windows", "1:", "--reason", "blinks")
    assert code == 0, said
    assert windows() == behind
    assert (root / "films" / "a.mp4").read_bytes() == film  # the same noise
    run = latest_run(storage)
    assert run is not None
    assert read_run(storage, run)["forced_rerun"].items() >= {"segments": [last], "first_window": 1, "reason": "blinks"}.items()
    withdrawn = [path.name for path in root.glob("cas/generate/*/*/_*.json") if "blinks" in path.read_text()]
    assert sorted(withdrawn) == ["_commit.1.json", *(f"_window.{window:05d}.1.json" for _, window in behind)]

    before = sorted(root.rglob("*"))
    code, said = dub("replay", f"a/{last}", "--windows", "1:")
    assert code == 0, said
    assert said.count("(as in the run)") == len(behind)
    assert sorted(root.rglob("*")) == before
    chunks = [Path(word) for word in said.split() if word.endswith("chunk.mkv")]
    assert len(chunks) == len(behind)
    assert all(chunk.is_relative_to(tmp_path / "outputs" / "replay") and chunk.is_file() for chunk in chunks)

    for tensors in root.glob("cas/condition/*/*/*/*.safetensors"):
        tensors.write_bytes(tensors.read_bytes()[:-1] + b"?")
    monkeypatch.setattr(sys, "stdin", io.StringIO("q\n"))
    code, said = dub("replay", f"a/{last}", "--pdb", "--to", "again")
    assert code == 2
    assert "(Pdb)" in said, "the debugger opens where it happened"
