"""Storage calls and a whole run through a fault proxy in front of an S3 server: each returns the right result."""

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from proxy import ANSWERS, Fault, FaultProxy, FaultRates
from reference_film import HANGING_SECONDS, ReferenceFilm
from servers import S3Server

from infinitedub.pipeline.state.garbage_collection import GarbageKind, collect_garbage
from infinitedub.pipeline.state.run_log import latest_run, read_events
from infinitedub.pipeline.storage.storage import Storage, StorageOptions, StorageSettings
from infinitedub.pipeline.storage.stores import remote, storage_retry
from infinitedub.stages.errors import Transient

MIB = 1 << 20


@dataclass(frozen=True)
class ProxiedStorage:
    """A storage whose requests pass through a fault proxy."""

    storage: Storage
    proxy: FaultProxy
    server: S3Server
    bucket: str


def proxied_storage(server: S3Server, proxy: FaultProxy, settings: StorageSettings, monkeypatch: pytest.MonkeyPatch) -> ProxiedStorage:
    monkeypatch.setattr(storage_retry, "sleep", lambda _: None)
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    bucket = server.bucket()
    options = StorageOptions.model_validate(replace(server, endpoint=proxy.endpoint).options)
    update = {"root": f"s3://{bucket}/root", "options": options, "attempts": 4}  # the shipped value
    return ProxiedStorage(Storage(settings.model_copy(update=update)), proxy, server, bucket)


@pytest.fixture
def proxied(moto_server: S3Server, storage_settings: StorageSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProxiedStorage]:
    with FaultProxy(moto_server.endpoint) as proxy:
        yield proxied_storage(moto_server, proxy, storage_settings, monkeypatch)


@pytest.fixture(params=["moto", "swift"])
def proxied_either(request: pytest.FixtureRequest, storage_settings: StorageSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProxiedStorage]:
    server = request.getfixturevalue(f"{request.param}_server")
    with FaultProxy(server.endpoint) as proxy:
        yield proxied_storage(server, proxy, storage_settings, monkeypatch)


def uploads(proxied: ProxiedStorage) -> list[Any]:
    """Unfinished multipart uploads, listed by the server itself, without the proxy."""
    return proxied.server.filesystem().call_s3("list_multipart_uploads", Bucket=proxied.bucket).get("Uploads", [])


# -- call by call -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", list(Fault))
def test_every_call_survives_every_fault(proxied: ProxiedStorage, fault: Fault, tmp_path: Path):
    storage, proxy = proxied.storage, proxied.proxy
    data = os.urandom(MIB)
    (tmp_path / "file").write_bytes(data)
    for name in ("read", "stat", "range", "download", "list/a", "list/b", "delete"):
        storage.put(name, data)

    def downloaded() -> bytes:
        storage.download(storage.uri("download"), tmp_path / "back")
        return (tmp_path / "back").read_bytes()

    calls: dict[str, tuple[Callable[[], Any], Any]] = {
        "create": (lambda: storage.create("create", b"mine"), True),
        "put_bytes": (lambda: storage.put("put_bytes", b"x"), storage.uri("put_bytes")),
        "put_file": (lambda: storage.put("put_file", tmp_path / "file"), storage.uri("put_file")),
        "read": (lambda: storage.read("read"), data),
        "nothing": (lambda: storage.read("nothing"), None),
        "stat": (lambda: getattr(storage.stat(storage.uri("stat")), "bytes", None), MIB),
        "range": (lambda: storage.read_range(storage.uri("range"), 10, 5000), data[10:5000]),
        "download": (downloaded, data),
        "list": (lambda: storage.list("list"), ["a", "b"]),
        "delete": (lambda: storage.delete("delete"), None),
    }
    before = proxy.injected[fault]
    for name in calls:
        proxy.inject(fault, containing=name, times=2 if fault in ANSWERS else 1)
    with ThreadPoolExecutor(len(calls)) as threads:
        done = dict(zip(calls, threads.map(lambda call: call[0](), calls.values()), strict=True))
    assert done == {name: wanted for name, (_, wanted) in calls.items()}
    assert proxy.injected[fault] - before >= len(calls)
    proxy.clear()
    assert [storage.read(name) for name in ("create", "put_bytes", "put_file", "delete")] == [b"mine", b"x", data, None]


@pytest.mark.parametrize("fault", [Fault.LOSE_REPLY, Fault.TRUNCATE])
def test_an_upload_whose_completion_response_was_lost_is_complete(
    proxied_either: ProxiedStorage, fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The client repeats the completion request, and the server answers that there is no such upload."""
    monkeypatch.setattr(remote, "PART_BYTES", 5 * MIB)
    data = os.urandom(11 * MIB)
    (tmp_path / "big").write_bytes(data)
    proxied_either.proxy.inject(fault, method="POST", containing="uploadId=")
    proxied_either.proxy.inject(fault, method="PUT", containing="partNumber=2")
    proxied_either.storage.put("big", tmp_path / "big")
    assert proxied_either.proxy.injected[fault] == 2
    assert proxied_either.storage.read("big") == data
    assert uploads(proxied_either) == []


def test_contradictory_responses_are_transient(proxied: ProxiedStorage):
    """The server keeps answering that the object exists to writes, and that it does not exist to reads."""
    proxied.proxy.inject(Fault.REFUSE_412, method="PUT", containing="marker", times=1000)
    with pytest.raises(Transient, match="exists and that it does not exist"):
        proxied.storage.create("marker", b"x")
    with pytest.raises(Transient, match="failed condition, but the request had none"):
        proxied.storage.put("marker", b"x")
    proxied.proxy.clear()
    assert proxied.storage.create("marker", b"x")


def test_an_unreachable_server_is_transient(proxied: ProxiedStorage):
    proxied.storage.put("a", b"x")
    proxied.proxy.inject(Fault.DROP, times=10**6)
    for call in (lambda: proxied.storage.read("a"), lambda: proxied.storage.create("b", b"x"), lambda: proxied.storage.list("a")):
        with pytest.raises(Transient, match=r"127\.0\.0\.1"):
            call()


def test_one_seed_gives_the_same_faults(proxied: ProxiedStorage):
    def injected(seed: int) -> dict[Fault, int]:
        rates = FaultRates(share=0.3, faults={Fault.LOSE_REPLY: 1, Fault.DROP: 1})
        with FaultProxy(proxied.server.endpoint, seed=seed, rates=rates) as proxy:
            filesystem = replace(proxied.server, endpoint=proxy.endpoint).filesystem()
            for _ in range(10):
                filesystem.call_s3("list_objects_v2", Bucket=proxied.bucket)
            return dict(proxy.injected)

    assert injected(1) == injected(1) != injected(3)


# -- killed processes -------------------------------------------------------------------------------------------------


def test_garbage_collection_removes_the_unfinished_upload_of_a_killed_process(proxied_either: ProxiedStorage, tmp_path: Path):
    storage, proxy = proxied_either.storage, proxied_either.proxy
    (tmp_path / "big").write_bytes(bytes(11 * MIB))
    storage.put("big", b"before")
    code = "import pickle, pathlib, infinitedub.pipeline.storage.stores.remote as remote\nremote.PART_BYTES = 5 << 20\n"
    code += f"pickle.loads({pickle.dumps(storage)!r}).put('big', pathlib.Path({str(tmp_path / 'big')!r}))"
    before = proxy.served
    with proxy.fault_rates(FaultRates(share=0, delay_seconds=60)):
        proxy.inject(Fault.DELAY, method="PUT", containing="partNumber=3")
        process = subprocess.Popen([sys.executable, "-c", code])
        while not proxy.injected[Fault.DELAY] or proxy.served < before + 3:  # parts 1 and 2 have arrived
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(uploads(proxied_either)) == 1
    assert storage.read("big") == b"before"
    if not proxied_either.server.exclusive:  # moto reports 2010 as the date of every upload
        assert list(collect_garbage(storage, 3600, checkpoints=False, dry_run=False)) == []
        time.sleep(2)
    (dry,) = collect_garbage(storage, 0, checkpoints=False, dry_run=True)
    assert (dry.kind, dry.location) == (GarbageKind.UNFINISHED, storage.uri("big"))
    assert dry.bytes > 0
    assert list(collect_garbage(storage, 0, checkpoints=False, dry_run=False)) == [dry]
    assert uploads(proxied_either) == []
    assert list(collect_garbage(storage, 0, checkpoints=False, dry_run=False)) == []
    assert storage.read("big") == b"before"


def test_listings_of_many_pages_are_complete(proxied: ProxiedStorage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "PAGE_KEYS", 5)
    for number in range(12):
        proxied.storage.put(f"cas/a/{number % 3}/{number}", b"x")
    proxied.storage.put("cas/ab/0", b"x")
    proxied.proxy.inject(Fault.TRUNCATE, containing="continuation-token")
    assert [found.name for found in proxied.storage.scan("cas/a")] == sorted(f"{number % 3}/{number}" for number in range(12))
    assert proxied.proxy.injected[Fault.TRUNCATE] == 1
    assert all(abs(found.time - proxied.storage.now()) < 300 for found in proxied.storage.scan("cas/a/1"))


# -- a whole run ------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(2 * HANGING_SECONDS)
def test_a_run_with_storage_faults_makes_the_same_film_and_leaves_no_garbage(proxied: ProxiedStorage, reference_film: ReferenceFilm, tmp_path: Path):
    through = replace(proxied.server, endpoint=proxied.proxy.endpoint).overrides(proxied.bucket)

    def dub(verb: str, *words: str) -> str:
        command = reference_film.command(verb, *words, *through, f"storage.cache={tmp_path / 'node'}")
        environment = os.environ | proxied.server.env
        done = subprocess.run(command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=HANGING_SECONDS)
        assert done.returncode == 0, done.stderr
        return done.stderr

    for fault in Fault:  # each fault at least once, on the commit, which is the critical request
        proxied.proxy.inject(fault, method="PUT", containing="/_commit.json", times=2 if fault in ANSWERS else 1)
    with proxied.proxy.fault_rates(FaultRates(share=0.15, delay_seconds=0.1)):
        dub("run")
    assert set(proxied.proxy.injected) == set(Fault), proxied.proxy.injected
    filesystem = proxied.server.filesystem()
    assert hashlib.sha256(filesystem.cat_file(f"{proxied.bucket}/dub/films/portrait.mp4")).hexdigest() == reference_film.sha256
    entries = [name for name in filesystem.find(f"{proxied.bucket}/dub/cas") if "/_" in name]
    assert not [name for name in entries if name.endswith(".1.json")]  # lost responses caused no second commit

    time.sleep(2)  # servers store times in whole seconds
    dub("gc", "--grace=0s")
    assert uploads(proxied) == []
    assert "nothing to do" in dub("run")
    storage = Storage(proxied.storage.settings.model_copy(update={"root": f"s3://{proxied.bucket}/dub"}))
    run = latest_run(storage)
    assert run is not None
    assert {event["what"] for event in read_events(storage, run)} == {"reused", "job_done"}
