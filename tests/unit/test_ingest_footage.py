"""Footage of every format becomes upright footage of one rate and colour space, and no frame is lost."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infinitedub.stages.media.video_io import read_all
from infinitedub.stages.records import Box
from tests.unit.ingesting import gradient, ingest, noise


def test_footage_at_the_right_rate_passes_frame_for_frame(media, files, frame_numbers) -> None:
    source = ingest(files, media.footage("a.mp4", 30), media.speech())
    assert (source.moving, source.width, source.height, source.fps, source.n_frames) == (True, 64, 48, 25, 30)
    assert source.picture.kind == "footage/mp4"
    assert frame_numbers(files.fetch(source.picture)) == list(range(30))


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi"])
@pytest.mark.parametrize(
    ("rate", "wanted"),
    [
        (30, [0, 1, 2, 4, 5, 6, 7, 8, 10, 11]),
        (Fraction(30000, 1001), [0, 1, 2, 4, 5, 6, 7, 8, 10, 11]),
        (Fraction(24000, 1001), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11]),
        (50, [0, 2, 4, 6, 8, 10]),
        (10, [n for n in range(12) for _ in range(3 - n % 2)]),
    ],
)
def test_any_rate_is_converted_by_time_stamps(media, files, frame_numbers, name: str, rate: Fraction, wanted: list[int]) -> None:
    source = ingest(files, media.footage(name, 12, rate=rate, options={"bf": "0"}), media.speech())
    assert source.n_frames == len(wanted)
    assert frame_numbers(files.fetch(source.picture)) == wanted


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_variable_rate_is_converted_by_time_stamps(media, files, frame_numbers, name: str) -> None:
    frames = [0, 1, 2, 7, 8, 20]  # the first output frame that shows each
    path = media.footage(name, 6, ticks=[frame * 3600 for frame in frames], options={"bf": "0"})
    got = frame_numbers(files.fetch(ingest(files, path, media.speech()).picture))
    assert got[:21] == [0, 1, *[2] * 5, 3, *[4] * 12, 5]
    assert set(got[21:]) <= {5}


def test_time_stamps_may_begin_anywhere(media, files, frame_numbers) -> None:
    path = media.footage("a.mkv", 10, ticks=[450000 + 3600 * n for n in range(10)], options={"bf": "0"})
    assert frame_numbers(files.fetch(ingest(files, path, media.speech()).picture)) == list(range(10))


@pytest.mark.parametrize(
    ("matrix", "upright"),
    [
        ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),
        ((0, -1, 1, 0), np.rot90),
        ((-1, 0, 0, -1), lambda picture: picture[::-1, ::-1]),
        ((-1, 0, 0, 1), lambda picture: picture[:, ::-1]),
        ((1, 0, 0, -1), lambda picture: picture[::-1]),
        ((0, 1, 1, 0), lambda picture: picture.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda picture: np.rot90(picture, 2).transpose(1, 0, 2)),
    ],
)
def test_footage_is_set_upright(media, files, matrix: tuple[int, int, int, int], upright) -> None:
    source = ingest(files, media.footage("a.mp4", [gradient()] * 3, matrix=matrix), media.speech())
    want = upright(gradient()).astype(int)
    assert (source.height, source.width) == want.shape[:2]
    assert all(np.abs(frame - want).mean() < 3 for frame in read_all(files.fetch(source.picture)))


@pytest.mark.parametrize("order", ["picture first", "sound first"])
def test_no_stream_loses_its_last_frames_to_another(media, files, portrait: Path, frame_numbers, order: str) -> None:
    """Decoders return their last frames when they are flushed; B-frames and AAC make both streams have some."""
    import av

    original, path = media.footage("original.mp4", 20, sound=noise(1, 12800, 16), options={"bf": "3"}), media.folder / "a.mkv"
    with av.open(str(original)) as container, av.open(str(path), "w") as copy:
        found = [*container.streams.video, *container.streams.audio]
        streams = {stream.index: copy.add_stream_from_template(stream) for stream in (found if order == "picture first" else found[::-1])}
        for packet in container.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                copy.mux(packet)
    assert frame_numbers(files.fetch(ingest(files, path, media.speech()).picture)) == list(range(20))
    assert ingest(files, portrait, path).voices[0].n_samples >= 12800


def test_pixels_become_square(media, files) -> None:
    source = ingest(files, media.footage("a.mp4", 3, size=(72, 58), aspect=Fraction(16, 11)), media.speech())
    assert (source.width, source.height) == (104, 58)


def test_odd_sizes_become_even_without_blur(media, files) -> None:
    original = np.full((49, 65, 3), 60, np.uint8)
    original[:, ::2] = 200  # stripes of one pixel; scaling by 64/65 would blur them to grey in the middle
    source = ingest(files, media.footage("a.mp4", [original] * 3, pixel_format="yuv444p", options={"crf": "1"}), media.speech())
    assert (source.width, source.height) == (64, 48)
    assert np.abs(next(read_all(files.fetch(source.picture))).astype(int) - original[:48, :64]).max() < 30


@pytest.mark.parametrize("matrix", [None, (0, 1, -1, 0)])
def test_large_footage_is_scaled_down_with_its_boxes(media, files, matrix) -> None:
    path = media.footage("a.mp4", [gradient(200, 100)] * 3, matrix=matrix)
    source = ingest(files, path, media.speech(), boxes=(Box(20, 40, 60, 100),), max_side_px=100)
    assert (source.width, source.height) == ((100, 50) if matrix is None else (50, 100))
    assert source.voices[0].box == Box(10, 20, 30, 50)


@pytest.mark.parametrize("pixel_format", ["yuv420p10le", "yuv422p", "yuv444p", "yuvj420p"])
def test_pixel_formats_are_converted(media, files, pixel_format: str) -> None:
    source = ingest(files, media.footage("a.mp4", [gradient()] * 3, pixel_format=pixel_format), media.speech())
    assert np.abs(next(read_all(files.fetch(source.picture))).astype(int) - gradient()).mean() < 3


def test_rgb_footage_keeps_its_colors(media, files) -> None:
    source = ingest(files, media.footage("a.mkv", [gradient()] * 3, codec="libx264rgb", pixel_format="rgb24"), media.speech())
    assert np.abs(next(read_all(files.fetch(source.picture))).astype(int) - gradient()).mean() < 3


def test_high_definition_without_tags_is_bt709(media, files) -> None:
    """With the wrong matrix, red would be off by a dozen levels."""
    import av

    red = np.full((720, 1280, 3), (200, 30, 30), np.uint8)
    path = media.folder / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        frame = av.VideoFrame.from_ndarray(red, format="rgb24").reformat(format="yuv420p", dst_colorspace=1)
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    source = ingest(files, path, media.speech())
    assert np.abs(next(read_all(files.fetch(source.picture))).astype(int) - red).max() < 5


def test_high_dynamic_range_is_converted_to_standard_range(media, files) -> None:
    """PQ at 1/4 and 1/2 of its range is 5.2 and 92 cd/m2 (SMPTE ST 2084); diffuse white is 203 (ITU-R BT.2408), the screen's gamma 2.4 (BT.1886)."""

    def tag_as_pq(stream) -> None:
        codec = stream.codec_context
        codec.color_trc, codec.color_primaries, codec.colorspace, codec.color_range = 16, 9, 9, 1

    frames = [np.full((48, 64, 3), level, np.uint8) for level in (0, 64, 128, 255)]
    path = media.footage(
        "a.mp4", frames, codec="libx265", pixel_format="yuv420p10le", configure=tag_as_pq, options={"x265-params": "log-level=none:crf=1"}
    )
    black, dark, middle, bright = (float(frame.mean()) for frame in read_all(files.fetch(ingest(files, path, media.speech()).picture)))
    assert black < 2
    assert dark == pytest.approx((5.2 / 203) ** (1 / 2.4) * 255, abs=3)
    assert middle == pytest.approx((92 / 203) ** (1 / 2.4) * 255, abs=3)
    assert bright > 253


def test_interlaced_footage_is_deinterlaced(media, files) -> None:
    """A bar that moves between two fields leaves a comb in the frame; deinterlacing removes most of it."""

    def interlaced_frame(number: int) -> np.ndarray:
        frame = np.full((96, 128, 3), 40, np.uint8)
        for field in (0, 1):
            left = 10 + 8 * number + 4 * field
            frame[field::2, left : left + 30] = 220
        return frame

    def comb_strength(frame: np.ndarray) -> float:
        rows = frame.astype(int)
        return float(np.abs(2 * rows[1:-1] - rows[:-2] - rows[2:]).mean())

    def encode_interlaced(stream) -> None:
        stream.codec_context.options = {"x264-params": "tff=1", "crf": "4"}

    original = [interlaced_frame(number) for number in range(8)]
    path = media.footage("a.mp4", original, configure=encode_interlaced)
    source = ingest(files, path, media.speech())
    assert source.n_frames == 8
    after = [comb_strength(frame) for frame in read_all(files.fetch(source.picture))]
    assert max(after[1:-1]) < 0.5 * comb_strength(original[3])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_is_footage(media, files, kind: str) -> None:
    path = media.folder / "a.jpg"
    frames = [Image.fromarray(np.full((48, 64, 3), 20 + 60 * number, np.uint8)) for number in range(3)]
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=[80, 200, 120], loop=0)
    source = ingest(files, path, media.speech())
    assert (source.moving, source.n_frames) == (True, 10)
    levels = [round((float(frame.mean()) - 20) / 60) for frame in read_all(files.fetch(source.picture))]
    assert levels == [0, 0, 1, 1, 1, 1, 1, 2, 2, 2]


def test_normalised_footage_has_the_same_bytes_every_time(media, files) -> None:
    path = media.footage("a.mp4", [gradient()] * 5, rate=30)
    assert ingest(files, path, media.speech()).picture.sha256 == ingest(files, path, media.speech()).picture.sha256
