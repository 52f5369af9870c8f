"""The order of the chunks in a film."""

from collections.abc import Sequence

from infinitedub.stages.records import Chunk, Clip


def chunks_in_order(clips: Sequence[Clip]) -> tuple[Chunk, ...]:
    """Every chunk of the film in order. Raises ValueError if the clips leave a gap, overlap, or have more or fewer frames than their span."""
    if not clips:
        raise ValueError("a film needs at least one clip")
    stop = 0
    for clip in clips:
        if clip.span.start != stop:
            raise ValueError(f"clip {clip.segment} begins at frame {clip.span.start}, the one before it ends at {stop}")
        frames = sum(chunk.frames for chunk in clip.chunks)
        if frames != clip.span.frames:
            raise ValueError(f"clip {clip.segment} covers {clip.span.frames} frames, its chunks hold {frames}")
        stop = clip.span.stop
    if stop == 0:
        raise ValueError("a film needs at least one frame")
    return tuple(chunk for clip in clips for chunk in clip.chunks)
