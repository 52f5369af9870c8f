"""A forced rerun: which results `dub rerun --segments` makes again although they are committed."""

from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from infinitedub.stages.errors import BadInput
from infinitedub.stages.records import Segment


@dataclass(frozen=True)
class ForcedRerun:
    """Some segments of some jobs, from one of their windows to their last."""

    jobs: frozenset[str]
    segments: frozenset[int] | None  # None: all of them
    first_window: int
    reason: str  # stored in the ledger with the withdrawal
    id: str = field(default="", compare=False)  # stored there too: one id withdraws a result at most once; empty for no id

    def check_segments(self, job: str, segments: tuple[Segment, ...]) -> None:
        """Raises BadInput if the job does not have the segments and windows that are to be made again; `segments`: those that it has."""
        if job not in self.jobs:
            return
        known = {segment.index: segment for segment in segments}
        advice = f"to make no segment again, use dub rerun --ids={job}"
        if unknown := sorted((self.segments or set()) - known.keys()):
            raise BadInput(f"there is no segment {', '.join(map(str, unknown))} to make again; the film has 0 to {len(segments) - 1}; {advice}")
        for index in sorted(known.keys() if self.segments is None else self.segments):
            windows = len(known[index].windows)
            if self.first_window >= windows:
                raise BadInput(f"segment {index} has no window {self.first_window} to make again; it has 0 to {windows - 1}; {advice}")

    def applies_to(self, job: str, segment: Segment) -> bool:
        """Whether windows of this segment are to be made again."""
        return job in self.jobs and (self.segments is None or segment.index in self.segments)

    def to_json(self) -> dict[str, Any]:
        """As a run's run.json holds it."""
        return {**TypeAdapter(ForcedRerun).dump_python(self, mode="json"), "jobs": sorted(self.jobs)}

    @staticmethod
    def from_json(values: dict[str, Any]) -> "ForcedRerun":
        """The inverse of `to_json`."""
        return TypeAdapter(ForcedRerun).validate_python(values)

    def __str__(self) -> str:
        which = "all segments" if self.segments is None else f"segments {', '.join(map(str, sorted(self.segments)))}"
        return f"{which} made again from window {self.first_window} on: {self.reason}"
