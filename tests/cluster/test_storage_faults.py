"""Bad weather between the product and an S3 server: every call comes to its right end, and so does a whole run."""

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
from proxy import ANSWERS, Failure, FaultProxy, Weather
from servers import S3Server
from undisturbed import HANGING_SECONDS, Calm

from infinitedub.pipeline.state.garbage_collection import GarbageKind, collect_garbage
from infinitedub.pipeline.state.run_log import latest_run, read_events
from infinitedub.pipeline.storage.storage import Storage, StorageOptions, StorageSettings
from infinitedub.pipeline.storage.stores import remote, storage_retry
from infinitedub.stages.errors import Transient

MIB = 1 << 20


@dataclass(frozen=True)
class Way:
    """A storage, and the weather on the way there."""

    storage: Storage
    proxy: FaultProxy
    server: S3Server
    bucket: str


def way_to(server: S3Server, proxy: FaultProxy, settings: StorageSettings, monkeypatch: pytest.MonkeyPatch) -> Way:
    monkeypatch.setattr(storage_retry, "sleep", lambda _: None)
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    bucket = server.bucket()
    options = StorageOptions.model_validate(replace(server, endpoint=proxy.endpoint).options)
    update = {"root": f"s3://{bucket}/root", "options": options, "attempts": 4}  # as many as are shipped
    return Way(Storage(settings.model_copy(update=update)), proxy, server, bucket)


@pytest.fixture
def way(moto_server: S3Server, storage_settings: StorageSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    with FaultProxy(moto_server.endpoint) as proxy:
        yield way_to(moto_server, proxy, storage_settings, monkeypatch)


@pytest.fixture(params=["moto", "swift"])
def either_way(request: pytest.FixtureRequest, storage_settings: StorageSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    server = request.getfixturevalue(f"{request.param}_server")
    with FaultProxy(server.endpoint) as proxy:
        yield way_to(server, proxy, storage_settings, monkeypatch)


def uploads(way: Way) -> list[Any]:
    """As the server itself lists them."""
    return way.server.filesystem().call_s3("list_multipart_uploads", Bucket=way.bucket).get("Uploads", [])


# -- call by call -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", list(Failure))
def test_every_call_survives_every_fault(way: Way, fault: Failure, tmp_path: Path):
    storage, proxy = way.storage, way.proxy
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
    before = proxy.struck[fault]
    for name in calls:
        proxy.strike(fault, containing=name, times=2 if fault in ANSWERS else 1)
    with ThreadPoolExecutor(len(calls)) as threads:
        done = dict(zip(calls, threads.map(lambda call: call[0](), calls.values()), strict=True))
    assert done == {name: wanted for name, (_, wanted) in calls.items()}
    assert proxy.struck[fault] - before >= len(calls)
    proxy.calm()
    assert [storage.read(name) for name in ("create", "put_bytes", "put_file", "delete")] == [b"mine", b"x", data, None]


@pytest.mark.parametrize("fault", [Failure.LOSE_REPLY, Failure.TRUNCATE])
def test_an_upload_whose_end_was_not_heard_of_is_whole(either_way: Way, fault: Failure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The client asks again to complete what the server has completed, and hears that there is no such upload."""
    monkeypatch.setattr(remote, "PART_BYTES", 5 * MIB)
    data = os.urandom(11 * MIB)
    (tmp_path / "big").write_bytes(data)
    either_way.proxy.strike(fault, method="POST", containing="uploadId=")
    either_way.proxy.strike(fault, method="PUT", containing="partNumber=2")
    either_way.storage.put("big", tmp_path / "big")
    assert either_way.proxy.struck[fault] == 2
    assert either_way.storage.read("big") == data
    assert uploads(either_way) == []


def test_a_server_that_contradicts_itself_is_transient(way: Way):
    """It says for ever that something is there already, and that nothing is there."""
    way.proxy.strike(Failure.REFUSE_412, method="PUT", containing="marker", times=1000)
    with pytest.raises(Transient, match="exists and that it does not exist"):
        way.storage.create("marker", b"x")
    with pytest.raises(Transient, match="failed condition, but the request had none"):
        way.storage.put("marker", b"x")
    way.proxy.calm()
    assert way.storage.create("marker", b"x")


def test_a_server_that_is_down_for_good_is_transient(way: Way):
    way.storage.put("a", b"x")
    way.proxy.strike(Failure.DROP, times=10**6)
    for call in (lambda: way.storage.read("a"), lambda: way.storage.create("b", b"x"), lambda: way.storage.list("a")):
        with pytest.raises(Transient, match=r"127\.0\.0\.1"):
            call()


def test_weather_of_one_seed_is_the_same_weather(way: Way):
    def struck(seed: int) -> dict[Failure, int]:
        storms = Weather(share=0.3, faults={Failure.LOSE_REPLY: 1, Failure.DROP: 1})
        with FaultProxy(way.server.endpoint, seed=seed, weather=storms) as proxy:
            told = replace(way.server, endpoint=proxy.endpoint).filesystem()
            for _ in range(10):
                told.call_s3("list_objects_v2", Bucket=way.bucket)
            return dict(proxy.struck)

    assert struck(1) == struck(1) != struck(3)


# -- processes that die -----------------------------------------------------------------------------------------------


def test_what_a_process_killed_during_an_upload_leaves_is_collected(either_way: Way, tmp_path: Path):
    storage, proxy = either_way.storage, either_way.proxy
    (tmp_path / "big").write_bytes(bytes(11 * MIB))
    storage.put("big", b"before")
    code = "import pickle, pathlib, infinitedub.pipeline.storage.stores.remote as remote\nremote.PART_BYTES = 5 << 20\n"
    code += f"pickle.loads({pickle.dumps(storage)!r}).put('big', pathlib.Path({str(tmp_path / 'big')!r}))"
    before = proxy.served
    with proxy.weather(Weather(share=0, delay_seconds=60)):
        proxy.strike(Failure.DELAY, method="PUT", containing="partNumber=3")
        process = subprocess.Popen([sys.executable, "-c", code])
        while not proxy.struck[Failure.DELAY] or proxy.served < before + 3:  # parts 1 and 2 have arrived
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(uploads(either_way)) == 1
    assert storage.read("big") == b"before"
    if not either_way.server.exclusive:  # moto dates every upload 2010
        assert list(collect_garbage(storage, 3600, checkpoints=False, dry_run=False)) == []
        time.sleep(2)
    (dry,) = collect_garbage(storage, 0, checkpoints=False, dry_run=True)
    assert (dry.kind, dry.location) == (GarbageKind.UNFINISHED, storage.uri("big"))
    assert dry.bytes > 0
    assert list(collect_garbage(storage, 0, checkpoints=False, dry_run=False)) == [dry]
    assert uploads(either_way) == []
    assert list(collect_garbage(storage, 0, checkpoints=False, dry_run=False)) == []
    assert storage.read("big") == b"before"


def test_listings_of_many_pages_are_whole(way: Way, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "PAGE_KEYS", 5)
    for number in range(12):
        way.storage.put(f"cas/a/{number % 3}/{number}", b"x")
    way.storage.put("cas/ab/0", b"x")
    way.proxy.strike(Failure.TRUNCATE, containing="continuation-token")
    assert [found.name for found in way.storage.scan("cas/a")] == sorted(f"{number % 3}/{number}" for number in range(12))
    assert way.proxy.struck[Failure.TRUNCATE] == 1
    assert all(abs(found.time - way.storage.now()) < 300 for found in way.storage.scan("cas/a/1"))


# -- a whole run ------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(2 * HANGING_SECONDS)
def test_a_run_with_storage_faults_makes_the_same_film_and_leaves_no_garbage(way: Way, calm: Calm, tmp_path: Path):
    through = replace(way.server, endpoint=way.proxy.endpoint).overrides(way.bucket)

    def dub(verb: str, *words: str) -> str:
        command = calm.command(verb, *words, *through, f"storage.cache={tmp_path / 'node'}")
        environment = os.environ | way.server.env
        done = subprocess.run(command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=HANGING_SECONDS)
        assert done.returncode == 0, done.stderr
        return done.stderr

    for fault in Failure:  # each at least once, and where it matters most
        way.proxy.strike(fault, method="PUT", containing="/_commit.json", times=2 if fault in ANSWERS else 1)
    with way.proxy.weather(Weather(share=0.15, delay_seconds=0.1)):
        dub("run")
    assert set(way.proxy.struck) == set(Failure), way.proxy.struck
    filesystem = way.server.filesystem()
    assert hashlib.sha256(filesystem.cat_file(f"{way.bucket}/dub/films/portrait.mp4")).hexdigest() == calm.sha256
    entries = [name for name in filesystem.find(f"{way.bucket}/dub/cas") if "/_" in name]
    assert not [name for name in entries if name.endswith(".1.json")]  # lost replies made nobody commit twice

    time.sleep(2)  # servers date by the second
    dub("gc", "--grace=0s")
    assert uploads(way) == []
    assert "nothing to do" in dub("run")
    storage = Storage(way.storage.settings.model_copy(update={"root": f"s3://{way.bucket}/dub"}))
    run = latest_run(storage)
    assert run is not None
    assert {event["what"] for event in read_events(storage, run)} == {"reused", "job_done"}
