"""The commit protocol on every kind of storage: a folder, a server that creates exclusively, one that checks first and writes then, and both
servers behind a fault proxy. On each, a commit is complete, visible to all and made once."""

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier, Event
from typing import Any, TypeVar

import pytest
import yaml
from proxy import Fault, FaultProxy, FaultRates

from infinitedub.pipeline.state.garbage_collection import collect_garbage
from infinitedub.pipeline.state.ledger import Ledger
from infinitedub.pipeline.state.stage_files import StageFiles
from infinitedub.pipeline.storage.storage import Storage, StorageOptions, StorageSettings
from infinitedub.pipeline.storage.stores import storage_retry
from infinitedub.stages.records import Chunk, Clip, Span

T = TypeVar("T")

CONF = Path(__file__).resolve().parents[2] / "conf"
LOSSES = FaultRates(share=0.1, faults={Fault.LOSE_REPLY: 3, Fault.DROP: 1, Fault.REFUSE_412: 1, Fault.TRUNCATE: 1})
MANY = 4
PARTS = [None, 3]
WITHOUT_FAULTS = ["folder", "moto", "swift"]
WITH_FAULTS = ["moto, replies lost", "swift, replies lost"]

_keys = count()


@dataclass
class Place:
    """A storage, whether its creates are exclusive, and the fault proxy in front of it, if any."""

    storage: Storage
    exclusive: bool
    proxy: FaultProxy | None

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.storage)


@pytest.fixture(scope="module", params=[*WITHOUT_FAULTS, *WITH_FAULTS])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    values = yaml.safe_load((CONF / "storage" / "local.yaml").read_text())
    settings = StorageSettings(**{**values, "root": str(folder / "root"), "cache": str(folder / "node"), "attempts": 6})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage_retry, "sleep", lambda _: None)
        if request.param == "folder":
            yield Place(Storage(settings), exclusive=True, proxy=None)
            return
        name, _, faults = request.param.partition(", ")
        server = request.getfixturevalue(f"{name}_server")
        for variable, value in server.env.items():
            patch.setenv(variable, value)
        bucket = server.bucket()
        with FaultProxy(server.endpoint, seed=7) as proxy, proxy.fault_rates(LOSSES):
            options = replace(server, endpoint=proxy.endpoint).options if faults else server.options
            storage = Storage(settings.model_copy(update={"root": f"s3://{bucket}/root", "options": StorageOptions.model_validate(options)}))
            yield Place(storage, server.exclusive, proxy if faults else None)
        assert not faults or proxy.injected[Fault.LOSE_REPLY] > 0


@pytest.fixture
def key() -> str:
    return f"{next(_keys):02x}" * 32


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        yield pool


def clip(storage: Storage, key: str, data: bytes) -> tuple[str, Clip]:
    """A result, its file kept and not yet committed, and the attempt that made it."""
    with StageFiles(storage, stage="generate", key=key) as files:
        path = files.scratch() / "chunk.mkv"
        path.write_bytes(data)
        return files.attempt, Clip(0, Span(0, 4), (Chunk(0, files.store(path, "chunk/mkv"), 4),))


def at_once(calls: list[Callable[[], T]]) -> list[T]:
    """What they give, begun at one instant."""
    start = Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))


def entries(storage: Storage, key: str) -> list[str]:
    return [name for name in storage.list(f"cas/generate/{key[:2]}/{key}") if name.startswith("_")]


def content(storage: Storage, record: Clip) -> bytes:
    """What the files of a record hold; fails where they are not what was kept."""
    with StageFiles(storage, stage="assemble", key="0" * 64) as files:
        return b"".join(files.fetch(chunk.picture).read_bytes() for chunk in record.chunks)


def entry_name(part: int | None, generation: int = 0) -> str:
    return ("_commit" if part is None else f"_window.{part:05d}") + (f".{generation}" if generation else "") + ".json"


def commit_at(settings: StorageSettings, env: dict[str, str], key: str, data: bytes, start: float) -> tuple[Clip, Clip]:
    """In a process of its own: what this attempt made, and what holds."""
    os.environ.update(env)
    storage = Storage(settings)
    attempt, record = clip(storage, key, data)
    time.sleep(max(0.0, start - time.time()))
    return record, Ledger(storage).commit("generate", key, attempt, record)


# -- creators at one instant ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
def test_of_creators_at_one_instant_every_one_gets_a_whole_result_and_all_later_ones_the_same(place: Place, key: str, part: int | None):
    made = [clip(place.storage, key, bytes([number]) * 100) for number in range(MANY)]
    taken = at_once([lambda one=one: Ledger(place.storage).commit("generate", key, *one, part=part) for one in made])
    assert len(set(taken)) == 1 or not place.exclusive
    found = place.ledger.find("generate", key, Clip, part)
    assert found in taken
    assert place.ledger.commit("generate", key, *clip(place.storage, key, b"late"), part=part) == found
    assert entries(place.storage, key) == [entry_name(part)]  # nobody wrote a second one
    for record in set(taken):  # no committed record was deleted
        assert len(content(place.storage, record)) == 100


@pytest.mark.parametrize("place", WITHOUT_FAULTS, indirect=True)
def test_processes_at_one_instant(place: Place, key: str, processes: ProcessPoolExecutor):
    env = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    start = time.time() + 2
    calls = [processes.submit(commit_at, place.storage.settings, env, key, bytes([number]) * 100, start) for number in range(3)]
    made, taken = zip(*(call.result() for call in calls), strict=True)
    found = place.ledger.find("generate", key, Clip)
    assert found in made
    assert set(taken) == {found} or not place.exclusive
    assert entries(place.storage, key) == ["_commit.json"]
    assert content(place.storage, found) in [bytes([number]) * 100 for number in range(3)]


def test_two_who_were_both_told_that_they_won_leave_one_result(place: Place, key: str):
    """What Swift does between two creators, without leaving it to chance: the second one's bytes replace the first one's."""
    first, second = clip(place.storage, key, b"first"), clip(place.storage, key, b"second")
    assert place.ledger.commit("generate", key, *first) == first[1]
    name = f"cas/generate/{key[:2]}/{key}/_commit.json"
    before = place.storage.read(name)
    place.storage.delete(name)
    assert place.ledger.commit("generate", key, *second) == second[1]
    assert before != place.storage.read(name)
    assert place.ledger.find("generate", key, Clip) == second[1]
    assert content(place.storage, first[1]) == b"first"  # the earlier attempt stays readable for those who hold its record
    assert place.ledger.commit("generate", key, *first) == second[1]
    assert place.ledger.withdraw("generate", key, Clip, "both won")
    assert place.ledger.find("generate", key, Clip) is None
    assert entries(place.storage, key) == ["_commit.1.json", "_commit.json"]


def test_a_reader_sees_nothing_or_a_whole_result_and_never_nothing_again(place: Place, key: str):
    made = [clip(place.storage, key, bytes([number]) * 100) for number in range(MANY)]
    over, seen = Event(), []

    def read() -> None:
        while not over.is_set():
            seen.append(Ledger(place.storage).find("generate", key, Clip))

    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(read)
        taken = at_once([lambda one=one: Ledger(place.storage).commit("generate", key, *one) for one in made])
        over.set()
        reading.result()
    seen.append(place.ledger.find("generate", key, Clip))
    begin = next(number for number, record in enumerate(seen) if record is not None)
    assert set(seen[begin:]) <= {record for _, record in made}
    if place.exclusive or place.proxy is None:  # otherwise a reader may see a record that another commit replaced before the retry of its writer
        assert set(seen[begin:]) <= set(taken)
    assert len(set(seen[begin:])) == 1 or not place.exclusive


# -- replies lost -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", WITH_FAULTS, indirect=True)
@pytest.mark.parametrize("part", PARTS)
def test_a_commit_whose_reply_was_lost_is_ours_and_made_once(place: Place, key: str, part: int | None):
    assert place.proxy is not None
    attempt, record = clip(place.storage, key, b"mine")
    before = place.proxy.injected.total()
    place.proxy.inject(Fault.LOSE_REPLY, method="PUT", containing=entry_name(part))
    place.proxy.inject(Fault.TRUNCATE, method="PUT", containing=entry_name(part))
    assert place.ledger.commit("generate", key, attempt, record, part=part) == record
    assert place.proxy.injected.total() >= before + 2
    assert entries(place.storage, key) == [entry_name(part)]
    entry = place.storage.read(f"cas/generate/{key[:2]}/{key}/{entry_name(part)}")
    assert entry is not None
    assert json.loads(entry)["attempt"] == attempt


@pytest.mark.parametrize("place", WITH_FAULTS, indirect=True)
def test_a_withdrawal_whose_reply_was_lost_is_ours_and_made_once(place: Place, key: str):
    assert place.proxy is not None
    place.ledger.commit("generate", key, *clip(place.storage, key, b"one"))
    place.proxy.inject(Fault.LOSE_REPLY, method="PUT", containing="_commit.1.json", times=2)
    assert place.ledger.withdraw("generate", key, Clip, "a mouth is shut")
    assert place.ledger.find("generate", key, Clip) is None
    assert entries(place.storage, key) == ["_commit.1.json", "_commit.json"]


# -- chains -----------------------------------------------------------------------------------------------------------


def test_what_is_withdrawn_is_made_anew_and_may_be_withdrawn_again(place: Place, key: str):
    ledger, part = place.ledger, 3
    assert not ledger.withdraw("generate", key, Clip, "not there", part)
    for generation in range(2):
        attempt, record = clip(place.storage, key, bytes([generation]))
        assert ledger.commit("generate", key, attempt, record, part=part) == record
        assert ledger.find("generate", key, Clip, part) == record
        assert ledger.withdraw("generate", key, Clip, "a mouth is shut", part)
        assert Ledger(place.storage).find("generate", key, Clip, part) is None
        assert not ledger.withdraw("generate", key, Clip, "again", part)
    assert set(entries(place.storage, key)) == {entry_name(part, generation) for generation in range(4)}


def test_of_those_who_withdraw_at_one_instant_one_does(place: Place, key: str):
    place.ledger.commit("generate", key, *clip(place.storage, key, b"one"))
    done = at_once([lambda number=number: Ledger(place.storage).withdraw("generate", key, Clip, f"reason {number}") for number in range(MANY)])
    assert sum(done) == 1 or (not place.exclusive and any(done))
    assert place.ledger.find("generate", key, Clip) is None
    assert entries(place.storage, key) == ["_commit.1.json", "_commit.json"]
    anew = clip(place.storage, key, b"two")
    assert place.ledger.commit("generate", key, *anew) == anew[1]


def test_withdrawing_and_committing_at_one_instant_leave_a_chain_that_says_one_thing(place: Place, key: str):
    """The result is broken; some make it anew while others withdraw what they find."""
    attempt, broken = clip(place.storage, key, b"one")
    place.ledger.commit("generate", key, attempt, broken)
    place.storage.delete(f"cas/generate/{key[:2]}/{key}/{attempt}/chunk.mkv")
    made = [clip(place.storage, key, bytes([number]) * 100) for number in range(3)]
    commits = [lambda one=one: Ledger(place.storage).commit("generate", key, *one) for one in made]
    withdrawals: list[Callable[[], Any]] = [lambda: Ledger(place.storage).withdraw("generate", key, Clip, "look again")] * 2
    at_once([*commits, *withdrawals])
    found = [Ledger(place.storage).find("generate", key, Clip) for _ in range(3)]
    assert len(set(found)) == 1
    assert found[0] is None or len(content(place.storage, found[0])) == 100
    anew = clip(place.storage, key, b"anew")
    assert place.ledger.commit("generate", key, *anew) == (found[0] or anew[1])


def test_a_commit_whose_files_have_gone_is_superseded_once_by_whoever_comes(place: Place, key: str):
    attempt, record = clip(place.storage, key, b"one")
    place.ledger.commit("generate", key, attempt, record)
    place.storage.delete(f"cas/generate/{key[:2]}/{key}/{attempt}/chunk.mkv")
    assert place.ledger.find("generate", key, Clip) is None
    made = [clip(place.storage, key, bytes([number]) * 100) for number in range(MANY)]
    taken = at_once([lambda one=one: Ledger(place.storage).commit("generate", key, *one) for one in made])
    assert len(set(taken)) == 1 or not place.exclusive
    assert place.ledger.find("generate", key, Clip) in taken
    assert set(entries(place.storage, key)) == {"_commit.json", "_commit.1.json"}


@pytest.mark.parametrize("stored", [b'{"attempt": "a", "record": {"segm', b"[]"])
def test_a_commit_that_makes_no_sense_is_superseded(place: Place, key: str, stored: bytes):
    place.storage.put(f"cas/generate/{key[:2]}/{key}/_commit.json", stored)
    assert place.ledger.find("generate", key, Clip) is None
    assert not place.ledger.withdraw("generate", key, Clip, "nothing to withdraw")
    attempt, record = clip(place.storage, key, b"one")
    assert place.ledger.commit("generate", key, attempt, record) == record
    assert place.ledger.find("generate", key, Clip) == record
    assert entries(place.storage, key) == ["_commit.1.json", "_commit.json"]


def test_parts_and_the_whole_know_nothing_of_each_other(place: Place, key: str):
    ledger, made = place.ledger, {part: clip(place.storage, key, f"{part}".encode()) for part in (None, 0, 1, 12)}
    for part, one in made.items():
        assert ledger.find("generate", key, Clip, part) is None
        assert ledger.commit("generate", key, *one, part=part) == one[1]
    assert ledger.withdraw("generate", key, Clip, "from here on", 1)
    assert {part: ledger.find("generate", key, Clip, part) for part in made} == {
        None: made[None][1],
        0: made[0][1],
        1: None,
        12: made[12][1],
    }


# -- what is left behind ----------------------------------------------------------------------------------------------


def test_what_losers_leave_is_swept_and_what_holds_stays(place: Place, key: str):
    storage = Storage(place.storage.settings.model_copy(update={"root": f"{place.storage.root}/swept"}))
    made = [clip(storage, key, bytes([number]) * 100) for number in range(MANY)]
    at_once([lambda one=one: Ledger(storage).commit("generate", key, *one) for one in made])
    found = Ledger(storage).find("generate", key, Clip)
    assert list(collect_garbage(storage, 3600, checkpoints=False, dry_run=False)) == []
    time.sleep(0.01 if storage.root.startswith("/") else 2.1)  # servers date by the second
    dry = [swept.location for swept in collect_garbage(storage, 0, checkpoints=False, dry_run=True)]
    assert [swept.location for swept in collect_garbage(storage, 0, checkpoints=False, dry_run=False)] == dry
    assert len(dry) == MANY - 1
    assert list(collect_garbage(storage, 0, checkpoints=False, dry_run=False)) == []
    assert Ledger(storage).find("generate", key, Clip) == found
    assert len(content(storage, found)) == 100
    left = {file.name.rpartition("/")[2] for file in storage.scan(f"cas/generate/{key[:2]}/{key}")}
    assert left == {"chunk.mkv", "_commit.json"}
