"""Applies FFmpeg's video filters frame by frame."""

from collections.abc import Callable, Iterable, Iterator

import av

from infinitedub.stages.errors import BadInput

CRASHING_PIXEL_FORMATS = "yaf"  # prefix of grey floats with alpha, on which FFmpeg's scale filter aborts the whole process
Filters = tuple[tuple[str, str], ...]  # name and arguments of each, in order


def apply_filters(frames: Iterable[av.VideoFrame], choose: Callable[[av.VideoFrame], Filters]) -> Iterator[av.VideoFrame]:
    """The frames after the filters that `choose` returns for them. The graph is rebuilt when the size, pixel format or colour tags change.

    Raises BadInput for pixel formats that FFmpeg's filters do not support.
    """
    graph: av.filter.Graph | None = None
    graph_format = None
    for frame in frames:
        frame_format = (frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range), int(frame.color_trc))
        if graph is None or frame_format != graph_format:
            if graph is not None:
                graph.push(None)
                yield from _pull_frames(graph)
            if frame.format.name.startswith(CRASHING_PIXEL_FORMATS):
                raise BadInput(f"has the pixel format {frame.format.name}, which is not supported; convert it to H.264")
            try:
                graph, graph_format = _build_graph(frame, choose(frame)), frame_format
            except (av.error.ArgumentError, av.error.NotImplementedError) as error:
                raise BadInput(f"has the pixel format {frame.format.name}, which is not supported; convert it to H.264") from error
        graph.push(frame)
        yield from _pull_frames(graph)
    if graph is not None:
        graph.push(None)
        yield from _pull_frames(graph)


def _build_graph(frame: av.VideoFrame, filters: Filters) -> av.filter.Graph:
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


def _pull_frames(graph: av.filter.Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
