"""The rules every storage keeps: a folder, a well-behaved S3 server, and one that checks first and writes then.

Races between commits are tested in test_commit_conformance.py, faults between client and server in test_storage_faults.py.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from infinitedub.pipeline.state.content_keys import source_fingerprint
from infinitedub.pipeline.state.ledger import Ledger
from infinitedub.pipeline.state.run_log import Event, RunLog, latest_run, read_events, runs
from infinitedub.pipeline.state.stage_files import StageFiles
from infinitedub.pipeline.storage.storage import Storage, StorageOptions, StorageSettings
from infinitedub.pipeline.storage.stores import storage_retry
from infinitedub.pipeline.storage.weight_files import StoredWeightFiles
from infinitedub.pipeline.storage.weights_digest import weights_digest
from infinitedub.stages.errors import BadInput, ConfigError, Transient
from infinitedub.stages.records import Chunk, Clip, Span

KEY = "0f" + "e" * 62
ODD_NAMES = ["a b.mp4", "ümlaut-é-漢字.mp4", "100%25.mp4", "a+b&c=d.mp4", "what?a=1", "a#b.mp4", "[a]*{b}.mp4", "quote'\".mp4", "~a,b;c@d!$.mp4"]


@dataclass(frozen=True)
class Place:
    """A storage, and what may be expected of it."""

    storage: Storage
    exclusive: bool


@pytest.fixture(params=["folder", "moto", "swift"])
def place(request: pytest.FixtureRequest, storage_settings: StorageSettings, monkeypatch: pytest.MonkeyPatch) -> Place:
    if request.param == "folder":
        return Place(Storage(storage_settings), exclusive=True)
    server = request.getfixturevalue(f"{request.param}_server")
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    update = {"root": f"s3://{server.bucket()}/some/prefix", "options": StorageOptions.model_validate(server.options)}
    return Place(Storage(storage_settings.model_copy(update=update)), server.exclusive)


@pytest.fixture
def storage(place: Place) -> Storage:
    return place.storage


@pytest.fixture(params=["moto", "swift"])
def bucket(request: pytest.FixtureRequest, storage_settings: StorageSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """Only the S3 servers."""
    server = request.getfixturevalue(f"{request.param}_server")
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    update = {"root": f"s3://{server.bucket()}", "options": StorageOptions.model_validate(server.options)}
    yield Storage(storage_settings.model_copy(update=update))


# -- files by name ----------------------------------------------------------------------------------------------------


def test_what_is_not_there(storage: Storage):
    assert storage.read("a") is None
    assert storage.stat(storage.uri("a/b")) is None
    assert storage.list("a") == []
    storage.delete("a")
    with pytest.raises(BadInput, match=r"a\.mp4"):
        storage.stat_input(storage.uri("a.mp4"))
    with pytest.raises(BadInput, match=r"a\.mp4"):
        storage.open_input(storage.uri("a.mp4"))
    with pytest.raises(ConfigError, match="does not exist"):
        storage.walk(storage.uri("model"))


def test_what_is_put_is_there_until_it_is_deleted(storage: Storage):
    uri = storage.put("a/b", b"1")
    assert uri == storage.uri("a/b")
    assert storage.read("a/b") == b"1"
    storage.put("a/b", b"22")
    assert storage.read("a/b") == b"22"
    stat = storage.stat(uri)
    assert stat is not None
    assert stat.bytes == 2
    storage.delete("a/b")
    assert storage.read("a/b") is None


def test_a_list_shows_one_level(storage: Storage):
    for name in ("d/b", "d/a", "d/sub/x", "d/sub/y", "dd/other"):
        storage.put(name, b"x")
    assert storage.list("d") == ["a", "b", "sub"]
    assert storage.list("d/sub") == ["x", "y"]
    assert {name: stat.bytes for name, stat in storage.walk(storage.uri("d")).items()} == {"a": 1, "b": 1, "sub/x": 1, "sub/y": 1}
    assert {name: stat.bytes for name, stat in storage.walk(storage.uri("d/a")).items()} == {"": 1}
    storage.delete("d/a")
    assert storage.list("d") == ["b", "sub"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_names(storage: Storage, name: str, tmp_path: Path):
    assert storage.create(f"odd/{name}", b"1")
    assert not storage.create(f"odd/{name}", b"2")
    assert storage.read(f"odd/{name}") == b"1"
    uri = storage.put(f"odd/{name}", b"333")
    assert storage.list("odd") == [name]
    stat = storage.stat(uri)
    assert stat is not None
    assert stat.bytes == 3
    storage.download(uri, tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == b"333"


@pytest.mark.parametrize("mib", [0, 1, 40])
def test_files_of_any_size_go_there_and_come_back(storage: Storage, tmp_path: Path, mib: int):
    """40 MiB is a multipart upload."""
    data = os.urandom(mib << 20)
    (tmp_path / "big").write_bytes(data)
    storage.put("big", b"before")
    uri = storage.put("big", tmp_path / "big")
    storage.download(uri, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    if data:
        middle = len(data) // 2
        assert storage.read_range(uri, middle, middle + 100) == data[middle : middle + 100]
        assert storage.read_range(uri, len(data) - 10, len(data) + 10) == data[-10:]


def test_putting_a_file_nobody_wrote_is_our_own_bug(storage: Storage, tmp_path: Path):
    storage.put("d/a", b"before")
    with pytest.raises(FileNotFoundError, match="nobody-wrote-this"):
        storage.put("d/a", tmp_path / "nobody-wrote-this")
    assert storage.read("d/a") == b"before"
    assert storage.list("d") == ["a"]


# -- creating ---------------------------------------------------------------------------------------------------------


def test_only_the_first_creates(storage: Storage):
    assert storage.create("c/marker", b"first")
    assert not storage.create("c/marker", b"second")
    assert storage.read("c/marker") == b"first"
    assert storage.list("c") == ["marker"]


def test_nothing_empty_is_created(storage: Storage):
    with pytest.raises(ValueError, match="empty"):
        storage.create("marker", b"")


def test_a_creation_whose_reply_was_lost_has_happened(storage: Storage, monkeypatch: pytest.MonkeyPatch):
    store = storage._store("file" if storage.root.startswith("/") else "s3")
    create = store.create

    def unheard(path: str, data: bytes) -> None:
        create(path, data)
        create(path, data)  # the client got no response and retries

    monkeypatch.setattr(store, "create", unheard)
    assert storage.create("marker", b"mine")
    assert not storage.create("marker", b"another's")
    assert storage.read("marker") == b"mine"


def test_of_creators_at_one_instant_one_wins(place: Place):
    """If the server is not exclusive, several writers succeed; the stored object is then one of theirs, complete."""
    contenders = [f"attempt-{number}".encode() * 500 for number in range(8)]
    for turn in range(5):
        start = Barrier(len(contenders))

        def create(data: bytes, name: str = f"marker-{turn}", start: Barrier = start) -> bool:
            start.wait()
            return place.storage.create(name, data)

        with ThreadPoolExecutor(len(contenders)) as threads:
            won = list(threads.map(create, contenders))
        left = place.storage.read(f"marker-{turn}")
        winners = [data for data, first in zip(contenders, won, strict=True) if first]
        assert left in winners
        assert len(winners) == 1 or not place.exclusive


# -- what the pipeline makes of it ------------------------------------------------------------------------------------


def clip(storage: Storage, data: bytes) -> tuple[str, Clip]:
    with StageFiles(storage, stage="generate", key=KEY) as files:
        path = files.scratch() / "chunk.mkv"
        path.write_bytes(data)
        return files.attempt, Clip(0, Span(0, 4), (Chunk(0, files.store(path, "chunk/mkv"), 4),))


def test_results_are_kept_committed_found_and_fetched(storage: Storage):
    ledger = Ledger(storage)
    first, second = clip(storage, b"one"), clip(storage, b"two")
    assert ledger.find("generate", KEY, Clip) is None
    assert ledger.commit("generate", KEY, *first) == first[1]
    assert ledger.commit("generate", KEY, *second) == first[1]
    found = Ledger(storage).find("generate", KEY, Clip)
    assert found == first[1]
    with StageFiles(storage, stage="assemble", key=KEY) as files:
        assert files.fetch(found.chunks[0].picture).read_bytes() == b"one"
        assert files.fetch(found.chunks[0].picture).suffix == ".mkv"
        with pytest.raises(Transient, match=r"; wanted "):
            files.fetch(replace(found.chunks[0].picture, sha256="0" * 64))
    assert list(Path(storage.settings.cache, "calls").iterdir()) == []


def test_inputs_are_fetched_and_known_by_version(storage: Storage):
    uri = storage.put("in/my film.mp4", b"film")
    with StageFiles(storage, stage="ingest", key=KEY) as files:
        path = files.fetch(uri)
        assert path.read_bytes() == b"film"
        assert path.suffix == ".mp4"
        with pytest.raises(BadInput, match=r"nobody\.mp4"):
            files.fetch(storage.uri("in/nobody.mp4"))
    before = source_fingerprint(storage, uri)
    assert source_fingerprint(storage, uri) == before
    storage.put("in/my film.mp4", b"mlif")
    assert source_fingerprint(storage, uri) != before


def test_models_have_a_digest_wherever_they_lie(storage: Storage, tmp_path: Path):
    (tmp_path / "model").mkdir()
    for name, data in (("config.json", b"{}"), ("weights.safetensors", bytes(1000))):
        (tmp_path / "model" / name).write_bytes(data)
        storage.put(f"model/{name}", data)
    assert weights_digest(storage, storage.uri("model")) == weights_digest(storage, str(tmp_path / "model"))


def test_the_files_of_models_are_looked_at_wherever_they_lie(storage: Storage):
    storage.put("model/vae/weights.safetensors", b"0123456789")
    files = StoredWeightFiles(storage)
    for folder in (storage.uri("model"), storage.uri("model") + "/"):
        assert files.sizes(folder) == {"vae/weights.safetensors": 10}
        assert files.read(folder, "vae/weights.safetensors", 8, 20) == b"89"
    file = storage.uri("model/vae/weights.safetensors")
    assert files.sizes(file) == {"": 10}
    assert files.read(file, "", 0, 3) == b"012"
    assert files.sizes(storage.uri("nothing")) == {}


def test_a_run_is_logged(storage: Storage):
    with RunLog.begin(storage, {"jobs": ["a"]}) as log:
        log.event(Event(1.0, "a", None, None, "ingest", "started", None, ""))
    assert runs(storage) == [log.run]
    assert latest_run(storage) == log.run
    assert [event["job"] for event in read_events(storage, log.run)] == ["a"]


# -- what S3 alone can get wrong --------------------------------------------------------------------------------------


def with_s3(storage: Storage, **changes: Any) -> Storage:
    settings = storage.settings
    s3 = settings.options.s3.model_copy(update=changes)
    return Storage(settings.model_copy(update={"options": StorageOptions(s3=s3)}))


def test_a_bucket_that_is_not_there_is_a_config_error_for_results_and_bad_input_in_the_catalogue(bucket: Storage):
    lost = Storage(bucket.settings.model_copy(update={"root": "s3://nobody-made-this/x"}))
    for call in (lambda: lost.put("a", b"1"), lambda: lost.create("a", b"1"), lambda: lost.read("a"), lambda: lost.list("a")):
        with pytest.raises(ConfigError, match="bucket does not exist"):
            call()
    with pytest.raises(BadInput, match="bucket does not exist"):
        bucket.stat_input("s3://nobody-made-this/a.mp4")
    with pytest.raises(BadInput, match="not a valid name"):
        bucket.stat_input("s3://Never A Bucket!/a.mp4")


def test_without_credentials_it_says_where_they_come_from(bucket: Storage, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID"):
        Storage(bucket.settings).read("a")


def test_wrong_credentials_are_a_config_error(swift_server: Any, storage_settings: StorageSettings, monkeypatch: pytest.MonkeyPatch):
    """Swift only: moto believes everybody."""
    for name, value in {**swift_server.env, "AWS_SECRET_ACCESS_KEY": "guessed"}.items():
        monkeypatch.setenv(name, value)
    update = {"root": f"s3://{swift_server.bucket()}", "options": StorageOptions.model_validate(swift_server.options)}
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID"):
        Storage(storage_settings.model_copy(update=update)).create("a", b"1")


def test_a_server_that_does_not_answer_is_transient(bucket: Storage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage_retry, "sleep", lambda _: None)
    with pytest.raises(Transient, match=r"127\.0\.0\.1:1"):
        with_s3(bucket, endpoint_url="http://127.0.0.1:1").read("a")


def test_checksums_can_be_left_out(bucket: Storage):
    storage = with_s3(bucket, request_checksum_calculation="when_required")
    assert storage.create("a", b"1")
    assert storage.read("a") == b"1"


def test_half_an_upload_is_nothing(bucket: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The connection breaks between the parts of a multipart upload: what was there stays, and no parts are left to pay for."""
    monkeypatch.setattr(storage_retry, "sleep", lambda _: None)
    (tmp_path / "big").write_bytes(bytes(40 << 20))
    bucket.put("big", b"before")
    store: Any = bucket._store("s3")
    call = store._fs._call_s3

    async def breaks(method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "upload_part" and kwargs["PartNumber"] == 2:
            raise ConnectionResetError("cable")
        return await call(method, *args, **kwargs)

    monkeypatch.setattr(store._fs, "_call_s3", breaks)
    with pytest.raises(Transient, match="cable"):
        bucket.put("big", tmp_path / "big")
    assert bucket.read("big") == b"before"
    uploads = store._fs.call_s3("list_multipart_uploads", Bucket=bucket.root.removeprefix("s3://"))
    assert uploads.get("Uploads", []) == []


def test_a_large_object_is_downloaded_in_one_request(moto_server, storage_settings: StorageSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Several ranges, each a request of its own, could come from two versions of an object that is replaced meanwhile, and lie in memory."""
    for name, value in moto_server.env.items():
        monkeypatch.setenv(name, value)
    update = {"root": f"s3://{moto_server.bucket()}", "options": StorageOptions.model_validate(moto_server.options)}
    storage = Storage(storage_settings.model_copy(update=update))
    data = os.urandom(1 << 20) * 56  # s3fs would split what is larger than 50 MiB
    (tmp_path / "big").write_bytes(data)
    storage.put("big", tmp_path / "big")
    requests: list[tuple[str, Any]] = []
    filesystem = storage._store("s3")._fs
    call = filesystem._call_s3

    async def noted(method: str, *arguments: Any, **parameters: Any) -> Any:
        requests.append((method, parameters.get("Range")))
        return await call(method, *arguments, **parameters)

    monkeypatch.setattr(filesystem, "_call_s3", noted)
    storage.download(storage.uri("big"), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert [request for request in requests if request[0] == "get_object"] == [("get_object", None)]
