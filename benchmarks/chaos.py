"""A catalogue dubbed while everything around it breaks, and whether the films are what they would have been.

    python -m benchmarks.chaos [--minutes 10] [--seed 0] [--nodes 2]

A cluster of several nodes on this machine, results on an S3 server (moto) behind a proxy that makes bad weather, the `dub` command in its own
process. Ranks, workers, nodes and the driver are ended with kill -9, the driver is told to stop, and the storage fails, one after the other in an
order drawn from the seed. A driver that has ended before all is done is followed by the same command. At the end of each round every film has to be
there, with the bits of a calm run, and every dead letter has to be for the one job whose input is broken on purpose; then the next round begins on
an empty root.

What is done and in which order depends on the seed alone; which process it meets, and in which second of its life, on the machine as well.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "cluster"))  # the servers that the tests use

from proxy import FaultProxy, FaultRates  # noqa: E402
from servers import S3Server, start_moto  # noqa: E402

DEMO = ROOT / "assets" / "demo"
CATALOGUE: tuple[dict[str, Any], ...] = (
    {"id": "portrait", "source": "astronaut.jpg", "speech": "guest.flac", "seed": 7},
    {"id": "footage", "source": "footage.mp4", "speech": "report.flac", "length": "video", "seed": 7},
    {"id": "broken", "source": "broken.mp4", "speech": "guest.flac"},
    {"id": "again", "source": "footage.mp4", "speech": "guest.flac", "length": "video", "seed": 8},
)
BROKEN = "broken"
SETTINGS = ("generate.sampler.steps=1",)
POOLS = ("pools.jobs_in_flight=2", "pools.ingest.actors=1", "pools.placement_seconds=120", "pools.retry.backoff_limit_seconds=5")
KINDS = ("rank", "worker", "node", "driver", "storage", "stop")
OBJECT_STORE = 100 << 20
GAP_SECONDS = (3.0, 9.0)  # between two faults
STORM_REQUESTS = (5, 20)  # that meet a fault before the weather is fair again
STORM_SHARE = 0.25  # of requests that meet one
TARGET_SECONDS = 120.0  # to wait for a process of the kind that is to be killed, or for requests to be struck
STARTS = 60  # of the same command, at most, in a round
DONE, SOME_FAILED = 0, 2


class Lost(Exception):
    """A promise was broken."""


@dataclass
class Tally:
    """What was done to the run, and what became of it."""

    injected: Counter[str] = field(default_factory=Counter)
    survived: Counter[str] = field(default_factory=Counter)
    storage: Counter[str] = field(default_factory=Counter)  # faults of single requests, by kind
    rounds: int = 0
    films: int = 0
    starts: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class ChaosWorkspace:
    """A folder with a catalogue of drawn faces, footage with cuts, and one file that is no film."""

    folder: Path
    rows: Sequence[dict[str, Any]] = CATALOGUE

    def __post_init__(self) -> None:
        for path in DEMO.iterdir():
            if path.suffix in (".jpg", ".png", ".flac", ".mp4"):
                (self.folder / path.name).write_bytes(path.read_bytes())
        (self.folder / "broken.mp4").write_text("this is no film")
        self.catalogue.write_text("".join(json.dumps(row) + "\n" for row in self.rows))

    @property
    def catalogue(self) -> Path:
        return self.folder / "catalogue.jsonl"

    def command(self, *words: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "infinitedub.launch.cli",
            "run",
            f"catalogue={self.catalogue}",
            f"storage.cache={self.folder / 'node'}",
            *SETTINGS,
            *words,
        ]


def calm_films(workspace: ChaosWorkspace) -> dict[str, str]:
    """Sha256 of each film of an undisturbed run: in one process, on a local folder, without a cluster."""
    out = workspace.folder / "calm"
    done = subprocess.run(
        workspace.command("pools=inline", f"storage.root={out}"), cwd=workspace.folder, check=False, capture_output=True, text=True, timeout=1800
    )
    if done.returncode != SOME_FAILED:
        raise RuntimeError(f"the calm run ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in (out / "films").glob("*.mp4")}


class Nodes:
    """A Ray cluster of processes of this machine. The head takes no work; the others come and go."""

    def __init__(self, count: int) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._workers: list[Any] = []
        for _ in range(count):
            self.add()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> None:
        self._workers.append(self._cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE))

    def processes(self, kind: str) -> list[psutil.Process]:
        """The actors of a class (`RankWorker`; `RayWorker` for other stages) on all nodes, oldest first; `RankWorker.work`: with a call."""
        found = [process for node in self._workers for process in self._children(node) if _name(process).startswith(f"ray::{kind}")]
        return sorted(found, key=lambda process: process.pid)

    def lose(self, random: Random) -> None:
        """Ends every process of a node that has work, if one has, and puts an empty one in its place."""
        busy = [node for node in self._workers if any(_name(process).startswith("ray::") for process in self._children(node))]
        node = random.choice(busy or self._workers)
        for process in self._children(node):
            with suppress(psutil.Error):
                process.kill()
        self._workers.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)
        self.add()

    def close(self) -> None:
        self._cluster.shutdown()

    @staticmethod
    def _children(node: Any) -> list[psutil.Process]:
        found = []
        for raylet in node.all_processes.get("raylet", []):
            with suppress(psutil.Error):
                found += psutil.Process(raylet.process.pid).children(recursive=True)
        return found


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


@contextmanager
def environment(server: S3Server) -> Iterator[None]:
    """What every node of the cluster inherits: credentials, where the code is, and patience fit for a small machine."""
    wanted = {
        **server.env,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "10",
        "RAY_timeout_ms_task_wait_for_death_info": "10000",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # Ray's 15 would starve its workers where this machine has anything else to do
        "OMP_NUM_THREADS": "1",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class Driver:
    """The `dub` command, started again until all is done."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._command, self._folder = command, folder
        self.log = folder / "driver.log"
        self.log.write_text("")
        self.starts = 0
        self.expected = False  # whether the end of the process is our doing
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Driver":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        self.starts += 1
        self.expected = False
        with self.log.open("ab") as out:
            out.write(f"--- start {self.starts}\n".encode())
            out.flush()
            self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=out, stderr=subprocess.STDOUT)

    def send(self, number: signal.Signals) -> None:
        self.expected = True
        self._running.send_signal(number)

    def over(self, failed: Callable[[], set[str]]) -> bool:
        """Whether all is done. Starts the next one where it is not, as whoever keeps watch over a run would."""
        code = self._running.poll()
        if code is None:
            return False
        if code == DONE or (code == SOME_FAILED and failed() <= {BROKEN}):
            return True
        if self.starts >= STARTS:
            raise Lost(f"not done after {self.starts} starts, the last one ended with {code}:\n{self.tail()}")
        self._start()
        return False

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-6000:]

    @property
    def _running(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None
        return self._process


class Chaos:
    """What goes wrong: each kind once in every six faults, in an order drawn from the seed."""

    def __init__(self, seed: int, nodes: Nodes, proxy: FaultProxy, tally: Tally, console: Console) -> None:
        self._random, self._order = Random(seed), Random(seed)
        self._nodes, self._proxy, self._tally, self._console = nodes, proxy, tally, console
        self._deck: list[str] = []
        self._begun = time.monotonic()

    def next_gap(self) -> float:
        return self._random.uniform(*GAP_SECONDS)

    def strike(self, driver: Driver, over: Callable[[], bool]) -> str | None:
        """Does the next thing; its kind, or None where the run ended before there was anything to do it to."""
        if not self._deck:
            self._deck = self._order.sample(KINDS, len(KINDS))
        kind = self._deck.pop()
        if not getattr(self, f"_{kind}")(driver, over):
            self._deck.append(kind)  # later
            return None
        self._tally.injected[kind] += 1
        self._console.print(f"{time.monotonic() - self._begun:6.1f} s  {kind}", highlight=False)
        return kind

    def _rank(self, driver: Driver, over: Callable[[], bool]) -> bool:
        return self._kill_one("RankWorker.work", over)

    def _worker(self, driver: Driver, over: Callable[[], bool]) -> bool:
        return self._kill_one("RayWorker", over)

    def _node(self, driver: Driver, over: Callable[[], bool]) -> bool:
        self._nodes.lose(self._random)
        return True

    def _driver(self, driver: Driver, over: Callable[[], bool]) -> bool:
        driver.send(signal.SIGKILL)
        return True

    def _stop(self, driver: Driver, over: Callable[[], bool]) -> bool:
        driver.send(signal.SIGTERM)
        return True

    def _storage(self, driver: Driver, over: Callable[[], bool]) -> bool:
        wanted = self._proxy.injected.total() + self._random.randint(*STORM_REQUESTS)
        with self._proxy.fault_rates(FaultRates(share=STORM_SHARE)):
            return self._until(lambda: self._proxy.injected.total() >= wanted, over)

    def _kill_one(self, kind: str, over: Callable[[], bool]) -> bool:
        choice = self._random.random()

        def kill() -> bool:
            found = self._nodes.processes(kind)
            with suppress(psutil.NoSuchProcess):
                if found:
                    found[int(choice * len(found))].kill()
                    return True
            return False

        return self._until(kill, over)

    @staticmethod
    def _until(done: Callable[[], bool], over: Callable[[], bool]) -> bool:
        """Whether it was done before patience, or the run, was at its end."""
        end = time.monotonic() + TARGET_SECONDS
        while time.monotonic() < end and not over():
            if done():
                return True
            time.sleep(0.1)
        return False


def dead_jobs(server: S3Server, bucket: str) -> set[str]:
    """Jobs with a dead letter of the latest run; for a broken input, as only that one should have."""
    filesystem = server.filesystem()
    latest = max(filesystem.ls(f"{bucket}/dub/runs", detail=False), default="")
    letters = [json.loads(filesystem.cat_file(name)) for name in filesystem.glob(f"{latest}/dead/*.json")]
    return {letter["job"] if letter["kind"] == "input" else f"{letter['job']} ({letter['kind']})" for letter in letters}


def check(server: S3Server, bucket: str, calm: dict[str, str], driver: Driver) -> None:
    """Raises Lost unless every film is there with its bits and its sidecar, and nothing else is."""
    filesystem = server.filesystem()
    found = {name.rsplit("/", 1)[-1] for name in filesystem.ls(f"{bucket}/dub/films", detail=False)}
    wanted = {f"{job}{ending}" for job in calm for ending in (".mp4", ".json")}
    if found != wanted:
        raise Lost(f"films are {sorted(found)}, wanted {sorted(wanted)}\n{driver.tail()}")
    for job, digest in calm.items():
        film = hashlib.sha256(filesystem.cat_file(f"{bucket}/dub/films/{job}.mp4")).hexdigest()
        told = json.loads(filesystem.cat_file(f"{bucket}/dub/films/{job}.json"))["film"]["sha256"]
        if not film == told == digest:
            raise Lost(f"{job}: the film is {film}, its sidecar says {told}, the calm run made {digest}")
    if (dead := dead_jobs(server, bucket)) != {BROKEN}:
        raise Lost(f"dead letters for {sorted(dead)}, wanted {BROKEN} alone\n{driver.tail()}")


def one_round(
    workspace: ChaosWorkspace,
    calm: dict[str, str],
    server: S3Server,
    proxy: FaultProxy,
    nodes: Nodes,
    chaos: Chaos,
    tally: Tally,
    more: Callable[[], bool],
) -> None:
    """The catalogue on an empty root, disturbed as long as there is to be `more`. Raises Lost."""
    bucket = server.bucket()
    words = [*server.overrides(bucket), f"storage.options.s3.endpoint_url={proxy.endpoint}", "cluster=existing", f"cluster.address={nodes.address}"]
    done: Counter[str] = Counter()
    with Driver(workspace.command(*POOLS, *words), workspace.folder) as driver:

        def over() -> bool:
            return driver.over(lambda: dead_jobs(server, bucket))

        while not over():
            pause = time.monotonic() + (chaos.next_gap() if more() else 0.2)
            while time.monotonic() < pause and not over():
                time.sleep(0.1)
            if more() and not over() and (kind := chaos.strike(driver, over)) is not None:
                done[kind] += 1
        check(server, bucket, calm, driver)
        tally.starts += driver.starts
    tally.survived += done
    tally.rounds += 1
    tally.films += len(calm)


def soak(workspace: ChaosWorkspace, seed: int, nodes_count: int, more: Callable[[Tally], bool], console: Console) -> Tally:
    """Rounds of chaos as long as there is to be `more`, one at least. Raises Lost where a film is not what it should be."""
    begun = time.monotonic()
    calm = calm_films(workspace)
    console.print(f"calm run: {len(calm)} films in {time.monotonic() - begun:.0f} s", highlight=False)
    tally = Tally()
    begun = time.monotonic()
    logs = workspace.folder / "servers"
    logs.mkdir()
    server, processes = start_moto(logs)
    try:
        with environment(server), FaultProxy(server.endpoint, seed=seed) as proxy:
            nodes = Nodes(nodes_count)
            try:
                chaos = Chaos(seed, nodes, proxy, tally, console)
                while not tally.rounds or more(tally):
                    one_round(workspace, calm, server, proxy, nodes, chaos, tally, lambda: more(tally))
            finally:
                nodes.close()
            tally.storage = Counter({str(fault): count for fault, count in proxy.injected.items()})
    finally:
        processes.stop()
    tally.seconds = time.monotonic() - begun
    return tally


def tell(tally: Tally, console: Console) -> None:
    """Prints what was done and survived."""
    table = Table("fault", "injected", "survived")
    for kind in KINDS:
        table.add_row(kind, str(tally.injected[kind]), str(tally.survived[kind]))
    console.print(table)
    requests = ", ".join(f"{count} {kind}" for kind, count in sorted(tally.storage.items()))
    console.print(f"storage, by request: {requests or 'none'}", highlight=False)
    console.print(
        f"{tally.rounds} rounds, {tally.films} films with the bits of the calm run, {tally.starts} starts of the command, {tally.seconds:.0f} s",
        highlight=False,
    )


def main() -> int:
    """Runs the soak; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to go on disturbing; the last round is then finished in peace")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=2, help="nodes that take work")
    options = parser.parse_args()
    console = Console()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster and the server are ended as well
    end = time.monotonic() + options.minutes * 60
    with tempfile.TemporaryDirectory() as folder:
        try:
            tally = soak(ChaosWorkspace(Path(folder)), options.seed, options.nodes, lambda _: time.monotonic() < end, console)
        except Lost as lost:
            console.print(f"LOST: {lost}", markup=False)
            return 1
    tell(tally, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
