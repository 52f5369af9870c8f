"""Reading and writing the product's own video files: exact, by frame number, and identical with every reader."""

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from infinitedub.stages.media import video_io
from infinitedub.stages.media.video_io import read_all, read_frames, read_with_decord, read_with_pyav, write_lossless

BY_DECORD = pytest.param(read_with_decord, marks=pytest.mark.skipif(find_spec("decord") is None, reason="decord is not available on this machine"))
READERS = [read_frames, BY_DECORD, read_with_pyav]

Reader = Callable[[Path, Sequence[int]], Iterator[np.ndarray]]


def moving(count: int, height: int = 48, width: int = 112) -> list[np.ndarray]:
    """Frames with detail and motion, so that most are predicted from others and a wrong frame differs."""
    y, x = np.mgrid[:height, :width]
    return [np.stack([(3 * x + 5 * i) % 256, (2 * y + 3 * i) % 256, (x + y + 7 * i) % 256], -1).astype(np.uint8) for i in range(count)]


@pytest.mark.parametrize("size", [(48, 64), (35, 49), (1, 1)])
def test_lossless_frames_are_read_back_exactly(tmp_path: Path, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    frames_in = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(7)]
    write_lossless(tmp_path / "a.mkv", frames_in, 25.0)
    assert np.array_equal(np.stack(list(read_all(tmp_path / "a.mkv"))), np.stack(frames_in))


def test_same_frames_give_same_bytes(tmp_path: Path) -> None:
    for name in ("a.mkv", "b.mkv"):
        write_lossless(tmp_path / name, moving(20), 25.0)
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()


def test_frames_may_come_from_a_generator(tmp_path: Path) -> None:
    write_lossless(tmp_path / "a.mkv", (frame for frame in moving(3)), 29.97)
    assert len(list(read_all(tmp_path / "a.mkv"))) == 3


def test_a_view_of_a_larger_array_is_written_correctly(tmp_path: Path) -> None:
    frames_in = [frame[:, ::-1][8:40, 8:72] for frame in moving(3)]
    write_lossless(tmp_path / "a.mkv", frames_in, 25.0)
    assert np.array_equal(np.stack(list(read_all(tmp_path / "a.mkv"))), np.stack(frames_in))


@pytest.mark.parametrize(
    ("frames", "message"),
    [([], "no frames"), ([*moving(1), *moving(1, height=50)], "frame 1 is"), ([np.zeros((48, 64, 3), np.float32)], "frame 0 is float32")],
)
def test_frames_that_make_no_video_raise_value_error(tmp_path: Path, frames: list[np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_lossless(tmp_path / "a.mkv", frames, 25.0)


ORDERS = [[0], [59], [5, 5, 3, 58, 20, 21, 0], list(range(60)), list(range(59, -1, -7)), []]


@pytest.mark.parametrize("indices", ORDERS, ids=str)
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("options", [{"g": "12", "bf": "0"}, {"g": "250", "bf": "3"}], ids=["ours", "long"])
def test_every_reader_returns_the_requested_frames(media, reader: Reader, indices: list[int], options: dict[str, str]) -> None:
    path = media.footage("a.mp4", moving(60), options={"crf": "10", **options})
    every = list(read_all(path))
    got = list(reader(path, indices))
    assert len(got) == len(indices)
    assert all(np.array_equal(frame, every[index]) for frame, index in zip(got, indices, strict=True))


@pytest.mark.parametrize("indices", ORDERS, ids=str)
@pytest.mark.parametrize("kind", ["moving", "noise"])
def test_lossless_chunks_are_read_by_number(tmp_path: Path, kind: str, indices: list[int]) -> None:
    """Noise makes every frame a key frame, for which decord returns wrong frames in Matroska."""
    rng = np.random.default_rng(0)
    frames_in = moving(60) if kind == "moving" else [rng.integers(0, 256, (48, 112, 3), dtype=np.uint8) for _ in range(60)]
    write_lossless(tmp_path / "a.mkv", frames_in, 25.0)
    assert all(np.array_equal(frame, frames_in[index]) for frame, index in zip(read_frames(tmp_path / "a.mkv", indices), indices, strict=True))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("indices", [60, 4000, -1])
def test_a_frame_that_does_not_exist_raises_index_error(media, reader: Reader, indices: int) -> None:
    path = media.footage("a.mp4", moving(60))
    with pytest.raises(IndexError, match=str(indices)):
        list(reader(path, [0, indices]))


def test_narrow_footage_is_read_without_decord(media) -> None:
    path = media.footage("a.mp4", moving(5, width=48))
    assert [frame.shape for frame in read_frames(path, [4, 0])] == [(48, 48, 3)] * 2


@pytest.mark.parametrize("codec", ["libsvtav1", "libvpx-vp9"])
def test_other_codecs_are_read_too(media, codec: str) -> None:
    path = media.footage("a.mp4", moving(20))
    other = media.footage("b.mp4", moving(20), codec=codec, options={"cpu-used": "8"} if "vpx" in codec else {"preset": "12"})
    for near, exact in zip(read_frames(other, [17, 3]), read_frames(path, [17, 3]), strict=True):
        assert np.abs(near.astype(int) - exact).mean() < 12  # a neighbouring frame would differ by more than 40


def test_pyav_is_used_without_decord(media, monkeypatch: pytest.MonkeyPatch) -> None:
    path = media.footage("a.mp4", moving(20))
    want = list(read_frames(path, [13, 2]))
    monkeypatch.setattr(video_io.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(video_io, "read_with_decord", None)
    assert all(np.array_equal(a, b) for a, b in zip(read_frames(path, [13, 2]), want, strict=True))
