"""Segment: finds the shots of a film and plans their windows."""

from infinitedub.stages.contract import Files, Rank
from infinitedub.stages.records import Length, Segment, Source
from infinitedub.stages.segment.plan import film_frames, join_flashes, plan_segments
from infinitedub.stages.segment.settings import SegmentSettings


class SegmentStage:
    """Source and length policy in, the film's segments out. A photograph is one segment."""

    def __init__(self, config: SegmentSettings) -> None:
        self.config = config

    def open(self, rank: Rank) -> None:
        """Nothing to load: the detectors are small and are created for each film."""

    def __call__(self, source: Source, length: Length | None, *, files: Files) -> tuple[Segment, ...]:
        n_frames = film_frames(source, length)
        return plan_segments(
            n_frames,
            source.n_frames,
            self._cuts(source, files),
            window_frames=self.config.window_frames,
            overlap_frames=self.config.motion_frames,
            extend=self.config.extend,
        )

    def close(self) -> None:
        """Nothing to release."""

    def _cuts(self, source: Source, files: Files) -> tuple[int, ...]:
        if not source.moving or self.config.detector == "off":
            return ()
        from infinitedub.stages.segment.scenes import find_cuts

        cuts, n_frames = find_cuts(files.fetch(source.picture), self.config)
        if n_frames != source.n_frames:  # ingest counted the frames of this file: a difference is a bug, and would shift all later cuts
            raise RuntimeError(f"{source.picture.uri} holds {n_frames} frames, but its record says {source.n_frames}")
        return join_flashes(cuts, source.n_frames, self.config.min_shot_frames)
