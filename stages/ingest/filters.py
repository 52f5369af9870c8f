"""FFmpeg's picture filters, fed frame by frame."""

from collections.abc import Callable, Iterable, Iterator

import av

from infinitedub.stages.errors import BadInput

FATAL = "yaf"  # grey floats with alpha, over which FFmpeg's scale filter aborts the whole process
Filters = tuple[tuple[str, str], ...]  # name and arguments of each, in order


def filtered(frames: Iterable[av.VideoFrame], choose: Callable[[av.VideoFrame], Filters]) -> Iterator[av.VideoFrame]:
    """The frames after the filters that `choose` names for their kind; the chain is built anew where size, format or colour change.

    Raises BadInput for pictures that no filter takes.
    """
    graph: av.filter.Graph | None = None
    kind = None
    for frame in frames:
        seen = (frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range), int(frame.color_trc))
        if graph is None or seen != kind:
            if graph is not None:
                graph.push(None)
                yield from _ready(graph)
            if frame.format.name.startswith(FATAL):
                raise BadInput(f"has the pixel format {frame.format.name}, which cannot be converted here; convert it to H.264")
            try:
                graph, kind = _build(frame, choose(frame)), seen
            except (av.error.ArgumentError, av.error.NotImplementedError) as error:
                raise BadInput(f"has the pixel format {frame.format.name}, which cannot be converted here; convert it to H.264") from error
        graph.push(frame)
        yield from _ready(graph)
    if graph is not None:
        graph.push(None)
        yield from _ready(graph)


def _build(frame: av.VideoFrame, filters: Filters) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add(
        "buffer",
        video_size=f"{frame.width}x{frame.height}",
        pix_fmt=frame.format.name,
        time_base=str(frame.time_base),
        pixel_aspect="1/1",
        colorspace=str(int(frame.colorspace)),
        range=str(int(frame.color_range)),
    )
    nodes = [source, *(graph.add(name, arguments) for name, arguments in filters), graph.add("buffersink")]
    graph.link_nodes(*nodes).configure()
    return graph


def _ready(graph: av.filter.Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
