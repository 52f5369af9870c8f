"""The one door to everything that outlives a process: results, run logs, films; and to what the catalogue names."""

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

from infinitedub.pipeline.storage.sources import WEB, SourceSettings, admitted
from infinitedub.pipeline.storage.stores.folder import FolderStore
from infinitedub.pipeline.storage.stores.hosts import read_hosts
from infinitedub.pipeline.storage.stores.store import Found, Missing, Refused, Stat, Store, Taken, Unfinished
from infinitedub.pipeline.storage.uris import UNPRINTABLE, locate
from infinitedub.stages.errors import BadInput, ConfigError, Transient
from infinitedub.stages.settings import Neutral, Settings

if TYPE_CHECKING:
    from infinitedub.pipeline.storage.stores.web import WebStore

SECRET = re.compile(r"(^|_)(key|secret|token|password|passwd|credentials?|connection_string|username)$", re.IGNORECASE)
MAX_CATALOGUE_BYTES = 256 << 20  # read as a whole, by the driver


class S3Options(Settings):
    """How an S3 server is reached. Who we are comes from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and their kin."""

    endpoint_url: Neutral[str | None]
    """Address of the server; null for AWS itself."""
    region_name: Neutral[str | None]
    """Region of the bucket; null for AWS_DEFAULT_REGION, and us-east-1 where that is not set."""
    addressing_style: Neutral[Literal["auto", "path", "virtual"]]
    """Whether the bucket is part of the path or of the host name."""
    request_checksum_calculation: Neutral[Literal["when_supported", "when_required"]]
    """when_required for servers that refuse the checksums newer clients send."""
    connect_seconds: Neutral[float] = Field(gt=0)
    """How long to wait for a connection."""
    read_seconds: Neutral[float] = Field(gt=0)
    """How long to wait for the next bytes of an answer."""


class Options(Settings):
    """Per kind of storage; those of other kinds than s3 go to their fsspec file system as they are."""

    model_config = ConfigDict(extra="allow")

    s3: S3Options

    @model_validator(mode="before")
    @classmethod
    def _no_secrets(cls, given: Any) -> Any:
        # A ConfigError goes past pydantic, which would print the secret with its complaint.
        for path in _secrets(given, "storage.options"):
            raise ConfigError(f"{path}: credentials come from the environment only (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ...); take it out")
        return given


def _secrets(given: Any, path: str) -> Iterator[str]:
    if isinstance(given, dict):
        for name, value in given.items():
            if SECRET.search(str(name)):
                yield f"{path}.{name}"
            yield from _secrets(value, f"{path}.{name}")


class StorageSettings(Settings):
    """Where results lie and what may be read."""

    root: Neutral[str]
    """Folder or URI under which everything is kept: films, results of stages, run logs. All nodes must see the same."""
    options: Options
    """Per kind of storage, how it is reached."""
    sources: SourceSettings
    """What a catalogue may name."""
    cache: Neutral[str]
    """Folder on each node's own disk for scratch files and fetched results."""
    cache_gib: Neutral[float] = Field(ge=0)
    """How much of fetched results to keep there; the longest unused go first."""
    attempts: Neutral[int] = Field(ge=1)
    """How often a call is tried when the storage fails in a way that may pass."""

    @field_validator("root")
    @classmethod
    def _root_is_absolute(cls, root: str) -> str:
        # Workers have other working directories than the driver.
        try:
            scheme, path = locate(root)
        except BadInput as error:
            raise ValueError(str(error)) from None
        if scheme != "file" and "@" in urlsplit(path).netloc:
            raise ConfigError("storage.root: credentials come from the environment only; take out what stands before the @")
        return path.rstrip("/") or ("/" if scheme == "file" else path)

    @field_validator("cache")
    @classmethod
    def _cache_is_absolute(cls, cache: str) -> str:
        return os.path.abspath(os.path.expanduser(cache))


class Storage:
    """Files by their name under the root, and by URI anywhere. Made anew from its settings in each process; safe to share between threads."""

    def __init__(self, settings: StorageSettings) -> None:
        self.settings = settings
        self.root = settings.root
        self._stores: dict[str, Store] = {}
        self._lock = Lock()

    def __reduce__(self) -> tuple[type["Storage"], tuple[StorageSettings]]:
        return Storage, (self.settings,)

    # -- by name, under the root --------------------------------------------------------------------------------------

    def uri(self, name: str) -> str:
        """Where `name` lies: a path where the root is a folder."""
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or str(path) != name or UNPRINTABLE.search(name):
            raise ValueError(f"{name!r} is not a plain relative name")
        return f"{self.root}/{name}"

    def read(self, name: str) -> bytes | None:
        """The bytes; None where nothing of that name is there."""
        with self._at(self.uri(name)) as (store, path):
            try:
                return store.read(path)
            except Missing:
                return None

    def create(self, name: str, data: bytes) -> bool:
        """Puts the bytes unless something else is there, in which case it is False and nothing has changed.

        Where the answer to a first try was lost, the second is refused though the object is ours: so what is there is compared.
        Some servers (Swift) check first and write then: of two creators at one instant both may be told True, and either's bytes stay.
        """
        if not data:
            raise ValueError(f"{name}: an empty file cannot be created exclusively")
        with self._at(self.uri(name)) as (store, path):
            for _ in range(self.settings.attempts):
                try:
                    store.create(path, data)
                except Taken:
                    found = self.read(name)
                    if found is not None:
                        return found == data
                else:
                    return True
        raise Transient(f"{path}: the server says that something is there, and that nothing is there; {self.settings.attempts} tries")

    def put(self, name: str, source: bytes | Path) -> str:
        """Puts bytes or a local file in one step over what was there. Returns its URI."""
        if isinstance(source, Path) and not source.is_file():
            raise FileNotFoundError(f"{source} is not there, so it cannot be put at {name}")
        with self._at(self.uri(name)) as (store, path):
            store.put(path, source)
            return path

    def list(self, name: str) -> list[str]:
        """What lies right under `name`, files and folders, sorted."""
        with self._at(self.uri(name)) as (store, path):
            return store.list(path)

    def delete(self, name: str) -> None:
        """Takes the file away, if it is there."""
        with self._at(self.uri(name)) as (store, path):
            store.delete(path)

    # -- looking over everything, for `dub gc` ------------------------------------------------------------------------

    def now(self) -> float:
        """What the clock says that dates the files: the server's own, where it tells. Seconds since 1970."""
        with self._at(self.root) as (store, path):
            return store.now(path)

    def scan(self, name: str) -> Iterator[Found]:
        """Every file below `name`, those of one folder together; for any number of them, since they come as they are listed."""
        with self._at(self.uri(name)) as (store, path):
            yield from store.scan(path)

    def unfinished(self) -> Iterator[Unfinished]:
        """Every write under the root that has begun and not ended: under way, or broken off."""
        with self._at(self.root) as (store, path):
            yield from store.unfinished(path)

    def discard(self, write: Unfinished) -> None:
        """Ends a write that will never end of itself."""
        with self._at(write.path) as (store, path):
            store.discard(write)
            store.tidy(path.rpartition("/")[0], self.root)

    def tidy(self, name: str) -> None:
        """Takes the folder away if it is empty, and those above it that it leaves empty."""
        with self._at(self.uri(name)) as (store, path):
            store.tidy(path, self.root)

    # -- by URI, what we made or were configured with -----------------------------------------------------------------

    def stat(self, uri: str) -> Stat | None:
        """Size and version of a file; None where it is not there."""
        with self._at(uri) as (store, path):
            try:
                return store.stat(path)
            except Missing:
                return None

    def download(self, uri: str, to: Path) -> None:
        """Copies a file here, over `to`. Raises Missing."""
        with self._at(uri) as (store, path):
            store.download(path, to)

    def walk(self, uri: str) -> dict[str, Stat]:
        """Every file below a folder, by relative name; for a file, itself under the empty name. Raises ConfigError where there is none."""
        with self._at(uri) as (store, path):
            try:
                return store.walk(path) or {"": store.stat(path)}
            except Missing as error:
                raise ConfigError(f"{uri}: nothing is there") from error

    def read_range(self, uri: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` of a file, fewer at its end."""
        with self._at(uri) as (store, path):
            return store.read_range(path, start, stop)

    # -- by URI, what the catalogue names -----------------------------------------------------------------------------

    def stat_input(self, uri: str) -> Stat:
        """Size and version. Raises BadInput for what is not there, may not be read, or is too large."""
        with self._given(uri, self.settings.sources) as (store, path):
            return _small_enough(uri, store.stat(path), self.settings.sources.max_bytes, "storage.sources.max_bytes")

    def fetch_input(self, uri: str, to: Path) -> Path:
        """A local path to the file: its own where it lies in a folder, else `to`, where it is copied to. Raises BadInput."""
        with self._given(uri, self.settings.sources) as (store, path):
            size = _small_enough(uri, store.stat(path), self.settings.sources.max_bytes, "storage.sources.max_bytes").bytes
            if isinstance(store, FolderStore):
                return Path(path)
            store.download(path, to)
        _all_came(uri, size, to.stat().st_size)
        return to

    def open_input(self, uri: str) -> BinaryIO:
        """A catalogue, whole in memory. Whoever launches the run has named it, so storage.sources.roots does not bind it. Raises BadInput."""
        with self._given(uri, self.settings.sources.model_copy(update={"roots": None, "max_bytes": MAX_CATALOGUE_BYTES})) as (store, path):
            size = _small_enough(uri, store.stat(path), MAX_CATALOGUE_BYTES, "for a catalogue").bytes
            data = store.read(path)
        _all_came(uri, size, len(data))
        return BytesIO(data)

    # -- whose fault it is when a place is no use ---------------------------------------------------------------------

    @contextmanager
    def _at(self, uri: str) -> Iterator[tuple[Store, str]]:
        scheme, path = locate(uri)
        try:
            yield self._store(scheme), path
        except Refused as error:
            raise ConfigError(f"{error}; check storage.root, storage.options and the permissions there") from error

    @contextmanager
    def _given(self, uri: str, sources: SourceSettings) -> Iterator[tuple["Store | WebStore", str]]:
        scheme, path = admitted(uri, sources)
        try:
            yield self._web(sources.max_bytes) if scheme in WEB else self._store(scheme), path
        except (Missing, Refused) as error:
            raise BadInput(str(error)) from error

    def _web(self, max_bytes: int) -> "WebStore":
        from infinitedub.pipeline.storage.stores.web import WebStore

        return WebStore(read_hosts(self.settings.sources.hosts), max_bytes, self.settings.attempts)

    def _store(self, scheme: str) -> Store:
        with self._lock:
            if scheme not in self._stores:
                self._stores[scheme] = self._opened(scheme)
            return self._stores[scheme]

    def _opened(self, scheme: str) -> Store:
        if scheme == "file":
            return FolderStore(self.settings.attempts)
        from infinitedub.pipeline.storage.stores.remote import (  # fsspec's world is dear to import and not needed for folders
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


def _all_came(uri: str, said: int, came: int) -> None:
    """Raises Transient unless as many bytes came as were said to be there; where nothing was said, 0, any number will do."""
    if said and came != said:
        raise Transient(f"{uri} had {said} bytes and {came} came; was it being written?")


def _small_enough(uri: str, found: Stat, max_bytes: int, why: str) -> Stat:
    if found.bytes > max_bytes:
        raise BadInput(f"{uri} has {found.bytes} bytes; at most {max_bytes} are read ({why})")
    return found
