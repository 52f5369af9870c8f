"""A worker and its pool in this process: what is committed, what is passed on, what a failure costs."""

import asyncio
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from infinitedub.pipeline.pools import open_pools
from infinitedub.pipeline.pools import worker as worker_module
from infinitedub.pipeline.pools.calls import CallLabel, StageCall, Yielded
from infinitedub.pipeline.pools.circuit_breaker import CircuitBreaker
from infinitedub.pipeline.pools.failures import FailureClass, RetriesExhausted
from infinitedub.pipeline.pools.pool import Pool
from infinitedub.pipeline.pools.settings import InlineSettings, RetrySettings
from infinitedub.pipeline.pools.worker import Done, Worker
from infinitedub.pipeline.state.ledger import Ledger
from infinitedub.pipeline.storage.storage import Storage, StorageSettings
from infinitedub.pipeline.storage.weights import digest_of
from infinitedub.stages.contract import Files, Rank
from infinitedub.stages.errors import BadInput, ConfigError, Transient
from infinitedub.stages.records import Artifact, Chunk, Clip, Span
from infinitedub.stages.settings import Settings, Weights

RETRY = RetrySettings(
    storage=3, worker_lost=1, gang_lost=1, node_lost=1, host_oom=2, gpu_oom=2, numeric=1, code=1, backoff_seconds=0.001, backoff_limit_seconds=0.002
)
BREAKER = CircuitBreaker(1000, print)
INLINE = InlineSettings(kind="inline", jobs_in_flight=1, threads=1, same_error_limit=3, retry=RETRY)
CHUNKS = tuple(Chunk(index, Artifact(f"chunk {index}", "", 0, "chunk/mkv"), index) for index in range(3))
CLIP = Clip(0, Span(0, 3), CHUNKS)


class Scripted:
    """A stage that does what its script says, call by call: raises errors, returns the rest."""

    config: Settings = Settings()

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.calls = 0
        self.opened = 0
        self.closed = 0

    def open(self, rank: Rank) -> None:
        self.opened += 1

    def __call__(self, *records: Any, files: Files) -> Any:
        self.calls += 1
        deed = self.script.pop(0)
        if isinstance(deed, Exception):
            raise deed
        return deed

    def close(self) -> None:
        self.closed += 1


def windows(*parts: Any) -> Iterator[Any]:
    for part in parts:
        if isinstance(part, Exception):
            raise part
        yield part


def call_of(key: str = "k", stage: str = "generate", priority: float = 0.0) -> StageCall:
    return StageCall(stage, key, (), CallLabel("job"), (priority,))


def pool_of(stage: Scripted, storage_settings: StorageSettings) -> Pool:
    return open_pools({"generate": stage}, 1, INLINE, storage_settings, BREAKER, {})["generate"]


def made(pool: Pool, *calls: StageCall) -> tuple[list[Any], list[Any]]:
    """The results of the calls, one after the other, and the records that were yielded."""
    heard: list[Any] = []

    async def main() -> list[Any]:
        done = []
        for call in calls:
            done += await asyncio.gather(pool.run(call, heard.append), return_exceptions=True)
        await pool.close()
        return done

    return asyncio.run(main()), [progress.value for progress in heard if isinstance(progress, Yielded)]


def test_a_record_is_committed(storage_settings: StorageSettings) -> None:
    assert made(pool_of(Scripted(Span(1, 2)), storage_settings), call_of()) == ([Span(1, 2)], [])
    assert Ledger(Storage(storage_settings)).find("generate", "k", Span) == Span(1, 2)


def test_parts_are_passed_on_and_the_last_is_committed(storage_settings: StorageSettings) -> None:
    done, heard = made(pool_of(Scripted(windows(*CHUNKS, CLIP)), storage_settings), call_of())
    assert done == [CLIP]
    assert heard == [*CHUNKS, CLIP]


def test_a_call_that_fails_on_the_way_commits_nothing(storage_settings: StorageSettings) -> None:
    done, heard = made(pool_of(Scripted(windows(CHUNKS[0], BadInput("window 1: no face"))), storage_settings), call_of())
    assert [str(error) for error in done] == ["window 1: no face"]
    assert heard == [CHUNKS[0]]
    assert Ledger(Storage(storage_settings)).find("generate", "k", Clip) is None


def test_parts_come_as_they_are_made(storage_settings: StorageSettings) -> None:
    worker = Worker(Scripted(windows(*CHUNKS, CLIP)), storage_settings, None)
    assert worker.open(Rank()) is None
    replies = worker.work(call_of())
    assert [next(replies).value for _ in CHUNKS] == list(CHUNKS)
    last, worked, done = replies
    assert (last.value, done) == (CLIP, Done(CLIP))
    assert 0 < worked.seconds < 60


def test_only_rank_0_speaks_and_commits(storage_settings: StorageSettings) -> None:
    stage = Scripted(windows(*CHUNKS, CLIP), Span(0, 1))
    worker = Worker(stage, storage_settings, None)
    worker.open(Rank(index=1, world_size=2))
    assert list(worker.work(call_of("a"))) == [Done(None)]
    assert list(worker.work(call_of("b"))) == [Done(None)]
    assert stage.calls == 2
    assert Ledger(Storage(storage_settings)).find("generate", "b", Span) is None


def test_harmless_failures_keep_the_worker_and_others_cost_it(storage_settings: StorageSettings) -> None:
    stage = Scripted(Transient("503"), Transient("503"), Span(0, 1), BadInput("no sound"), KeyError("bug"), Span(0, 2))
    pool = pool_of(stage, storage_settings)
    done, _ = made(pool, *(call_of(key) for key in "abcd"))
    assert done[0] == Span(0, 1)
    assert isinstance(done[1], BadInput)
    assert isinstance(done[2], RetriesExhausted)
    assert done[2].kind is FailureClass.CODE
    assert "KeyError: 'bug'" in done[2].trace
    assert done[3] == Span(0, 2)
    assert (stage.opened, stage.closed) == (2, 2)


def test_weights_that_are_missing_are_said_to_every_call_of(storage_settings: StorageSettings) -> None:
    class Unopened(Scripted):
        def open(self, rank: Rank) -> None:
            raise ConfigError("generate.model.path: no such folder")

    done, _ = made(pool_of(Unopened(), storage_settings), call_of("a"), call_of("b"))
    assert [str(error) for error in done] == ["generate.model.path: no such folder"] * 2
    assert all(isinstance(error, ConfigError) for error in done)


def test_all_stages_take_turns_by_priority(storage_settings: StorageSettings) -> None:
    served: list[str] = []

    class Named(Scripted):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def __call__(self, *records: Any, files: Files) -> Iterator[Any]:
            served.append(f"{self.name} begins")
            yield CHUNKS[0]
            served.append(f"{self.name} ends")
            yield CLIP

    names = ("ingest", "segment", "listen")
    pools = open_pools({name: Named(name) for name in names}, 1, INLINE, storage_settings, BREAKER, {})

    async def main() -> None:
        wanted = zip(names, (0.0, 2.0, 1.0), strict=True)
        await asyncio.gather(*(pools[name].run(call_of(stage=name, priority=priority), lambda part: None) for name, priority in wanted))

    asyncio.run(main())
    assert served == [f"{name} {what}" for name in ("ingest", "listen", "segment") for what in ("begins", "ends")]


def test_a_gang_does_not_fit_into_one_process(storage_settings: StorageSettings) -> None:
    with pytest.raises(ConfigError, match="generate/parallel=single"):
        open_pools({"generate": Scripted()}, 2, INLINE, storage_settings, BREAKER, {})


class Model(Settings):
    """What a stage with weights is told."""

    weights: Weights


def test_other_weights_than_the_runs_make_nothing(tmp_path: Path, storage_settings: StorageSettings) -> None:
    """Such as an old copy on one of the nodes."""
    weights = tmp_path / "weights"
    weights.write_text("first training")
    stage = Scripted(Span(0, 1))
    stage.config = Model(weights=str(weights))
    digest = digest_of(Storage(storage_settings), stage.config)
    assert made(open_pools({"generate": stage}, 1, INLINE, storage_settings, BREAKER, {"generate": digest})["generate"], call_of()) == (
        [Span(0, 1)],
        [],
    )
    weights.write_text("other training")
    ((error,), _) = made(open_pools({"generate": stage}, 1, INLINE, storage_settings, BREAKER, {"generate": digest})["generate"], call_of("other"))
    assert isinstance(error, ConfigError)
    assert f"the weights in {weights} differ from those that this run" in str(error)
    assert (stage.opened, stage.calls) == (1, 1)


def test_the_seconds_of_a_window_are_the_workers_own(storage_settings: StorageSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the queue, nor opening the stage, nor a failed attempt and the wait after it: the worker's clock ticks once for each window."""
    ticks = count()
    monkeypatch.setattr(worker_module, "monotonic", lambda: float(next(ticks)))
    heard: list[Any] = []
    pool = pool_of(Scripted(Transient("503"), windows(*CHUNKS, CLIP)), storage_settings)

    async def main() -> None:
        await pool.run(call_of(), heard.append)
        await pool.close()

    asyncio.run(main())
    assert [progress.seconds for progress in heard if isinstance(progress, Yielded)] == [1.0] * 4
