"""Storage in a folder, and what it makes of hostile names, wrong settings and bad weather."""

import errno
import os
import pickle
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from infinitedub.pipeline.storage.storage import Storage, StorageOptions, StorageSettings
from infinitedub.pipeline.storage.stores import storage_retry
from infinitedub.pipeline.storage.stores.remote import RemoteStore
from infinitedub.pipeline.storage.stores.storage_retry import retry_storage_call
from infinitedub.pipeline.storage.stores.store import AccessRefused, AlreadyExists, FileStat, NotFound
from infinitedub.pipeline.storage.uris import parse_uri
from infinitedub.stages.errors import BadInput, ConfigError, Transient


def with_root(settings: StorageSettings, root: str) -> StorageSettings:
    return StorageSettings(**{**settings.model_dump(), "root": root})


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["key", "secret", "aws_secret_access_key", "token", "password", "account_key"])
def test_credentials_in_the_settings_are_refused_and_not_repeated(storage_settings: StorageSettings, name: str):
    values = storage_settings.model_dump()
    values["options"]["s3"][name] = "hush-hush"
    with pytest.raises(ConfigError, match=rf"storage\.options\.s3\.{name}.*AWS_ACCESS_KEY_ID") as refused:
        StorageSettings(**values)
    assert "hush-hush" not in str(refused.value)


def test_credentials_deep_in_the_options_of_other_storages_are_refused(storage_settings: StorageSettings):
    s3 = storage_settings.options.s3.model_dump()
    with pytest.raises(ConfigError, match=r"storage\.options\.az\.client\.connection_string"):
        StorageOptions.model_validate({"s3": s3, "az": {"client": {"connection_string": "hush-hush"}}})


def test_credentials_in_the_root_are_refused_and_not_repeated(storage_settings: StorageSettings):
    with pytest.raises(ConfigError, match="environment") as refused:
        with_root(storage_settings, "s3://me:hush-hush@bucket/films")
    assert "hush-hush" not in str(refused.value)


def test_a_relative_root_is_the_same_for_workers_elsewhere(storage_settings: StorageSettings, monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    settings = with_root(storage_settings, "films/here/")
    monkeypatch.chdir("/")
    assert Storage(settings).uri("a") == f"{tmp_path}/films/here/a"


def test_a_root_on_s3_keeps_its_prefix(storage_settings: StorageSettings):
    assert Storage(with_root(storage_settings, "s3://bucket/prefix/")).uri("films/a.mp4") == "s3://bucket/prefix/films/a.mp4"


@pytest.mark.parametrize(
    "root", ["nosuch://somewhere/else", "memory://films", "ftp://host/films", "http://host/films", "gs://bucket/films", "az://bucket/films"]
)
def test_a_root_without_exclusive_creation_is_refused(storage_settings: StorageSettings, root: str):
    """Concurrent runs would overwrite each other's commits there."""
    with pytest.raises(ValidationError, match=r"not known to create a file exclusively.*wanted a folder or s3://"):
        with_root(storage_settings, root)


def test_a_storage_travels_to_other_processes(storage: Storage):
    storage.put("a", b"1")
    assert pickle.loads(pickle.dumps(storage)).read("a") == b"1"


# -- names and URIs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../up", "a/../../up", "a//b", "a/", "./a", "line\nbreak", "nul\0"])
def test_only_plain_names_lie_under_the_root(storage: Storage, name: str):
    with pytest.raises(ValueError, match="plain relative name"):
        storage.put(name, b"x")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "filecache::s3://bucket/a",
        "zip://inner::/tmp/a.zip",
        "/tmp/a\0b",
        "s3://bucket/../other/a",
        "s3://bucket/a.mp4?versionId=1",
        "s3://",
        "file://elsewhere/a",
        "file:///tmp/%00",
    ],
)
def test_uris_that_are_tricks_are_bad_input(storage: Storage, uri: str):
    with pytest.raises(BadInput):
        storage.stat_input(uri)


def test_file_uris_are_decoded_and_paths_are_not(tmp_path: Path):
    assert parse_uri((tmp_path / "my film.mp4").as_uri()) == ("file", f"{tmp_path}/my film.mp4")
    assert parse_uri("/a/100%25.mp4") == ("file", "/a/100%25.mp4")


# -- inputs -----------------------------------------------------------------------------------------------------------


def test_a_missing_input_is_bad_input_that_names_it(storage: Storage, tmp_path: Path):
    with pytest.raises(BadInput, match=r"nobody\.mp4 does not exist"):
        storage.stat_input(str(tmp_path / "nobody.mp4"))


def test_folders_and_pipes_are_bad_input(storage: Storage, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(BadInput, match="is not a file"):
            storage.stat_input(str(place))


def test_an_input_that_is_too_large_is_bad_input(storage_settings: StorageSettings, tmp_path: Path):
    sources = storage_settings.sources.model_copy(update={"max_bytes": 1000})
    storage = Storage(storage_settings.model_copy(update={"sources": sources}))
    (tmp_path / "a").write_bytes(b"x" * 1000)
    (tmp_path / "b").write_bytes(b"x" * 1001)
    assert storage.fetch_input(str(tmp_path / "a"), tmp_path / "c") == tmp_path / "a"
    for call in (storage.stat_input, lambda uri: storage.fetch_input(uri, tmp_path / "c")):
        with pytest.raises(BadInput, match=r"b has 1001 bytes; at most 1000 are read \(storage\.sources\.max_bytes\)"):
            call(str(tmp_path / "b"))


# -- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_holds_nothing_of_a_write_that_failed(storage: Storage, tmp_path: Path, monkeypatch):
    storage.put("a", b"before")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(storage_retry, "sleep", lambda _: None)
    for call in (lambda: storage.put("a", b"after"), lambda: storage.create("b", b"after")):
        with pytest.raises(Transient, match="No space left"):
            call()
    assert storage.read("a") == b"before"
    assert os.listdir(storage.root) == ["a"]


def test_a_file_of_another_kind_in_the_way_is_a_config_error(storage: Storage):
    storage.put("a", b"x")
    with pytest.raises(ConfigError, match=r"storage\.root"):
        storage.put("a/b", b"x")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="wants a folder in which nobody can make one")
def test_a_root_that_cannot_be_made_is_a_config_error(storage_settings: StorageSettings):
    nowhere = Storage(storage_settings.model_copy(update={"root": "/proc/films"}))
    for call in (lambda: nowhere.put("a/b", b"x"), lambda: nowhere.create("a/b", b"x")):
        with pytest.raises(ConfigError, match=r"/proc/films/a cannot be created; check storage\.root"):
            call()


def test_walk_goes_through_links(storage: Storage, tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "vae.safetensors").write_bytes(b"123")
    (tmp_path / "model" / "config.json").write_bytes(b"{}")
    (tmp_path / "model" / "vae").symlink_to(tmp_path / "shared")
    found = storage.walk(str(tmp_path / "model"))
    assert {name: stat.bytes for name, stat in found.items()} == {"config.json": 2, "vae/vae.safetensors": 3}


def test_walk_of_nothing_is_a_config_error(storage: Storage, tmp_path: Path):
    with pytest.raises(ConfigError, match="no-model does not exist"):
        storage.walk(str(tmp_path / "no-model"))


# -- bad weather ------------------------------------------------------------------------------------------------------


class Answer(Exception):
    """An S3 server's refusal, shaped as botocore's ClientError is."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code, "Message": "said the server"}, "ResponseMetadata": {"HTTPStatusCode": status}}


def behind_an_os_error(cause: Exception) -> OSError:
    """As s3fs raises it."""
    error = OSError(errno.EINVAL, "hidden")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (Answer(412, "PreconditionFailed"), AlreadyExists),
        (Answer(412, "412"), AlreadyExists),
        (behind_an_os_error(Answer(412, "PreconditionFailed")), AlreadyExists),
        (behind_an_os_error(Answer(409, "ConditionalRequestConflict")), Transient),
        (Answer(503, "SlowDown"), Transient),
        (Answer(500, "InternalError"), Transient),
        (Answer(400, "RequestTimeout"), Transient),
        (Answer(501, "NotImplemented"), AccessRefused),
        (Answer(403, "AccessDenied"), AccessRefused),
        (Answer(404, "NoSuchBucket"), AccessRefused),
        (Answer(404, "NoSuchKey"), NotFound),
        (Answer(404, "NoSuchUpload"), Transient),
        (Answer(403, "InvalidAccessKeyId"), ConfigError),
        (Answer(403, "SignatureDoesNotMatch"), ConfigError),
        (Answer(400, "AuthorizationHeaderMalformed"), ConfigError),
        (FileNotFoundError(), NotFound),
        (FileExistsError(), AlreadyExists),
        (PermissionError(errno.EACCES, "Permission denied"), AccessRefused),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), AccessRefused),
        (OSError(errno.ESTALE, "Stale file handle"), Transient),
        (ConnectionResetError(), Transient),
        (TimeoutError(), Transient),
    ],
)
def test_what_an_error_means(error: Exception, meaning: type[Exception], monkeypatch):
    monkeypatch.setattr(storage_retry, "sleep", lambda _: None)

    def call() -> None:
        raise error

    with pytest.raises(meaning) as raised:
        retry_storage_call(call, "s3://bucket/key", 3, creating=True)
    assert "s3://bucket/key" in str(raised.value)


def test_what_may_pass_is_tried_again_and_the_rest_is_not(monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(storage_retry, "sleep", waits.append)
    tries: list[int] = []

    def succeeds_at(last: int, error: Exception) -> int:
        tries.append(1)
        if len(tries) < last:
            raise error
        return len(tries)

    assert retry_storage_call(lambda: succeeds_at(3, Answer(503, "SlowDown")), "s3://b/k", 3) == 3
    assert len(waits) == 2
    assert all(0 <= wait <= storage_retry.LONGEST_WAIT_SECONDS for wait in waits)
    tries.clear()
    with pytest.raises(Transient):
        retry_storage_call(lambda: succeeds_at(3, Answer(503, "SlowDown")), "s3://b/k", 2)
    tries.clear()
    with pytest.raises(AccessRefused):
        retry_storage_call(lambda: succeeds_at(3, Answer(403, "AccessDenied")), "s3://b/k", 9)
    assert len(tries) == 1


def test_only_who_creates_can_come_too_late(monkeypatch):
    """A server that answers 412 to a put without conditions is out of order, and may be in order again soon."""
    monkeypatch.setattr(storage_retry, "sleep", lambda _: None)
    tries: list[int] = []

    def call() -> None:
        tries.append(1)
        raise Answer(412, "PreconditionFailed")

    with pytest.raises(Transient, match="failed condition, but the request had none"):
        retry_storage_call(call, "s3://b/k", 3)
    assert len(tries) == 3


def test_our_own_bugs_come_through():
    with pytest.raises(ZeroDivisionError):
        retry_storage_call(lambda: 1 // 0, "s3://b/k", 3)


def test_stat_tells_versions_apart(storage: Storage):
    uri = storage.put("a", b"one")
    before = storage.stat(uri)
    os.utime(uri, ns=(1, 1))
    after = storage.stat(uri)
    assert before is not None
    assert after == FileStat(3, "1")
    assert before.version != after.version


# -- unfinished uploads, for garbage collection -----------------------------------------------------------------------


def uploads_with(answer: Exception | None) -> list[str]:
    """The unfinished uploads that an S3 store lists if the server answers so when it is asked for an upload's parts."""
    begun = datetime(2026, 11, 1, tzinfo=UTC)

    def call(method: str, **parameters: object) -> dict[str, object]:
        if method == "list_multipart_uploads":
            return {"Uploads": [{"Key": "films/a.mp4", "UploadId": "1", "Initiated": begun}]}
        if answer is not None:
            raise answer
        return {"Parts": [{"Size": 5}, {"Size": 2}]}

    store = RemoteStore.__new__(RemoteStore)
    store._fs, store._s3, store._attempts = SimpleNamespace(_strip_protocol=lambda path: path.removeprefix("s3://"), call_s3=call), True, 1
    return [f"{upload.path} {upload.bytes}" for upload in store.unfinished_uploads("s3://bucket/films")]


def test_an_upload_that_ended_since_it_was_listed_is_passed_over():
    assert uploads_with(None) == ["s3://bucket/films/a.mp4 7"]
    assert uploads_with(Answer(404, "NoSuchUpload")) == []


@pytest.mark.parametrize(("answer", "error"), [(Answer(503, "SlowDown"), Transient), (ConnectionResetError("by peer"), Transient)])
def test_an_outage_while_uploads_are_listed_is_raised(answer: Exception, error: type[Exception]):
    """Garbage collection would otherwise report success over what it has not looked at."""
    with pytest.raises(error):
        uploads_with(answer)
