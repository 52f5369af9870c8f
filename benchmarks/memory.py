"""Measures whether memory grows with the length of the film: the peak resident size of each stage, for a short and a long film of one picture.

    python -m benchmarks.memory [--minutes 1 10] [--size 64x128] [--set NAME=VALUE ...]

The driver is that of the product. Each stage call runs in its own process, which reads its peak resident size from the kernel (VmHWM) at the end. The
peak includes the models, the codecs and memory that Python does not return to the system. The speech is synthesised. Linux only.
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

from benchmarks.command import QUICK, parse_frame_size, write_catalogue
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
MAX_RATIO = 1.1  # of the peaks of the long and the short film: the bound that the product states


@dataclass(frozen=True, slots=True)
class StageMemory:
    """Resident bytes of a stage's process."""

    opened: int  # after the stage was opened
    peak: int  # largest until the call ended


def resident_bytes(line: str) -> int:
    """The bytes of a line of this process's status: VmRSS is the current resident size, VmHWM its peak."""
    status = Path("/proc/self/status").read_text()
    return next(int(text.split()[1]) * 1024 for text in status.splitlines() if text.startswith(f"{line}:"))


def run_child(stage: Stage, storage: StorageSettings, call: StageCall, out: Connection) -> None:
    """Runs one call of one stage in the child process and sends its replies, then its StageMemory."""
    worker = Worker(stage, storage, 1)
    if (failure := worker.open(Rank())) is not None:
        out.send(failure)
        return
    opened = resident_bytes("VmRSS")
    for reply in worker.work(call):
        out.send(reply)
    out.send(StageMemory(opened, resident_bytes("VmHWM")))


class ProcessPool:
    """A pool that runs each call in its own process."""

    def __init__(self, name: str, stage: Stage, storage: StorageSettings, memory: dict[str, StageMemory]) -> None:
        self._name, self._stage, self._storage, self._memory = name, stage, storage, memory

    async def run(self, call: StageCall, on_progress: OnProgress) -> Any:
        return await asyncio.to_thread(self._run, call, on_progress)

    def _run(self, call: StageCall, on_progress: OnProgress) -> Any:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("spawn").Process(target=run_child, args=(self._stage, self._storage, call, sender))
        child.start()
        sender.close()
        record: Any = None
        try:
            while not isinstance(reply := receiver.recv(), StageMemory):
                if isinstance(reply, Failure):
                    raise RuntimeError(f"{self._name}: {reply.reason}\n{reply.trace}")
                if isinstance(reply, Done):
                    record = reply.record
                else:
                    on_progress(reply)
            self._memory[self._name] = reply
        finally:
            receiver.close()
            child.join()
        return record

    def drain(self) -> None: ...

    async def close(self) -> None: ...


def make_film(folder: Path, minutes: float, options: argparse.Namespace) -> dict[str, StageMemory]:
    """Makes a film and returns the memory of each stage."""
    catalogue = write_catalogue(folder, minutes * 60, *options.size)
    overrides = [f"catalogue={catalogue}", f"storage.root={folder / 'out'}", f"storage.cache={folder / 'node'}", "pools=inline", *options.set]
    memory: dict[str, StageMemory] = {}

    def open_process_pools(stages: Mapping[str, Stage], degree: int, pools: object, storage: StorageSettings, *_: object) -> dict[str, ProcessPool]:
        return {name: ProcessPool(name, stage, storage, memory) for name, stage in stages.items()}

    with patch.object(driver, "open_pools", open_process_pools), ExitStack() as session:
        code = dispatch(checked(compose(overrides)), overrides, session)
    if code:
        raise RuntimeError(f"the film of {minutes:g} min was not made: exit code {code}")
    return memory


def print_peaks(short: dict[str, StageMemory], long: dict[str, StageMemory], minutes: tuple[float, float], size: tuple[int, int]) -> None:
    """Prints the peaks of both films and, for comparison, the size of the frames by which they differ."""
    table = Table("resident, MiB", "open", f"peak, {minutes[0]:g} min film", f"peak, {minutes[1]:g} min film", "ratio", "growth")
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
    console.print(f"largest ratio: {worst}, {long[worst].peak / short[worst].peak:.3f}; bound: {MAX_RATIO}")


def main() -> None:
    """Makes both films and prints the peaks of their stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs=2, default=(1.0, 10.0), metavar=("SHORT", "LONG"), help="lengths of the films")
    parser.add_argument(
        "--size", type=parse_frame_size, default=(96, 144), help="height x width of the picture, preferably a frame size of the model"
    )
    parser.add_argument("--set", nargs="*", default=list(QUICK), metavar="NAME=VALUE", help="overrides of dub run; by default one step of one pass")
    options = parser.parse_args()
    lengths = options.minutes[0], options.minutes[1]
    with tempfile.TemporaryDirectory() as folder:
        short, long = (make_film(Path(folder) / f"{minutes:g}", minutes, options) for minutes in lengths)
    print_peaks(short, long, lengths, options.size)


if __name__ == "__main__":
    main()
