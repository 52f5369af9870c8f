"""`Storage`: reads and writes everything that outlives a process (results, run logs, films), and reads the sources that a catalogue names."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator, model_validator

from infinitedub.pipeline.storage.artifact_cache import ArtifactCache
from infinitedub.pipeline.storage.sources import WEB, SourceSettings, check_source
from infinitedub.pipeline.storage.stores.folder import FolderStore
from infinitedub.pipeline.storage.stores.hosts import parse_hosts
from infinitedub.pipeline.storage.stores.store import AccessRefused, AlreadyExists, FileStat, ListedFile, NotFound, Store, UnfinishedUpload
from infinitedub.pipeline.storage.uris import UNPRINTABLE, parse_uri
from infinitedub.stages.errors import BadInput, ConfigError, Transient
from infinitedub.stages.settings import Neutral, Settings

if TYPE_CHECKING:
    from infinitedub.pipeline.storage.stores.web import WebStore

SECRET = re.compile(r"(^|_)(key|secret|token|password|passwd|credentials?|connection_string|username)$", re.IGNORECASE)
ROOT_SCHEMES = ("file", "s3")
"""Kinds of storage that are tested to create a file only if it does not exist, in one request (S3: If-None-Match), and whose errors
`translate_error` knows. Most other file systems of fsspec check first and write then, which loses commits of concurrent runs."""
MAX_CATALOGUE_BYTES = 256 << 20  # the driver reads it as a whole


class S3Options(Settings):
    """How an S3 server is reached. Credentials come from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN."""

    endpoint_url: Neutral[str | None]
    """Address of the server; null for AWS itself."""
    region_name: Neutral[str | None]
    """Region of the bucket; null for AWS_DEFAULT_REGION, or us-east-1 if that is not set."""
    addressing_style: Neutral[Literal["auto", "path", "virtual"]]
    """Whether the bucket is part of the path or of the host name."""
    request_checksum_calculation: Neutral[Literal["when_supported", "when_required"]]
    """when_required for servers that refuse the checksums that newer clients send."""
    connect_seconds: Neutral[float] = Field(gt=0)
    """How long to wait for a connection."""
    read_seconds: Neutral[float] = Field(gt=0)
    """How long to wait for the next bytes of a response."""


class StorageOptions(Settings):
    """Options per kind of storage; those of other kinds than s3 are passed to their fsspec file system unchanged."""

    model_config = ConfigDict(extra="allow")

    s3: S3Options

    @model_validator(mode="before")
    @classmethod
    def _no_secrets(cls, given: Any) -> Any:
        # Not a ValueError: pydantic would print the secret in its message.
        for path in _secrets(given, "storage.options"):
            raise ConfigError(
                f"{path}: credentials come from the environment only (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ...); remove it from the settings"
            )
        return given


def _secrets(given: Any, path: str) -> Iterator[str]:
    if isinstance(given, dict):
        for name, value in given.items():
            if SECRET.search(str(name)):
                yield f"{path}.{name}"
            yield from _secrets(value, f"{path}.{name}")


class StorageSettings(Settings):
    """Where results are stored, and which sources may be read."""

    root: Neutral[str]
    """Folder, or URI of a bucket (s3, gs, az), under which everything is stored: films, results of stages, run logs. The same for all nodes."""
    options: StorageOptions
    """How each kind of storage is reached."""
    sources: SourceSettings
    """Which sources a catalogue may name."""
    cache: Neutral[str]
    """Folder on each node's own disk for scratch files and downloaded results."""
    cache_gib: Neutral[float] = Field(ge=0)
    """Size of the downloaded results to keep there, GiB; the least recently used are removed first."""
    attempts: Neutral[int] = Field(ge=1)
    """How often a storage call is attempted while it fails with an error that may pass."""

    @field_validator("root")
    @classmethod
    def _root_is_absolute(cls, root: str) -> str:
        # Workers have other working directories than the driver.
        try:
            scheme, path = parse_uri(root)
        except BadInput as error:
            raise ValueError(str(error)) from None
        if scheme not in ROOT_SCHEMES:
            raise ValueError(f"{scheme}:// is not known to create a file exclusively, so results could be lost; wanted a folder or s3://")
        if scheme != "file" and "@" in urlsplit(path).netloc:
            raise ConfigError("storage.root: credentials come from the environment only; remove the part before the @")
        return path.rstrip("/") or ("/" if scheme == "file" else path)

    @field_validator("cache")
    @classmethod
    def _cache_is_absolute(cls, cache: str) -> str:
        return os.path.abspath(os.path.expanduser(cache))


class Storage:
    """Files by name under the root, and by URI anywhere. Each process makes its own from the settings; threads may share one."""

    def __init__(self, settings: StorageSettings) -> None:
        self.settings = settings
        self.root = settings.root
        self.cache = ArtifactCache(Path(settings.cache) / "results", int(settings.cache_gib * 2**30))
        self._stores: dict[str, Store] = {}
        self._lock = Lock()

    def __reduce__(self) -> tuple[type["Storage"], tuple[StorageSettings]]:
        return Storage, (self.settings,)

    # -- by name, under the root --------------------------------------------------------------------------------------

    def uri(self, name: str) -> str:
        """The URI of `name`; a path if the root is a folder."""
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or str(path) != name or UNPRINTABLE.search(name):
            raise ValueError(f"{name!r} is not a plain relative name")
        return f"{self.root}/{name}"

    def read(self, name: str) -> bytes | None:
        """The bytes; None if the file does not exist."""
        with self._at(self.uri(name)) as (store, path):
            try:
                return store.read(path)
            except NotFound:
                return None

    def create(self, name: str, data: bytes) -> bool:
        """Writes the bytes if the file does not exist; otherwise returns whether it holds these same bytes, and changes nothing.

        The bytes are compared because a retry finds the file of the first attempt, if only the reply to that was lost.
        Some servers (Swift) check first and write then: if two processes create a file at once, both may get True, and one's bytes are lost.
        """
        if not data:
            raise ValueError(f"{name}: an empty file cannot be created exclusively")
        with self._at(self.uri(name)) as (store, path):
            for _ in range(self.settings.attempts):
                try:
                    store.create(path, data)
                except AlreadyExists:
                    found = self.read(name)
                    if found is not None:
                        return found == data
                else:
                    return True
        raise Transient(f"{path}: the server reports that the file exists and that it does not exist; {self.settings.attempts} attempts")

    def put(self, name: str, source: bytes | Path) -> str:
        """Writes bytes or a local file in one step, replacing an existing one. Returns its URI."""
        if isinstance(source, Path) and not source.is_file():
            raise FileNotFoundError(f"{source} does not exist, so it cannot be written to {name}")
        with self._at(self.uri(name)) as (store, path):
            store.put(path, source)
            return path

    def list(self, name: str) -> list[str]:
        """Names of the files and folders directly under `name`, sorted; empty if `name` does not exist."""
        with self._at(self.uri(name)) as (store, path):
            return store.list(path)

    def delete(self, name: str) -> None:
        """Removes the file, if it exists."""
        with self._at(self.uri(name)) as (store, path):
            store.delete(path)

    # -- listings of everything, for `dub gc` --------------------------------------------------------------------------

    def now(self) -> float:
        """The current time by the clock that dates the files, the server's if it reports one; seconds since 1970."""
        with self._at(self.root) as (store, path):
            return store.now(path)

    def scan(self, name: str) -> Iterator[ListedFile]:
        """Every file below `name`, grouped by folder, as the listing proceeds: memory does not grow with their number."""
        with self._at(self.uri(name)) as (store, path):
            yield from store.scan(path)

    def unfinished_uploads(self) -> Iterator[UnfinishedUpload]:
        """Every write under the root that has begun and has not ended: it is in progress, or its process died."""
        with self._at(self.root) as (store, path):
            yield from store.unfinished_uploads(path)

    def abort_upload(self, upload: UnfinishedUpload) -> None:
        """Removes what an unfinished write has left."""
        with self._at(upload.path) as (store, path):
            store.abort_upload(upload)
            store.remove_empty_folders(path.rpartition("/")[0], self.root)

    def remove_empty_folders(self, name: str) -> None:
        """Removes the folder if it is empty, and its parents under the root that become empty."""
        with self._at(self.uri(name)) as (store, path):
            store.remove_empty_folders(path, self.root)

    # -- by URI: what stages have stored, and weights -----------------------------------------------------------------

    def stat(self, uri: str) -> FileStat | None:
        """Size and version of a file; None if it does not exist."""
        with self._at(uri) as (store, path):
            try:
                return store.stat(path)
            except NotFound:
                return None

    def download(self, uri: str, to: Path) -> None:
        """Downloads a file to `to`, replacing an existing one. Raises NotFound."""
        with self._at(uri) as (store, path):
            store.download(path, to)

    def walk(self, uri: str) -> dict[str, FileStat]:
        """Every file below a folder, by relative name; for a file, itself under the empty name. Raises ConfigError if there is none."""
        with self._at(uri) as (store, path):
            try:
                return store.walk(path) or {"": store.stat(path)}
            except NotFound as error:
                raise ConfigError(f"{uri} does not exist") from error

    def read_range(self, uri: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` of a file, fewer at its end."""
        with self._at(uri) as (store, path):
            return store.read_range(path, start, stop)

    # -- by URI: the sources that a catalogue names -------------------------------------------------------------------

    def stat_input(self, uri: str) -> FileStat:
        """Size and version. Raises BadInput if the source does not exist, may not be read, or is too large."""
        with self._source(uri, self.settings.sources) as (store, path):
            return _check_size(uri, store.stat(path), self.settings.sources.max_bytes, "storage.sources.max_bytes")

    def fetch_input(self, uri: str, to: Path) -> Path:
        """A local path to the source: its own if it is in a folder, otherwise `to`, where it is downloaded. Raises BadInput."""
        with self._source(uri, self.settings.sources) as (store, path):
            size = _check_size(uri, store.stat(path), self.settings.sources.max_bytes, "storage.sources.max_bytes").bytes
            if isinstance(store, FolderStore):
                return Path(path)
            store.download(path, to)
        _check_length(uri, size, to.stat().st_size)
        return to

    def open_input(self, uri: str) -> BinaryIO:
        """A catalogue, whole in memory. The user has named it, so storage.sources.roots does not apply. Raises BadInput."""
        with self._source(uri, self.settings.sources.model_copy(update={"roots": None, "max_bytes": MAX_CATALOGUE_BYTES})) as (store, path):
            size = _check_size(uri, store.stat(path), MAX_CATALOGUE_BYTES, "for a catalogue").bytes
            data = store.read(path)
        _check_length(uri, size, len(data))
        return BytesIO(data)

    # -- AccessRefused becomes ConfigError for the storage, and BadInput for a source -----------------------------------

    @contextmanager
    def _at(self, uri: str) -> Iterator[tuple[Store, str]]:
        scheme, path = parse_uri(uri)
        try:
            yield self._store(scheme), path
        except AccessRefused as error:
            raise ConfigError(f"{error}; check storage.root, storage.options and the permissions there") from error

    @contextmanager
    def _source(self, uri: str, sources: SourceSettings) -> Iterator[tuple["Store | WebStore", str]]:
        scheme, path = check_source(uri, sources)
        try:
            yield self._web(sources.max_bytes) if scheme in WEB else self._store(scheme), path
        except (NotFound, AccessRefused) as error:
            raise BadInput(str(error)) from error

    def _web(self, max_bytes: int) -> "WebStore":
        from infinitedub.pipeline.storage.stores.web import WebStore

        return WebStore(parse_hosts(self.settings.sources.hosts), max_bytes, self.settings.attempts)

    def _store(self, scheme: str) -> Store:
        with self._lock:
            if scheme not in self._stores:
                self._stores[scheme] = self._open_store(scheme)
            return self._stores[scheme]

    def _open_store(self, scheme: str) -> Store:
        if scheme == "file":
            return FolderStore(self.settings.attempts)
        from infinitedub.pipeline.storage.stores.remote import (  # fsspec is expensive to import and not needed for folders
            REQUEST_ATTEMPTS,
            RemoteStore,
        )

        options = (self.settings.options.model_extra or {}).get(scheme, {})
        if scheme == "s3":
            s3 = self.settings.options.s3
            options = {
                "client_kwargs": {"endpoint_url": s3.endpoint_url, "region_name": s3.region_name},
                "config_kwargs": {
                    "s3": {"addressing_style": s3.addressing_style},
                    "request_checksum_calculation": s3.request_checksum_calculation,
                    "connect_timeout": s3.connect_seconds,
                    "read_timeout": s3.read_seconds,
                    "retries": {"mode": "standard", "total_max_attempts": REQUEST_ATTEMPTS},
                },
            }
        return RemoteStore(scheme, options, self.settings.attempts)


def _check_length(uri: str, announced: int, received: int) -> None:
    """Raises Transient unless as many bytes were received as were announced; 0 means that the length was not announced."""
    if announced and received != announced:
        raise Transient(f"{uri} had {announced} bytes, but {received} were received; it may have been written to at the same time")


def _check_size(uri: str, stat: FileStat, max_bytes: int, limit: str) -> FileStat:
    if stat.bytes > max_bytes:
        raise BadInput(f"{uri} has {stat.bytes} bytes; at most {max_bytes} are read ({limit})")
    return stat
