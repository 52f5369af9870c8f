"""Whether memory grows with the film: resident memory at most, stage by stage, for a short and a long film of one photograph.

    python -m benchmarks.memory [--short 60] [--long 600] [--size 64x128] [--set NAME=VALUE ...]

Each film is made by `dub run pools=inline` in a process of its own, which is watched from outside, so that nothing is missed: not the models, not the
codecs, not what Python does not give back. The speech is synthesised. All stages of a film work in one process, so each one's peak includes what
those before it have left behind.
"""

import argparse
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.command import QUICK, Run, dub, sides, write_catalogue

STAGES = ("ingest", "listen", "condition", "generate", "assemble", "publish")
FPS = 25
MIB = 2**20


def tell(short: Run, long: Run, seconds: tuple[float, float], size: tuple[int, int]) -> None:
    """Prints the table and what it is to be compared with."""
    table = Table("resident at most, MiB", f"{seconds[0]:g} s film", f"{seconds[1]:g} s film", "ratio", "growth")
    rows = [(name, short.peak_of(name), long.peak_of(name)) for name in STAGES] + [("whole process", short.peak, long.peak)]
    for name, few, many in rows:
        if few and many:
            table.add_row(name, f"{few / MIB:.0f}", f"{many / MIB:.0f}", f"{many / few:.3f}", f"{(many - few) / MIB:+.0f}")
    console = Console()
    console.print(table)
    pixels = (seconds[1] - seconds[0]) * FPS * size[0] * size[1] * 3
    console.print(f"the film is {seconds[1] / seconds[0]:g} times as long; its frames alone would add {pixels / MIB:.0f} MiB as bytes, ", end="")
    console.print(f"{4 * pixels / MIB:.0f} MiB as 32-bit floats")


def main() -> None:
    """Makes both films and prints the peaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", type=float, default=60.0, help="seconds of the short film")
    parser.add_argument("--long", type=float, default=600.0, help="seconds of the long film")
    parser.add_argument("--size", type=sides, default=(64, 128), help="height x width of the photograph, best one of the model's frame sizes")
    parser.add_argument("--set", nargs="*", default=list(QUICK), metavar="NAME=VALUE", help="settings of dub run; by default one step of one pass")
    options = parser.parse_args()
    lengths = options.short, options.long
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            dub(write_catalogue(Path(folder) / name, seconds, *options.size), Path(folder) / name / "out", options.set)
            for name, seconds in zip(("short", "long"), lengths, strict=True)
        ]
    tell(runs[0], runs[1], lengths, options.size)


if __name__ == "__main__":
    main()
