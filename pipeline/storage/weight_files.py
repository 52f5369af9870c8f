"""Reads the files of models for the check before start: those of the package, of folders, and of buckets."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infinitedub.pipeline.storage.storage import Storage
from infinitedub.pipeline.storage.stores.store import NotFound
from infinitedub.pipeline.storage.uris import parse_uri
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.weights.paths import bundled_path, is_bundled


@dataclass(frozen=True, slots=True)
class StoredWeightFiles:
    """Implements `WeightFiles` with a storage. A link to a file that is gone, as in a cache that was cleaned, counts as no file."""

    storage: Storage

    def sizes(self, location: str) -> Mapping[str, int]:
        scheme, path = self._place(location)
        if scheme == "file" and os.path.isdir(path):
            files = (Path(folder, name) for folder, _, names in os.walk(path, followlinks=True) for name in names)
            return {file.relative_to(path).as_posix(): file.stat().st_size for file in files if file.is_file()}
        try:
            return {name: stat.bytes for name, stat in self.storage.walk(path).items()}
        except ConfigError as error:
            if isinstance(error.__cause__, NotFound):
                return {}
            raise

    def read(self, location: str, name: str, start: int, stop: int) -> bytes:
        _, path = self._place(location)
        return self.storage.read_range(f"{path.rstrip('/')}/{name}" if name else path, start, stop)

    def _place(self, location: str) -> tuple[str, str]:
        return parse_uri(str(bundled_path(location)) if is_bundled(location) else location)
