"""Every class of failure, really injected, on a cluster of several nodes: what is tried again, what is given up, what a dead letter will say."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from pooled import LONG_SECONDS, actor_pool_of, closing, gang_pool_of, gang_settings
from ray import cloudpickle
from ray.cluster_utils import Cluster

from infinitedub.launch.cluster import cluster
from infinitedub.pipeline.pools.calls import CallLabel, StageCall, Yielded
from infinitedub.pipeline.pools.circuit_breaker import CircuitBreaker
from infinitedub.pipeline.pools.failures import FailureClass, RetriesExhausted
from infinitedub.pipeline.pools.pool import Pool
from infinitedub.pipeline.pools.retry import RetryPolicy
from infinitedub.pipeline.pools.settings import ActorSettings, ClusterSettings, RetrySettings
from infinitedub.pipeline.storage.storage import StorageSettings
from infinitedub.stages.contract import Files, Rank
from infinitedub.stages.records import Artifact, Chunk, Clip, Span
from infinitedub.stages.settings import Settings

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import a test module

RETRY = RetrySettings(
    storage=2,
    worker_lost=3,
    gang_lost=2,
    node_lost=2,
    host_oom=2,
    gpu_oom=2,
    numeric=2,
    code=1,
    backoff_seconds=0.01,
    backoff_limit_seconds=0.02,
)
OBJECT_STORE = 100 * 2**20
CHUNKS = tuple(Chunk(index, Artifact(f"window {index}", "", 0, "chunk/mkv"), 1) for index in range(3))


@dataclass
class Nodes:
    """A cluster whose head takes no work: what works on the others can be lost with them."""

    cluster: Cluster
    workers: list[Any] = field(default_factory=list)

    def add(self) -> None:
        self.workers.append(self.cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE))

    def lose(self, node_id: str) -> None:
        node = next(node for node in self.workers if node.node_id == node_id)
        self.workers.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_health_check_period_ms", "1000")  # a lost node is noticed within seconds
        patch.setenv("RAY_health_check_failure_threshold", "3")
        patch.setenv("RAY_timeout_ms_task_wait_for_death_info", "10000")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # not behind everything else that the machine does
        head = {"num_cpus": 0, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
        several = Nodes(Cluster(initialize_head=True, head_node_args=head))
        several.add()
        ray.init(several.cluster.address, log_to_driver=False, logging_level="error")
        yield several
        ray.shutdown()
        several.cluster.shutdown()


@dataclass
class Faulty:
    """A stage whose order says what goes wrong, and how often. Notes each call, since it is in another process."""

    diary: Path
    config: Settings = field(default_factory=Settings)

    def open(self, rank: Rank) -> None:
        self.rank = rank

    def __call__(self, fault: str, name: str, times: int, *, files: Files) -> Iterator[Chunk | Clip]:
        before = len(read(self.diary, name))
        node = ray.get_runtime_context().get_node_id()
        with (self.diary / name).open("a") as file:
            file.write(json.dumps({"pid": os.getpid(), "node": node, "rank": self.rank.index, "low_memory": self.rank.low_memory}) + "\n")
        if fault not in ("die", "hog"):  # whether a killed process's last window is heard of is chance, and one that is renews the budget
            yield CHUNKS[0]
        if before < times * self.rank.world_size:
            getattr(self, fault)()
        yield from CHUNKS[1:]
        yield Clip(0, Span(0, 3), CHUNKS)

    def nothing(self) -> None: ...

    def hang(self) -> None:
        if self.rank.index == self.rank.world_size - 1:
            stuck_in_a_collective()
        time.sleep(3600)

    def die(self) -> None:
        print("the last thing it said", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    def gpu_oom(self) -> None:
        import torch

        if not self.rank.low_memory:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def gpu_oom_always(self) -> None:
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def no_address_space(self) -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 2**28, resource.RLIM_INFINITY))
        bytearray(2**33)

    def hog(self) -> None:
        taken = []
        allowed = float(os.environ["RAY_memory_usage_threshold"])  # noqa: SIM112 - as Ray spells it
        limit = allowed * psutil.virtual_memory().total + 2**30
        while (memory := psutil.virtual_memory()).available > 2**30:  # the last of it is left to others
            if memory.total - memory.available < limit:  # of the whole machine: what others give back is taken too
                taken.append(b"\x01" * 2**26)
            time.sleep(0.05)
        raise AssertionError("nobody ended this process")

    def nan(self) -> None:
        latents = np.float32("inf") * np.zeros(4)
        if not np.isfinite(latents).all():
            raise FloatingPointError("the latents hold NaN or infinity after denoising")

    def bug(self) -> None:
        raise KeyError(os.getpid())

    def close(self) -> None: ...


def stuck_in_a_collective() -> None:
    time.sleep(3600)


def read(diary: Path, name: str) -> list[dict[str, Any]]:
    """What was noted of an order's calls."""
    path = diary / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    folder = tmp_path / "diary"
    folder.mkdir()
    return folder


def gangs(diary: Path, storage_settings: StorageSettings, degree: int = 1, floor_seconds: float = LONG_SECONDS, stop: Any = print) -> Pool:
    settings = gang_settings(floor_seconds=floor_seconds, settle_seconds=2)
    retry = RetryPolicy(RETRY, CircuitBreaker(3, stop))
    return gang_pool_of(Faulty(diary), degree, settings, storage_settings, retry)


def actors(diary: Path, storage_settings: StorageSettings) -> Pool:
    settings = ActorSettings(actors=1, cpus=0.1, gpus=0, memory_bytes=None, threads=1, watchdog_seconds=LONG_SECONDS)
    retry = RetryPolicy(RETRY, CircuitBreaker(3, print))
    return actor_pool_of(Faulty(diary), settings, storage_settings, retry)


def call_of(fault: str, name: str, times: int = 1000) -> StageCall:
    """An order that goes wrong so many times, and then well."""
    return StageCall("generate", name, (fault, name, times), CallLabel(name), (0.0,))


def ends(pool: Pool, *orders: StageCall) -> list[Any]:
    """How these orders end, one after the other."""

    async def work() -> list[Any]:
        return [(await asyncio.gather(pool.run(each, lambda part: None), return_exceptions=True))[0] for each in orders]

    return closing(pool, work())


def told(error: Any) -> tuple[FailureClass, int]:
    """The class and the attempts that a dead letter will name."""
    assert isinstance(error, RetriesExhausted), error
    return error.kind, error.attempts


FILM = Clip(0, Span(0, 3), CHUNKS)


def test_poison_is_given_up_after_two_gangs_and_the_rest_goes_on(nodes: Nodes, diary: Path, storage_settings: StorageSettings) -> None:
    poison, good = ends(gangs(diary, storage_settings), call_of("die", "poison"), call_of("nothing", "good"))
    assert told(poison) == (FailureClass.GANG_LOST, 2)
    assert poison.trace.splitlines()[-1] == "the last thing it said"
    assert len({call["pid"] for call in read(diary, "poison")}) == 2
    assert good == FILM


def test_what_runs_out_of_gpu_memory_gets_by_with_less_or_is_given_up(nodes: Nodes, diary: Path, storage_settings: StorageSettings) -> None:
    pool = gangs(diary, storage_settings)
    orders = call_of("gpu_oom", "large"), call_of("nothing", "next"), call_of("gpu_oom_always", "too large")
    large, after, too_large = ends(pool, *orders)
    assert large == after == FILM
    tight, thrifty = read(diary, "large")
    assert (tight["low_memory"], thrifty["low_memory"]) == (False, True)
    assert tight["pid"] != thrifty["pid"] == read(diary, "next")[0]["pid"]  # the thrifty gang is kept
    assert told(too_large) == (FailureClass.GPU_OOM, 2)
    assert "OutOfMemoryError" in too_large.trace


def test_nan_is_tried_once_more(nodes: Nodes, diary: Path, storage_settings: StorageSettings) -> None:
    once, always = ends(gangs(diary, storage_settings), call_of("nan", "once", times=1), call_of("nan", "always"))
    assert once == FILM
    assert told(always) == (FailureClass.NUMERIC, 2)
    assert len(read(diary, "always")) == 2
    assert "NaN" in str(always)


def test_memory_that_the_machine_refuses_is_told_from_other_losses(nodes: Nodes, diary: Path, storage_settings: StorageSettings) -> None:
    once, always = ends(actors(diary, storage_settings), call_of("no_address_space", "once", times=1), call_of("no_address_space", "always"))
    assert once == FILM
    assert told(always) == (FailureClass.HOST_OOM, 2)
    assert "MemoryError" in always.trace


def test_a_rank_that_hangs_is_noticed_by_the_pace_of_earlier_windows(nodes: Nodes, diary: Path, storage_settings: StorageSettings) -> None:
    (stuck,) = ends(gangs(diary, storage_settings, degree=2, floor_seconds=8), call_of("hang", "stuck"))
    assert told(stuck) == (FailureClass.GANG_LOST, 2)
    silence = re.search(r"made no progress for (\S+) s", str(stuck))
    assert silence is not None and 8 <= float(silence[1]) < LONG_SECONDS  # the floor, or learnt from a slow first window; not the longest bound
    assert "1: " in stuck.trace
    assert "stuck_in_a_collective" in stuck.trace  # where each rank stands


def test_the_same_bug_everywhere_stops_the_run(nodes: Nodes, diary: Path, storage_settings: StorageSettings) -> None:
    reasons: list[str] = []
    bugs = ends(gangs(diary, storage_settings, stop=reasons.append), *(call_of("bug", name) for name in "abc"))
    assert [told(bug) for bug in bugs] == [(FailureClass.CODE, 1)] * 3
    (reason,) = reasons
    assert "generate failed for 3 calls with the same error" in reason
    assert "KeyError" in reason


@pytest.mark.parametrize("degree", [0, 2])
def test_work_on_a_lost_node_goes_on_elsewhere(degree: int, nodes: Nodes, diary: Path, storage_settings: StorageSettings) -> None:
    pool = gangs(diary, storage_settings, degree) if degree else actors(diary, storage_settings)
    heard: list[Any] = []

    async def work() -> Any:
        begun = asyncio.Event()

        def on_progress(part: Any) -> None:
            heard.append(part)
            if isinstance(part, Yielded):
                begun.set()

        film = asyncio.create_task(pool.run(call_of("hang", "film", times=1), on_progress))
        await begun.wait()
        nodes.add()  # in this thread, as Ray asks for
        nodes.lose(read(diary, "film")[0]["node"])
        return await film

    assert closing(pool, work()) == FILM
    first, last = read(diary, "film")[0]["node"], read(diary, "film")[-1]["node"]
    assert first != last
    assert [progress.value for progress in heard if isinstance(progress, Yielded)] == [CHUNKS[0], *CHUNKS, FILM]


def test_a_process_that_eats_its_machines_memory_is_ended_and_given_up(
    diary: Path, storage_settings: StorageSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = psutil.virtual_memory()
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{(memory.total - memory.available + 1.5 * 2**30) / memory.total:.4f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    if ray.is_initialized():
        ray.shutdown()
    local = ClusterSettings(
        kind="local", address=None, autoscaling=False, cpus=1, object_store_bytes=OBJECT_STORE, log_level="error", worker_output=False
    )
    with cluster(local):
        (hog,) = ends(actors(diary, storage_settings), call_of("hog", "hog"))
    assert told(hog) == (FailureClass.HOST_OOM, 2)
    assert "its machine ran out of memory" in str(hog)
