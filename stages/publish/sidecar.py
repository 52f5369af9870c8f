"""The sidecar of a film: what identifies it, and everything needed to make it again."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infinitedub.stages.publish.film_check import FilmProperties
from infinitedub.stages.records import Film, Job, Provenance, Source

VERSION = 1


def build_sidecar(job: Job, source: Source, film: Film, found: FilmProperties, provenance: Provenance, names: dict[str, str]) -> dict[str, Any]:
    """The content of the sidecar; `names` maps the role of each delivered file ("film", "comparison") to its name under the storage root."""
    return {
        "version": VERSION,
        "job": asdict(job),
        "source": asdict(source),
        "film": {
            "sha256": film.file.sha256,
            "bytes": film.file.bytes,
            "fps": film.fps,
            "seconds": film.frames / film.fps,
            "drift_ms": film.drift_ms,
            **asdict(found),
        },
        "files": names,
        "made_by": asdict(provenance),
    }


def write_sidecar(content: dict[str, Any], path: Path) -> None:
    """Writes the sidecar as UTF-8 JSON, indented. Raises ValueError for NaN or infinity."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n", encoding="utf-8")
