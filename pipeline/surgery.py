"""What a rerun makes anew although it is there."""

from dataclasses import dataclass, field

from stages.errors import BadInput
from stages.records import Segment


@dataclass(frozen=True)
class Surgery:
    """Some segments of every job of a run, from one of their windows to the end."""

    segments: frozenset[int] | None  # None: all of them
    first_window: int
    reason: str  # kept in the ledger, beside what it put aside
    name: str = field(default="", compare=False)  # kept there as well: under one name nothing is put aside twice; empty for none

    def check(self, segments: tuple[Segment, ...]) -> None:
        """Raises BadInput unless a job of `segments` has what is to be made anew."""
        known = {segment.index: segment for segment in segments}
        if unknown := sorted((self.segments or set()) - known.keys()):
            raise BadInput(f"there is no segment {', '.join(map(str, unknown))} to make anew; the film has 0 to {len(segments) - 1}")
        for index in sorted(known.keys() if self.segments is None else self.segments):
            windows = len(known[index].windows)
            if self.first_window >= windows:
                raise BadInput(f"segment {index} has no window {self.first_window} to make anew; it has 0 to {windows - 1}")

    def concerns(self, segment: Segment) -> bool:
        return self.segments is None or segment.index in self.segments
