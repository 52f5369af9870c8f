"""A reference film made without faults; tests that inject faults compare their films with it."""

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo"
HANGING_SECONDS = 1500  # time-out of a `dub` command; two minutes were measured with both cores busy


@dataclass(frozen=True)
class ReferenceFilm:
    """A catalogue of one film, and the digest of that film made in one process, without Ray, on local storage."""

    folder: Path
    sha256: str

    def command(self, verb: str, *words: str) -> list[str]:
        """A `dub` command; `run` gets the catalogue."""
        base = ["pools=inline", "generate.sampler.steps=1", f"catalogue={self.folder / 'catalogue.jsonl'}"] if verb == "run" else []
        return [sys.executable, "-m", "infinitedub.launch.cli", verb, *base, *words]


def make_reference_film(folder: Path) -> ReferenceFilm:
    """Runs `dub run` in this folder."""
    for name in ("astronaut.jpg", "guest.flac"):
        (folder / name).write_bytes((DEMO / name).read_bytes())
    (folder / "catalogue.jsonl").write_text('{"id": "portrait", "source": "astronaut.jpg", "speech": "guest.flac", "seed": 7}\n')
    command = ReferenceFilm(folder, "").command("run", f"storage.root={folder / 'out'}", f"storage.cache={folder / 'node'}")
    subprocess.run(command, cwd=folder, check=True, timeout=HANGING_SECONDS)
    return ReferenceFilm(folder, hashlib.sha256((folder / "out" / "films" / "portrait.mp4").read_bytes()).hexdigest())
