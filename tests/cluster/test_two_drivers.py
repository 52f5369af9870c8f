"""Two drivers over one catalogue at the same time: neither knows of the other, and there is one of everything."""

import hashlib
import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from reference_film import HANGING_SECONDS, ReferenceFilm

from infinitedub.pipeline.state.garbage_collection import GarbageKind, collect_garbage
from infinitedub.pipeline.state.run_log import read_events, read_summary, runs
from infinitedub.pipeline.storage.storage import Storage, StorageSettings


@pytest.mark.timeout(2 * HANGING_SECONDS)
def test_two_drivers_on_one_catalogue_make_one_film(reference_film: ReferenceFilm, tmp_path: Path, storage_settings: StorageSettings):
    root = tmp_path / "out"
    command = reference_film.command("run", f"storage.root={root}", f"storage.cache={tmp_path / 'node'}")
    drivers = [subprocess.Popen(command, cwd=reference_film.folder, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [driver.communicate(timeout=HANGING_SECONDS)[1] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], "".join(outputs)

    assert sorted(path.name for path in (root / "films").iterdir()) == ["portrait.json", "portrait.mp4"]
    film = hashlib.sha256((root / "films" / "portrait.mp4").read_bytes()).hexdigest()
    assert film == reference_film.sha256
    assert json.loads((root / "films" / "portrait.json").read_text())["film"]["sha256"] == film

    storage = Storage(storage_settings.model_copy(update={"root": str(root)}))
    both = runs(storage)
    assert len(both) == 2
    assert [(read_summary(storage, run) or {})["done"] for run in both] == [{"portrait": str(root / "films" / "portrait.mp4")}] * 2
    made = Counter(event["stage"] for run in both for event in read_events(storage, run) if event["what"] == "finished")
    assert all(1 <= times <= 2 for times in made.values()), made
    commits = sorted(path.relative_to(root / "cas").as_posix() for path in root.glob("cas/*/*/*/_*.json"))
    assert Counter(name.split("/")[0] for name in commits if name.endswith("/_commit.json")) == dict.fromkeys(made, 1)  # one publication, one of each
    assert not [name for name in commits if name.endswith(".1.json")]

    lost = sum(swept.files for swept in collect_garbage(storage, 0, checkpoints=False, dry_run=False) if swept.kind == GarbageKind.UNNAMED)
    assert lost == 0 or any(times == 2 for times in made.values())  # only what was made twice can have been made in vain
    third = subprocess.run(command, cwd=reference_film.folder, capture_output=True, text=True, check=True, timeout=HANGING_SECONDS)
    assert "nothing to do" in third.stderr
