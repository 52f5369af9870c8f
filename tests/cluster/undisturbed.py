"""A short film made when nothing disturbed it, for tests of what disturbs a run to compare with."""

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo"
HANGING_SECONDS = 1500  # a `dub` command that takes longer hangs: two minutes were seen where both cores were taken


@dataclass(frozen=True)
class Calm:
    """A catalogue of one film, and what came out when it was made in one process, without Ray, in a folder."""

    folder: Path
    sha256: str

    def command(self, verb: str, *words: str) -> list[str]:
        """A `dub` command; for `run`, over the catalogue."""
        base = ["pools=inline", "generate.sampler.steps=1", f"catalogue={self.folder / 'catalogue.jsonl'}"] if verb == "run" else []
        return [sys.executable, "-m", "infinitedub.launch.cli", verb, *base, *words]


def make_calm(folder: Path) -> Calm:
    """Makes the film."""
    for name in ("astronaut.jpg", "guest.flac"):
        (folder / name).write_bytes((DEMO / name).read_bytes())
    (folder / "catalogue.jsonl").write_text('{"id": "portrait", "source": "astronaut.jpg", "speech": "guest.flac", "seed": 7}\n')
    command = Calm(folder, "").command("run", f"storage.root={folder / 'out'}", f"storage.cache={folder / 'node'}")
    subprocess.run(command, cwd=folder, check=True, timeout=HANGING_SECONDS)
    return Calm(folder, hashlib.sha256((folder / "out" / "films" / "portrait.mp4").read_bytes()).hexdigest())
