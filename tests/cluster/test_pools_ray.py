"""Pools on a real local Ray: results, parts, and everything that can happen to a process while it works."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from pooled import LONG_SECONDS, actor_pool_of, closing, gang_pool_of, gang_settings
from ray import cloudpickle

from infinitedub.launch.cluster import cluster
from infinitedub.pipeline.pools.calls import CallLabel, StageCall, Yielded
from infinitedub.pipeline.pools.circuit_breaker import CircuitBreaker
from infinitedub.pipeline.pools.failures import FailureClass, RetriesExhausted
from infinitedub.pipeline.pools.pool import Pool
from infinitedub.pipeline.pools.ray_group import GroupShape, RankWorker, RayGroup
from infinitedub.pipeline.pools.ray_nodes import alive_nodes
from infinitedub.pipeline.pools.retry import RetryPolicy
from infinitedub.pipeline.pools.room import Room
from infinitedub.pipeline.pools.settings import ActorSettings, ClusterSettings, RetrySettings
from infinitedub.pipeline.storage.storage import StorageSettings
from infinitedub.stages.contract import Files, Rank
from infinitedub.stages.errors import BadInput, ConfigError
from infinitedub.stages.records import Artifact, Chunk, Clip, Span
from infinitedub.stages.settings import Settings

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import a test module

RETRY = RetrySettings(
    storage=3, worker_lost=2, gang_lost=2, node_lost=2, host_oom=2, gpu_oom=2, numeric=2, code=1, backoff_seconds=0.01, backoff_limit_seconds=0.02
)
LOCAL = ClusterSettings(kind="local", address=None, autoscaling=False, cpus=2, object_store_bytes=100 * 2**20, log_level="error", worker_output=False)
ROOT = Path(__file__).parents[2]
PLACEMENT_SECONDS = 120.0


@pytest.fixture(scope="module", autouse=True)
def on_ray() -> Iterator[None]:
    with cluster(LOCAL):
        yield
    assert not ray.is_initialized()


@dataclass
class Diary:
    """What the stages of a test did, written to files since they are in other processes."""

    folder: Path

    def note(self, name: str, **facts: Any) -> int:
        """Writes down a deed; how often it was done before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        before = len(self.read(name))
        with (self.folder / name).open("a") as file:
            file.write(json.dumps({"pid": os.getpid(), "nanoseconds": time.monotonic_ns(), **facts}) + "\n")
        return before

    def read(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    async def written(self, name: str) -> list[dict[str, Any]]:
        """The deeds, once there is one."""
        while not (deeds := self.read(name)):
            await asyncio.sleep(0.02)
        return deeds


@dataclass
class FollowsOrders:
    """A stage whose first argument says what is to happen to its process."""

    diary: Diary
    config: Settings = field(default_factory=Settings)

    def open(self, rank: Rank) -> None:
        self.diary.note("opened", device=rank.device, threads=os.environ["OMP_NUM_THREADS"])

    def __call__(self, deed: str, name: str, *, files: Files) -> Any:
        before = self.diary.note(name)
        if deed == "refuse":
            raise BadInput(f"{name}: audio is 0 s long")
        if deed == "die" or (deed == "die once" and before == 0):
            os._exit(9)
        if deed == "bug":
            raise Unpicklable(name, 7)
        if deed == "hang" and before == 0:
            time.sleep(3600)
        if deed == "windows":
            return self._windows(name, files)
        return Span(0, len(name))

    def _windows(self, name: str, files: Files) -> Iterator[Chunk | Clip]:
        chunks = []
        for index in range(3):
            picture = files.scratch() / "picture.txt"
            picture.write_text(f"{name} {index}")
            chunks.append(Chunk(len(chunks), files.store(picture, "text"), 1))
            yield chunks[-1]
        yield Clip(0, Span(0, 3), tuple(chunks))

    def close(self) -> None:
        self.diary.note("closed")


class Unpicklable(Exception):
    def __init__(self, what: str, size: int) -> None:
        super().__init__(f"{what} of size {size}")


@dataclass
class AddsUp:
    """A stage for gangs: the ranks add up their numbers, window by window."""

    diary: Diary
    config: Settings = field(default_factory=Settings)

    def open(self, rank: Rank) -> None:
        import torch.distributed as dist

        self.rank = rank
        self.diary.note("opened", rank=rank.index, world=rank.world_size)
        if rank.world_size > 1:
            dist.init_process_group("gloo", init_method=rank.rendezvous, rank=rank.index, world_size=rank.world_size)

    def __call__(self, deed: str, name: str, *, files: Files) -> Iterator[Chunk | Clip]:
        before = self.diary.note(f"{name}.{self.rank.index}")
        if deed == "refuse":
            raise BadInput(f"{name}: no face")
        chunks = []
        for index in range(3):
            last = self.rank.index == self.rank.world_size - 1
            if index == 1 and last and (deed == "die" or (deed == "die once" and before == 0)):
                os._exit(9)
            if index == 1 and last and deed == "hang once" and before == 0:
                time.sleep(3600)
            if index == 1 and last and deed == "bug":
                raise KeyError("a bug on one rank")
            chunks.append(Chunk(index, Artifact(f"{name}/{index}", "", 0, "chunk/mkv"), self._sum(index)))
            yield chunks[-1]
        yield Clip(0, Span(0, 3), tuple(chunks))

    def _sum(self, index: int) -> int:
        import torch
        import torch.distributed as dist

        number = torch.tensor([float(self.rank.index + 1 + index)])
        if self.rank.world_size > 1:
            dist.all_reduce(number)
        return int(number)

    def close(self) -> None:
        self.diary.note("closed", rank=self.rank.index)


@pytest.fixture
def diary(tmp_path: Path) -> Diary:
    return Diary(tmp_path / "diary")


def actor_settings(actors: int = 1, cpus: float = 0.1, watchdog_seconds: float = LONG_SECONDS) -> ActorSettings:
    return ActorSettings(actors=actors, cpus=cpus, gpus=0, memory_bytes=None, threads=1, watchdog_seconds=watchdog_seconds)


def actor_pool(diary: Diary, storage_settings: StorageSettings, settings: ActorSettings, placement_seconds: float = PLACEMENT_SECONDS) -> Pool:
    return actor_pool_of(FollowsOrders(diary), settings, storage_settings, retry_policy(), placement_seconds)


def gang_pool(diary: Diary, storage_settings: StorageSettings, degree: int) -> Pool:
    settings = gang_settings(floor_seconds=20, settle_seconds=15)
    return gang_pool_of(AddsUp(diary), degree, settings, storage_settings, retry_policy())


def retry_policy() -> RetryPolicy:
    return RetryPolicy(RETRY, CircuitBreaker(100, print))


def call_of(deed: str, name: str, priority: float = 0.0, stage: str = "ingest") -> StageCall:
    return StageCall(stage, name, (deed, name), CallLabel(name), (priority,))


def ignore(part: Any) -> None:
    """For calls whose progress does not matter."""


def made(heard: list[Any]) -> list[Any]:
    """The records that a stage yielded."""
    return [progress.value for progress in heard if isinstance(progress, Yielded)]


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(pids: set[int]) -> bool:
    """Whether these processes end; Ray is asked to end them, not to wait for it."""
    for _ in range(200):
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def test_actors_give_records_and_parts_and_outlive_bad_input(diary: Diary, storage_settings: StorageSettings) -> None:
    pool = actor_pool(diary, storage_settings, actor_settings())
    heard: list[Any] = []

    async def work() -> None:
        assert await pool.run(call_of("", "four"), ignore) == Span(0, 4)
        with pytest.raises(BadInput, match=r"^five: audio is 0 s long$") as refused:
            await pool.run(call_of("refuse", "five"), ignore)
        assert type(refused.value) is BadInput
        clip = await pool.run(call_of("windows", "film"), heard.append)
        assert isinstance(clip, Clip)
        assert made(heard) == [*clip.chunks, clip]
        assert [Path(chunk.picture.uri).read_text() for chunk in clip.chunks] == ["film 0", "film 1", "film 2"]

    closing(pool, work())
    (opened,) = diary.read("opened")
    assert [deed["pid"] for deed in diary.read("closed")] == [opened["pid"]]  # the stage is closed before its process ends
    assert (opened["device"], opened["threads"]) == ("cpu", "1")
    assert {deed["pid"] for name in ("four", "five", "film") for deed in diary.read(name)} == {opened["pid"]}
    assert gone({opened["pid"]})


def test_a_committed_record_holds(diary: Diary, storage_settings: StorageSettings) -> None:
    pool = actor_pool(diary, storage_settings, actor_settings())

    async def work() -> list[Any]:
        first = StageCall("ingest", "key", ("", "four"), CallLabel("a"), (0.0,))
        later = StageCall("ingest", "key", ("", "longer"), CallLabel("b"), (0.0,))
        return [await pool.run(first, ignore), await pool.run(later, ignore)]

    assert closing(pool, work()) == [Span(0, 4), Span(0, 4)]


def test_lost_workers_are_replaced_and_poison_is_given_up(diary: Diary, storage_settings: StorageSettings) -> None:
    pool = actor_pool(diary, storage_settings, actor_settings(actors=2))

    async def work() -> list[Any]:
        deeds = {"poison": "die", "unlucky": "die once", "one": "", "two": "", "three": ""}
        return await asyncio.gather(*(pool.run(call_of(deed, name), ignore) for name, deed in deeds.items()), return_exceptions=True)

    poison, *others = closing(pool, work())
    assert isinstance(poison, RetriesExhausted)
    assert (poison.kind, poison.attempts) == (FailureClass.WORKER_LOST, 2)
    assert others == [Span(0, 7), Span(0, 3), Span(0, 3), Span(0, 5)]
    assert len({deed["pid"] for deed in diary.read("poison")}) == 2
    assert len({deed["pid"] for deed in diary.read("unlucky")}) == 2


def test_a_bug_comes_through_with_its_traceback_and_costs_the_process(diary: Diary, storage_settings: StorageSettings) -> None:
    pool = actor_pool(diary, storage_settings, actor_settings())

    async def work() -> RetriesExhausted:
        with pytest.raises(RetriesExhausted, match="Unpicklable: crash of size 7") as bug:
            await pool.run(call_of("bug", "crash"), ignore)
        assert await pool.run(call_of("", "four"), ignore) == Span(0, 4)
        return bug.value

    bug = closing(pool, work())
    assert (bug.kind, bug.attempts) == (FailureClass.CODE, 1)
    assert "raise Unpicklable(name, 7)" in bug.trace
    assert diary.read("crash")[0]["pid"] != diary.read("four")[0]["pid"]


def test_kill_9_and_silence_are_survived(diary: Diary, storage_settings: StorageSettings) -> None:
    pool = actor_pool(diary, storage_settings, actor_settings(watchdog_seconds=30))

    async def work() -> list[Any]:
        hit = asyncio.create_task(pool.run(call_of("hang", "shot"), ignore))
        os.kill((await diary.written("shot"))[0]["pid"], signal.SIGKILL)
        return [await hit, await pool.run(call_of("hang", "silent"), ignore)]

    assert closing(pool, work()) == [Span(0, 4), Span(0, 6)]
    assert len(diary.read("shot")) == len(diary.read("silent")) == 2


def test_a_cancelled_run_frees_its_place_and_ends_its_worker(diary: Diary, storage_settings: StorageSettings) -> None:
    pool = actor_pool(diary, storage_settings, actor_settings())

    async def work() -> None:
        stuck = asyncio.create_task(pool.run(call_of("hang", "stuck"), ignore))
        last = asyncio.create_task(pool.run(call_of("", "last", 2.0), ignore))
        soon = asyncio.create_task(pool.run(call_of("", "soon", 1.0), ignore))
        await diary.written("stuck")
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)
        assert stuck.cancelled()
        assert await soon == await last == Span(0, 4)

    closing(pool, work())
    assert gone({diary.read("stuck")[0]["pid"]})
    opened = diary.read("opened")
    assert len(opened) == 2
    assert diary.read("soon")[0]["nanoseconds"] < diary.read("last")[0]["nanoseconds"]


def test_close_breaks_off_what_is_going_on(diary: Diary, storage_settings: StorageSettings) -> None:
    pool = actor_pool(diary, storage_settings, actor_settings())

    async def work() -> None:
        runs = [asyncio.create_task(pool.run(call_of("hang", "stuck"), ignore)), asyncio.create_task(pool.run(call_of("", "waits"), ignore))]
        await diary.written("stuck")
        await pool.close()
        await asyncio.wait_for(asyncio.gather(*runs, return_exceptions=True), 60)
        assert all(run.cancelled() for run in runs)

    closing(pool, work())
    assert gone({diary.read("stuck")[0]["pid"]})
    assert not diary.read("waits")


def test_no_room_is_said(diary: Diary, storage_settings: StorageSettings) -> None:
    pool = actor_pool(diary, storage_settings, actor_settings(cpus=64), placement_seconds=1)
    with pytest.raises(ConfigError, match=r"ingest: no node had room for 64 CPU, 0 GPU within 1 s; the cluster has .*: 2 CPU, 0 GPU.*pools\.ingest"):
        closing(pool, pool.run(call_of("", "big"), ignore))


@pytest.mark.parametrize("degree", [1, 2])
def test_a_gang_works_together(degree: int, diary: Diary, storage_settings: StorageSettings) -> None:
    pool = gang_pool(diary, storage_settings, degree)
    heard: list[Any] = []

    async def work() -> Any:
        with pytest.raises(BadInput, match=r"^portrait: no face$"):
            await pool.run(call_of("refuse", "portrait", stage="generate"), ignore)
        return await pool.run(call_of("", "film", stage="generate"), heard.append)

    clip = closing(pool, work())
    ranks = range(1, degree + 1)
    assert [chunk.frames for chunk in clip.chunks] == [sum(rank + window for rank in ranks) for window in range(3)]
    assert made(heard) == [*clip.chunks, clip]
    opened = diary.read("opened")
    assert sorted((deed["rank"], deed["world"]) for deed in opened) == [(rank, degree) for rank in range(degree)]  # refused, but not rebuilt
    assert sorted(deed["rank"] for deed in diary.read("closed")) == list(range(degree))
    assert gone({deed["pid"] for deed in opened})
    assert {group["state"] for group in ray.util.placement_group_table().values()} == {"REMOVED"}


def test_a_broken_gang_is_rebuilt_and_the_order_tried_again(diary: Diary, storage_settings: StorageSettings) -> None:
    pool = gang_pool(diary, storage_settings, 2)
    heard: list[Any] = []

    async def work() -> list[Any]:
        return [await pool.run(call_of(deed, deed, stage="generate"), heard.append) for deed in ("die once", "hang once")]

    clips = closing(pool, work())
    for clip in clips:
        assert [chunk.frames for chunk in clip.chunks] == [3, 5, 7]
    assert made(heard) == [
        part for clip in clips for part in (clip.chunks[0], *clip.chunks, clip)
    ]  # a window made before the loss is heard of at once
    opened = diary.read("opened")
    assert sorted(deed["rank"] for deed in opened) == [0, 0, 0, 1, 1, 1]
    assert len({deed["pid"] for deed in opened}) == 6


def test_what_breaks_two_gangs_is_given_up_and_a_bug_on_one_rank_at_once(diary: Diary, storage_settings: StorageSettings) -> None:
    pool = gang_pool(diary, storage_settings, 2)

    async def work() -> list[Any]:
        jobs = [("die", "poison", 0.0), ("", "film", 1.0), ("bug", "bug", 2.0)]
        return await asyncio.gather(
            *(pool.run(call_of(deed, name, priority, "generate"), ignore) for deed, name, priority in jobs), return_exceptions=True
        )

    poison, clip, bug = closing(pool, work())
    assert isinstance(poison, RetriesExhausted)
    assert (poison.kind, poison.attempts) == (FailureClass.GANG_LOST, 2)
    assert isinstance(bug, RetriesExhausted)
    assert (bug.kind, bug.attempts) == (FailureClass.CODE, 1)
    assert "a bug on one rank" in bug.trace
    assert [chunk.frames for chunk in clip.chunks] == [3, 5, 7]


class HangingHost(RankWorker):
    """A first rank that hangs before it has opened the store, as one that hangs in an import does."""

    def host_store(self) -> str:
        time.sleep(3600)
        return ""


def test_a_rank_that_hangs_before_the_others_can_meet_it_is_given_up(diary: Diary, storage_settings: StorageSettings) -> None:
    settings = gang_settings(floor_seconds=20, settle_seconds=1).model_copy(update={"open_seconds": 3.0})
    shape = replace(GroupShape.of_gang(settings, 2), worker=HangingHost)
    group = RayGroup("generate", AddsUp(diary), shape, storage_settings, PLACEMENT_SECONDS, "", Room(alive_nodes))
    pool = Pool([group], retry_policy(), PLACEMENT_SECONDS)
    with pytest.raises(RetriesExhausted, match="made no progress for 3 s") as given_up:
        closing(pool, pool.run(call_of("", "film", stage="generate"), ignore))
    assert (given_up.value.kind, given_up.value.attempts) == (FailureClass.GANG_LOST, 2)
    assert "host_store" in given_up.value.trace  # where it hangs


def test_an_existing_cluster_is_joined_and_left_alone() -> None:
    address = ray.get_runtime_context().gcs_address
    joins = f"""
import ray
from infinitedub.launch.cluster import cluster
from infinitedub.pipeline.pools.settings import ClusterSettings

settings = ClusterSettings.model_validate({{**{LOCAL.model_dump()!r}, "kind": "existing", "address": {address!r}}})
with cluster(settings):
    print(ray.cluster_resources()["CPU"])
print(ray.is_initialized())
"""
    joined = subprocess.run([sys.executable, "-c", joins], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert joined.stdout.split() == ["2.0", "False"], joined.stderr
    assert ray.cluster_resources()["CPU"] == 2


def test_a_cluster_within_a_cluster_is_the_same() -> None:
    with cluster(LOCAL):
        assert ray.cluster_resources()["CPU"] == 2
    assert ray.is_initialized()
