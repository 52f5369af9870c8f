"""A run on Ray from a working directory whose packages have the names of the product's folders."""

import json
import subprocess
import sys
from pathlib import Path

from tests.shadowing import shadow

DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo"


def test_packages_of_the_user_do_not_shadow_ours_in_driver_and_workers(tmp_path: Path):
    shadow(tmp_path)
    row = {"id": "film", "source": str(DEMO / "astronaut.jpg"), "speech": str(DEMO / "guest.flac")}
    (tmp_path / "catalogue.jsonl").write_text(json.dumps(row) + "\n")
    words = ["catalogue=catalogue.jsonl", "storage.root=out", f"storage.cache={tmp_path / 'node'}", "generate.sampler.steps=1"]
    command = [sys.executable, "-m", "infinitedub.launch.cli", "run", *words, "pools=local"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "films" / "film.mp4").is_file()
