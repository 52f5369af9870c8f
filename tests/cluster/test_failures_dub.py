"""A run in which things go wrong, as a user sees it: one job kills every gang it meets, one fills its GPU, one is good."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from reference_film import HANGING_SECONDS

DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo"
GOES_WRONG = '''
import os, signal, sys
from ray import cloudpickle
from infinitedub.launch import cli
from infinitedub.pipeline.run import driver
from dataclasses import replace
from infinitedub.stages.generate.stage import GenerateStage

class GoesWrong(GenerateStage):
    """Generates, but for the jobs whose names say what happens to them in the first window."""

    def open(self, rank):
        super().open(rank)
        self.low_memory = rank.low_memory

    def __call__(self, segment, conditions, speech, seed, *, files):
        import torch
        denoise = type(self._engine).denoise.__get__(self._engine)
        def faulty(*given):
            if seed.job == "poison":
                os.kill(os.getpid(), signal.SIGKILL)
            if seed.job == "cramped" and not self.low_memory:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return denoise(*given)
        self._engine.denoise = faulty
        yield from super().__call__(segment, conditions, speech, seed, files=files)

def stage_specs(config, real=driver.stage_specs):
    specs = real(config)
    return specs | {"generate": replace(specs["generate"], stage=GoesWrong(specs["generate"].stage.config))}

if __name__ == "__main__":
    cloudpickle.register_pickle_by_value(sys.modules["__main__"])
    driver.stage_specs = stage_specs
    sys.exit(cli.main())
'''


def dub(folder: Path, command: list[str], *words: str) -> subprocess.CompletedProcess[str]:
    given = [*command, "run", *words, f"storage.cache={folder / 'node'}", "generate.sampler.steps=1"]
    environment = os.environ | {"PYTHONPATH": str(DEMO.parents[1]), "RAY_worker_niceness": "0"}
    return subprocess.run(given, check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=HANGING_SECONDS)


def films(root: Path) -> dict[str, str]:
    return {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(root.glob("films/*.mp4"))}


def catalogue(folder: Path, *jobs: str) -> str:
    for name in ("astronaut.jpg", "guest.flac"):
        (folder / name).write_bytes((DEMO / name).read_bytes())
    path = folder / f"{len(jobs)}.jsonl"
    path.write_text("".join(json.dumps({"id": job, "source": "astronaut.jpg", "speech": "guest.flac", "seed": 7}) + "\n" for job in jobs))
    return f"catalogue={path}"


@pytest.mark.timeout(2 * HANGING_SECONDS)
def test_what_goes_wrong_costs_its_own_film_or_none(tmp_path: Path) -> None:
    script = tmp_path / "goes_wrong.py"
    script.write_text(GOES_WRONG)
    survivors = ("good", "cramped")
    reference = dub(
        tmp_path,
        [sys.executable, "-m", "infinitedub.launch.cli"],
        catalogue(tmp_path, *survivors),
        f"storage.root={tmp_path / 'reference'}",
        "pools=inline",
    )
    assert reference.returncode == 0, reference.stderr

    run = dub(tmp_path, [sys.executable, str(script)], catalogue(tmp_path, "poison", *survivors), f"storage.root={tmp_path / 'out'}")
    assert run.returncode == 2, run.stderr
    assert films(tmp_path / "out") == films(tmp_path / "reference")  # bit-identical
    assert list(films(tmp_path / "reference")) == sorted(survivors)
    (letter,) = (json.loads(path.read_text()) for path in tmp_path.glob("out/runs/*/dead/*.json"))
    assert (letter["job"], letter["stage"], letter["segment"], letter["kind"], letter["attempts"]) == ("poison", "generate", 0, "gang_lost", 2)
    assert "--ids poison" in letter["repro"]
    assert "job=cramped segment=0" in run.stderr
    assert "attempt 1 failed (gpu_oom)" in run.stderr
