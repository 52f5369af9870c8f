"""What is not done twice: a first run, the same run again, and a run with another sampler setting, as ratios.

    python -m benchmarks.reuse [--seconds 5]

Each is a `dub run pools=inline` in a process of its own over the same storage. A process takes seconds to start, whatever there is to do: next to it
the time is told that its stages worked.
"""

import argparse
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.command import QUICK, dub, sides, write_catalogue

STEPS = (*QUICK[1:], "generate.sampler.steps=2")  # with a single step the shift changes nothing, and the same chunks are assembled but once
RUNS = {
    "first run": STEPS,
    "the same again": STEPS,
    "another sampler.shift": (*STEPS, "generate.sampler.shift=4"),
}


def main() -> None:
    """Runs the three and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of the film")
    parser.add_argument("--size", type=sides, default=(96, 96), help="height x width of the photograph")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        catalogue = write_catalogue(Path(folder), options.seconds, *options.size)
        runs = {name: dub(catalogue, Path(folder) / "out", words) for name, words in RUNS.items()}
    table, first = Table("run", "process, s", "ratio", "stages, s", "ratio", "stages that worked"), next(iter(runs.values()))
    for name, run in runs.items():
        process, stages = run.seconds / first.seconds, run.worked / first.worked
        worked = ", ".join(stage.name for stage in run.stages) or "none"
        table.add_row(name, f"{run.seconds:.1f}", f"{process:.2f}", f"{run.worked:.1f}", f"{stages:.2f}", worked)
    Console().print(table)


if __name__ == "__main__":
    main()
