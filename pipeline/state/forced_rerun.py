"""What a rerun makes anew although it is there."""

from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from infinitedub.stages.errors import BadInput
from infinitedub.stages.records import Segment


@dataclass(frozen=True)
class ForcedRerun:
    """Some segments of some jobs, from one of their windows to the end."""

    jobs: frozenset[str]
    segments: frozenset[int] | None  # None: all of them
    first_window: int
    reason: str  # kept in the ledger, beside what it put aside
    name: str = field(default="", compare=False)  # kept there as well: under one name nothing is put aside twice; empty for none

    def check(self, job: str, segments: tuple[Segment, ...]) -> None:
        """Raises BadInput unless the job, which has those segments, has what is to be made anew of it."""
        if job not in self.jobs:
            return
        known = {segment.index: segment for segment in segments}
        way_out = f"dub rerun --ids={job} leaves it as it is"
        if unknown := sorted((self.segments or set()) - known.keys()):
            raise BadInput(f"there is no segment {', '.join(map(str, unknown))} to make anew; the film has 0 to {len(segments) - 1}; {way_out}")
        for index in sorted(known.keys() if self.segments is None else self.segments):
            windows = len(known[index].windows)
            if self.first_window >= windows:
                raise BadInput(f"segment {index} has no window {self.first_window} to make anew; it has 0 to {windows - 1}; {way_out}")

    def concerns(self, job: str, segment: Segment) -> bool:
        return job in self.jobs and (self.segments is None or segment.index in self.segments)

    def as_record(self) -> dict[str, Any]:
        """As a run's record keeps it."""
        return {**TypeAdapter(ForcedRerun).dump_python(self, mode="json"), "jobs": sorted(self.jobs)}

    @staticmethod
    def of_record(kept: dict[str, Any]) -> "ForcedRerun":
        return TypeAdapter(ForcedRerun).validate_python(kept)

    def __str__(self) -> str:
        which = "all segments" if self.segments is None else f"segments {', '.join(map(str, sorted(self.segments)))}"
        return f"{which} made anew from window {self.first_window} on: {self.reason}"
