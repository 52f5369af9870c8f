"""Whether memory grows with the film: what each stage holds resident at most, for a short and a long film of one photograph.

    python -m benchmarks.memory [--minutes 1 10] [--size 64x128] [--set NAME=VALUE ...]

The driver is the product's own; each call of a stage is made in a process of its own, which asks the kernel in the end for the most it was ever given
(VmHWM), so that nothing is missed: not the models, not the codecs, not what Python does not give back. The speech is synthesised. Linux only.
"""

import argparse
import asyncio
import multiprocessing
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

from benchmarks.command import QUICK, sides, write_catalogue
from infinitedub.launch.compose import checked, compose
from infinitedub.launch.dispatch import dispatch
from infinitedub.pipeline.pools.calls import OnProgress, StageCall
from infinitedub.pipeline.pools.failures import Failure
from infinitedub.pipeline.pools.worker import Done, Worker
from infinitedub.pipeline.run import driver
from infinitedub.pipeline.storage.storage import StorageSettings
from infinitedub.stages.contract import Rank, Stage

FPS = 25
MIB = 2**20
PROMISED = 1.1


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes resident: with the stage open, and at most until it was done."""

    opened: int
    peak: int


def resident(line: str) -> int:
    """Bytes by a line of this process's status: VmRSS, now; VmHWM, at most so far."""
    status = Path("/proc/self/status").read_text()
    return next(int(text.split()[1]) * 1024 for text in status.splitlines() if text.startswith(f"{line}:"))


def serve(stage: Stage, storage: StorageSettings, order: StageCall, out: Connection) -> None:
    """The child: one call of one stage, then what it took."""
    worker = Worker(stage, storage, 1)
    if (fault := worker.open(Rank())) is not None:
        out.send(fault)
        return
    opened = resident("VmRSS")
    for reply in worker.work(order):
        out.send(reply)
    out.send(Held(opened, resident("VmHWM")))


class Apart:
    """A pool that makes each call in a process of its own."""

    def __init__(self, name: str, stage: Stage, storage: StorageSettings, held: dict[str, Held]) -> None:
        self._name, self._stage, self._storage, self._held = name, stage, storage, held

    async def run(self, order: StageCall, on_progress: OnProgress) -> Any:
        return await asyncio.to_thread(self._run, order, on_progress)

    def _run(self, order: StageCall, on_progress: OnProgress) -> Any:
        here, there = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("spawn").Process(target=serve, args=(self._stage, self._storage, order, there))
        child.start()
        there.close()
        record: Any = None
        try:
            while not isinstance(reply := here.recv(), Held):
                if isinstance(reply, Failure):
                    raise RuntimeError(f"{self._name}: {reply.reason}\n{reply.trace}")
                if isinstance(reply, Done):
                    record = reply.record
                else:
                    on_progress(reply)
            self._held[self._name] = reply
        finally:
            here.close()
            child.join()
        return record

    def drain(self) -> None: ...

    async def close(self) -> None: ...


def dub(folder: Path, minutes: float, options: argparse.Namespace) -> dict[str, Held]:
    """Makes a film and says what each stage held."""
    catalogue = write_catalogue(folder, minutes * 60, *options.size)
    words = [f"catalogue={catalogue}", f"storage.root={folder / 'out'}", f"storage.cache={folder / 'node'}", "pools=inline", *options.set]
    held: dict[str, Held] = {}

    def apart(stages: Mapping[str, Stage], degree: int, pools: object, storage: StorageSettings, *_: object) -> dict[str, Apart]:
        return {name: Apart(name, stage, storage, held) for name, stage in stages.items()}

    with patch.object(driver, "open_pools", apart), ExitStack() as session:
        code = dispatch(checked(compose(words)), words, session)
    if code:
        raise RuntimeError(f"the film of {minutes:g} min was not made: exit code {code}")
    return held


def tell(short: dict[str, Held], long: dict[str, Held], minutes: tuple[float, float], size: tuple[int, int]) -> None:
    """Prints the table and what it is to be compared with."""
    table = Table("resident, MiB", "open", f"at most, {minutes[0]:g} min film", f"{minutes[1]:g} min", "ratio", "growth")
    for name, few in short.items():
        many = long[name]
        ratio, growth = many.peak / few.peak, (many.peak - few.peak) / MIB
        table.add_row(name, f"{few.opened / MIB:.0f}", f"{few.peak / MIB:.0f}", f"{many.peak / MIB:.0f}", f"{ratio:.3f}", f"{growth:+.0f}")
    console = Console(highlight=False)
    console.print(table)
    pixels = (minutes[1] - minutes[0]) * 60 * FPS * size[0] * size[1] * 3
    console.print(f"the film is {minutes[1] / minutes[0]:g} times as long; its frames alone would add {pixels / MIB:.0f} MiB as bytes, ", end="")
    console.print(f"{4 * pixels / MIB:.0f} MiB as 32-bit floats")
    worst = max(long, key=lambda name: long[name].peak / short[name].peak)
    console.print(f"largest ratio: {worst}, {long[worst].peak / short[worst].peak:.3f}; promised: {PROMISED} at most")


def main() -> None:
    """Makes both films and prints the peaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs=2, default=(1.0, 10.0), metavar=("SHORT", "LONG"), help="lengths of the films")
    parser.add_argument("--size", type=sides, default=(96, 144), help="height x width of the photograph, best one of the model's frame sizes")
    parser.add_argument("--set", nargs="*", default=list(QUICK), metavar="NAME=VALUE", help="settings of dub run; by default one step of one pass")
    options = parser.parse_args()
    lengths = options.minutes[0], options.minutes[1]
    with tempfile.TemporaryDirectory() as folder:
        short, long = (dub(Path(folder) / f"{minutes:g}", minutes, options) for minutes in lengths)
    tell(short, long, lengths, options.size)


if __name__ == "__main__":
    main()
