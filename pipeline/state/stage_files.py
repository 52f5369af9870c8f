"""Storage as one call of one stage sees it."""

import re
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from uuid import uuid4

from infinitedub.pipeline.state.ledger import Ledger, folder_of
from infinitedub.pipeline.storage.artifact_cache import Cache, sha256_of, verify
from infinitedub.pipeline.storage.scratch import scratch_folder
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.pipeline.storage.stores.store import Missing
from infinitedub.pipeline.storage.uris import locate
from infinitedub.stages.errors import Transient
from infinitedub.stages.records import Artifact

T = TypeVar("T")

SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}$")


class StageFiles:
    """The `Files` of a stage, for the length of a `with` block. What is kept lies under an attempt of its own: no call touches another's files."""

    def __init__(self, storage: Storage, *, stage: str, key: str) -> None:
        self.attempt = uuid4().hex
        self._storage = storage
        self._ledger = Ledger(storage)
        self._stage, self._key = stage, key
        self._home = f"{folder_of(stage, key)}/{self.attempt}"
        node = Path(storage.settings.cache)
        self._calls = node / "calls"
        self._cache = Cache(node / "results", int(storage.settings.cache_gib * 2**30))
        self._numbers = count()
        self._kept: set[str] = set()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._folder = self._open.enter_context(scratch_folder(self._calls))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    def fetch(self, what: Artifact | str) -> Path:
        """A local, read-only path to an artifact, verified, or to a URI of the catalogue. Raises BadInput (not there) or Transient."""
        if isinstance(what, str):
            return self._storage.fetch_input(what, self._place(what))
        scheme, path = locate(what.uri)
        if scheme == "file":
            place = Path(path)
            if self._storage.stat(what.uri) is None:
                raise Transient(f"{what.uri} is gone from the storage; run again and it will be made anew")
            verify(place, what)
            return place
        place = self._place(what.uri)
        try:
            self._cache.link(what, place, lambda part: self._storage.download(what.uri, part))
        except Missing as error:
            raise Transient(f"{what.uri} is gone from the storage; run again and it will be made anew") from error
        return place

    def store(self, path: Path, kind: str) -> Artifact:
        """Stores a finished local file for good and says where."""
        name = path.name
        while name in self._kept:
            name = f"{next(self._numbers)}-{path.name}"
        self._kept.add(name)
        size, digest = path.stat().st_size, sha256_of(path)
        uri = self._storage.put(f"{self._home}/{name}", path)
        return Artifact(uri, digest, size, kind)

    def load_checkpoint(self, number: int, type_: type[T]) -> T | None:
        """What this call or an earlier one for the same key has remembered under `number`; None where nothing is, or where its files have gone."""
        found: T | None = self._ledger.find(self._stage, self._key, type_, part=number)
        return found

    def save_checkpoint(self, number: int, record: T) -> T:
        """Commits a piece of the result. Returns what holds from now on: the given record, or that of another call that was quicker."""
        held: T = self._ledger.commit(self._stage, self._key, self.attempt, record, part=number)
        return held

    def scratch(self) -> Path:
        """A fresh local directory that is gone when the call has ended."""
        folder = self._folder / f"scratch-{next(self._numbers)}"
        folder.mkdir()
        return folder

    def deliver(self, path: Path, name: str) -> str:
        """Puts a finished local file atomically at `name` under the storage root, over what was there. Returns its URI."""
        return self._storage.put(name, path)

    def _place(self, uri: str) -> Path:
        """A new name in this call's folder, ending as the URI does, since some readers look at that."""
        suffix = SUFFIX.search(uri)
        return self._folder / f"fetched-{next(self._numbers)}{suffix[0] if suffix else ''}"
