"""Measures how much work is reused: a first run, the same run again, and a run with another sampler setting, as ratios.

    python -m benchmarks.reuse [--seconds 5]

Each run is a `dub run pools=inline` in its own process over the same storage. Every process takes seconds to start, so the table also shows the
seconds of the stage calls alone.
"""

import argparse
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.command import QUICK, parse_frame_size, run_dub, write_catalogue

STEPS = (*QUICK[1:], "generate.sampler.steps=2")  # with one step the shift changes no value, so the chunks and the assembled film are reused
RUNS = {
    "first run": STEPS,
    "the same again": STEPS,
    "another sampler.shift": (*STEPS, "generate.sampler.shift=4"),
}


def main() -> None:
    """Makes the three runs and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of the film")
    parser.add_argument("--size", type=parse_frame_size, default=(96, 96), help="height x width of the picture")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        catalogue = write_catalogue(Path(folder), options.seconds, *options.size)
        runs = {name: run_dub(catalogue, Path(folder) / "out", overrides) for name, overrides in RUNS.items()}
    table, first = Table("run", "process, s", "ratio", "stages, s", "ratio", "stage calls"), next(iter(runs.values()))
    for name, run in runs.items():
        process, stages = run.seconds / first.seconds, run.stage_seconds / first.stage_seconds
        calls = ", ".join(stage.name for stage in run.stages) or "none"
        table.add_row(name, f"{run.seconds:.1f}", f"{process:.2f}", f"{run.stage_seconds:.1f}", f"{stages:.2f}", calls)
    Console().print(table)


if __name__ == "__main__":
    main()
