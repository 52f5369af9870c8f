"""`StageFiles`: the files of one stage call, fetched from and stored in the storage."""

import re
from collections.abc import Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self, TypeVar
from uuid import uuid4

from infinitedub.pipeline.state.content_keys import source_fingerprint
from infinitedub.pipeline.state.ledger import Ledger, folder_of
from infinitedub.pipeline.storage.artifact_cache import sha256_of, verify
from infinitedub.pipeline.storage.scratch import scratch_folder
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.pipeline.storage.stores.store import NotFound
from infinitedub.pipeline.storage.uris import parse_uri
from infinitedub.stages.errors import BadInput, Damaged
from infinitedub.stages.records import Artifact

T = TypeVar("T")

SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}$")


class StageFiles:
    """The `Files` of a stage call, for the duration of a `with` block. Stored files get a folder of this attempt, so calls never share files."""

    def __init__(self, storage: Storage, *, stage: str, key: str, sources: Mapping[str, str] = MappingProxyType({})) -> None:
        """`sources`: the fingerprint of each source when the key was made of it."""
        self._sources = sources
        self.attempt = uuid4().hex
        self._storage = storage
        self._ledger = Ledger(storage)
        self._stage, self._key = stage, key
        self._home = f"{folder_of(stage, key)}/{self.attempt}"
        self._calls = Path(storage.settings.cache) / "calls"
        self._numbers = count()
        self._stored: set[str] = set()
        self._exit_stack = ExitStack()

    def __enter__(self) -> Self:
        self._folder = self._exit_stack.enter_context(scratch_folder(self._calls))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._exit_stack.close()

    def fetch(self, what: Artifact | str) -> Path:
        """A local, read-only path to a verified artifact or to a source.

        Raises BadInput if a source does not exist or is not the version that the run has seen, Damaged for an artifact that is gone or altered, and
        Transient if the storage fails.
        """
        if isinstance(what, str):
            source = self._storage.fetch_input(what, self._new_path(what))
            self._check_source(what)
            return source
        scheme, path = parse_uri(what.uri)
        if scheme == "file":
            if self._storage.stat(what.uri) is None:
                raise Damaged(f"{what.uri} does not exist any more; run again, and it is made again")
            verify(Path(path), what)
            return Path(path)
        local = self._new_path(what.uri)
        try:
            self._storage.cache.link(what, local, lambda to: self._storage.download(what.uri, to))
        except NotFound as error:
            raise Damaged(f"{what.uri} does not exist any more; run again, and it is made again") from error
        return local

    def release(self, path: Path) -> None:
        """Frees the disk space of a fetched file that this call does not need any more; the storage keeps the original."""
        if path.is_relative_to(self._folder):
            path.unlink(missing_ok=True)

    def check_sources(self) -> None:
        """Raises BadInput if a source has changed since the run looked at it: what was read may belong to several versions."""
        for uri in self._sources:
            self._check_source(uri)

    def store(self, path: Path, kind: str) -> Artifact:
        """Stores a finished local file permanently."""
        name = path.name
        while name in self._stored:
            name = f"{next(self._numbers)}-{path.name}"
        self._stored.add(name)
        size, digest = path.stat().st_size, sha256_of(path)
        uri = self._storage.put(f"{self._home}/{name}", path)
        return Artifact(uri, digest, size, kind)

    def load_checkpoint(self, number: int, type_: type[T]) -> T | None:
        """The part that this call or an earlier one for the same key has committed; None if there is none, or if its files do not exist any more."""
        found: T | None = self._ledger.find(self._stage, self._key, type_, part=number)
        return found

    def save_checkpoint(self, number: int, record: T) -> T:
        """Commits a part of the result. Returns the valid record: the given one, or that of another call that committed first."""
        valid: T = self._ledger.commit(self._stage, self._key, self.attempt, record, part=number)
        return valid

    def scratch(self) -> Path:
        """A new local folder that is removed when the call ends."""
        folder = self._folder / f"scratch-{next(self._numbers)}"
        folder.mkdir()
        return folder

    def deliver(self, path: Path, name: str) -> str:
        """Writes a finished local file to `name` under the storage root in one step, replacing an existing one. Returns its URI."""
        return self._storage.put(name, path)

    def _check_source(self, uri: str) -> None:
        seen = self._sources.get(uri)
        if seen is not None and (now := source_fingerprint(self._storage, uri)) != seen:
            raise BadInput(f"{uri} has changed while the run read it (size and version were {seen}, now {now}); leave sources alone during a run")

    def _new_path(self, uri: str) -> Path:
        """A new path in this call's folder, with the suffix of the URI, since some readers depend on it."""
        suffix = SUFFIX.search(uri)
        return self._folder / f"fetched-{next(self._numbers)}{suffix[0] if suffix else ''}"
