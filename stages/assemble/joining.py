"""The order in which the chunks of a film follow each other."""

from collections.abc import Sequence

from infinitedub.stages.records import Chunk, Clip


def joined(clips: Sequence[Clip]) -> tuple[Chunk, ...]:
    """Every chunk of the film in order. Raises ValueError where the clips leave a gap, overlap, or have more or fewer frames than their span."""
    if not clips:
        raise ValueError("a film needs at least one clip")
    reached = 0
    for clip in clips:
        if clip.span.start != reached:
            raise ValueError(f"clip {clip.segment} begins at frame {clip.span.start}, the one before it ends at {reached}")
        frames = sum(chunk.frames for chunk in clip.chunks)
        if frames != clip.span.frames:
            raise ValueError(f"clip {clip.segment} covers {clip.span.frames} frames, its chunks hold {frames}")
        reached = clip.span.stop
    if reached == 0:
        raise ValueError("a film needs at least one frame")
    return tuple(chunk for clip in clips for chunk in clip.chunks)
