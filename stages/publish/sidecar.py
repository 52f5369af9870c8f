"""What is written beside a film: enough to make it again, and to know it again."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infinitedub.stages.publish.film_check import Seen
from infinitedub.stages.records import Film, Job, Provenance, Source

VERSION = 1


def sidecar(job: Job, source: Source, film: Film, seen: Seen, provenance: Provenance, names: dict[str, str]) -> dict[str, Any]:
    """The sidecar's content; `names` says under which name each delivered file stands, by what it is."""
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
            **asdict(seen),
        },
        "files": names,
        "made_by": asdict(provenance),
    }


def write_sidecar(content: dict[str, Any], path: Path) -> None:
    """Writes it as JSON for people and programs: UTF-8, indented, no NaN."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n", encoding="utf-8")
