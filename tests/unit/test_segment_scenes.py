"""Cuts in real footage: drawn here, encoded with x264, cut at known frames."""

import hashlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from infinitedub.stages.contract import Files, Rank
from infinitedub.stages.records import Artifact, Length, Source, Span, Voice
from infinitedub.stages.segment.settings import SegmentSettings
from infinitedub.stages.segment.stage import SegmentStage

WIDTH, HEIGHT = 320, 180
PALETTE = ((200, 40, 30), (30, 170, 60), (240, 220, 90), (40, 60, 190), (230, 230, 230))


def settings(**changed: object) -> SegmentSettings:
    values: dict[str, object] = {
        "window_frames": 21,
        "motion_frames": 9,
        "detector": "adaptive",
        "min_change": 15.0,
        "min_ratio": 3.0,
        "min_shot_frames": 4,
        "extend": "hold",
    }
    return SegmentSettings.model_validate(values | changed)


def draw(shots: list[int], *, grain: int = 6) -> np.ndarray:
    """Frames [n, height, width, 3] of shots of the given lengths: a textured background with a disc that moves, other colours in every shot."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    frames = []
    for shot, length in enumerate(shots):
        ground = np.array(PALETTE[shot % len(PALETTE)]) * (0.6 + 0.4 * ((x // 40 + y // 30 + shot) % 2))[..., None]
        for moment in range(length):
            frame = ground.copy()
            frame[(x - 40 - 3 * moment) ** 2 + (y - 90) ** 2 < 30**2] = PALETTE[(shot + 2) % len(PALETTE)]
            frames.append(frame + rng.integers(-grain, grain + 1, frame.shape))
    return np.clip(np.array(frames), 0, 255).astype(np.uint8)


def write(path: Path, frames: np.ndarray, fps: int = 25) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def source(path: Path, n_frames: int, speech_seconds: float) -> Source:
    sound = Artifact("sound", "0" * 64, 0, "sound/flac")
    picture = Artifact(str(path), hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size, "footage/mp4")
    return Source(picture, True, WIDTH, HEIGHT, 25.0, n_frames, (Voice(sound, 16000, round(16000 * speech_seconds), 0, None),))


def spans(files: Files, path: Path, n_frames: int, *, length: Length | None = None, speech_seconds: float = 0.04, **changed: object) -> list[Span]:
    stage = SegmentStage(settings(**changed))
    stage.open(Rank())
    segments = stage(source(path, n_frames, speech_seconds), length, files=files)
    stage.close()
    return [segment.span for segment in segments]


@pytest.fixture(scope="module")
def three_shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("footage") / "three.mp4"
    write(path, draw([23, 40, 17]))
    return path


@pytest.mark.parametrize("detector", [{"detector": "adaptive"}, {"detector": "content", "min_change": 27.0}])
def test_cuts_are_found_to_the_frame(files: Files, three_shots: Path, detector: dict[str, object]) -> None:
    assert spans(files, three_shots, 80, **detector) == [Span(0, 23), Span(23, 63), Span(63, 80)]


def test_with_the_detector_off_footage_is_not_opened(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "not really footage.mp4"
    path.write_bytes(b"x")
    assert spans(files, path, 80, detector="off") == [Span(0, 80)]


def test_one_shot_is_one_segment(files: Files, tmp_path: Path) -> None:
    write(tmp_path / "one.mp4", draw([60]))
    assert spans(files, tmp_path / "one.mp4", 60) == [Span(0, 60)]


def test_noise_makes_no_cuts(files: Files, tmp_path: Path) -> None:
    write(tmp_path / "noise.mp4", np.random.default_rng(1).integers(0, 256, (40, HEIGHT, WIDTH, 3), dtype=np.uint8))
    assert spans(files, tmp_path / "noise.mp4", 40) == [Span(0, 40)]


@pytest.mark.parametrize("n_frames", [1, 2, 3])
def test_footage_of_a_few_frames(files: Files, tmp_path: Path, n_frames: int) -> None:
    write(tmp_path / "few.mp4", draw([n_frames]))
    assert spans(files, tmp_path / "few.mp4", n_frames) == [Span(0, n_frames)]


def test_cuts_near_both_ends_are_found(files: Files, tmp_path: Path) -> None:
    write(tmp_path / "ends.mp4", draw([1, 20, 1]))
    assert spans(files, tmp_path / "ends.mp4", 22, min_shot_frames=1) == [Span(0, 1), Span(1, 21), Span(21, 22)]
    assert spans(files, tmp_path / "ends.mp4", 22, min_shot_frames=4) == [Span(0, 1), Span(1, 22)]


def test_a_flash_does_not_become_a_segment(files: Files, tmp_path: Path) -> None:
    write(tmp_path / "flash.mp4", draw([20, 2, 20]))
    assert spans(files, tmp_path / "flash.mp4", 42) == [Span(0, 22), Span(22, 42)]


def test_a_shorter_film_ends_inside_a_shot_and_a_longer_one_bounces(files: Files, three_shots: Path) -> None:
    assert spans(files, three_shots, 80, length=Length.SHORTEST, speech_seconds=1.2) == [Span(0, 23), Span(23, 30)]
    longer = spans(files, three_shots, 80, length=Length.AUDIO, speech_seconds=5.0, extend="bounce")
    assert longer == [Span(0, 23), Span(23, 63), Span(63, 96), Span(96, 125)]  # the mirror of frame 62 is frame 96
    held = spans(files, three_shots, 80, length=Length.AUDIO, speech_seconds=5.0, extend="hold")
    assert held == [Span(0, 23), Span(23, 63), Span(63, 125)]


def test_a_source_with_another_number_of_frames_is_a_bug(files: Files, three_shots: Path) -> None:
    with pytest.raises(RuntimeError, match=r"holds 80 frames.*says 81"):
        spans(files, three_shots, 81)


def test_a_photograph_is_one_segment_and_is_not_opened(files: Files) -> None:
    still = Artifact("nowhere.png", "0" * 64, 0, "picture/png")
    voice = Voice(Artifact("sound", "0" * 64, 0, "sound/flac"), 48000, 96000, 0, None)
    (segment,) = SegmentStage(settings())(Source(still, False, 8, 8, 25.0, 1, (voice,)), None, files=files)
    assert segment.span == Span(0, 50)
    assert [window.span.start for window in segment.windows] == [0, 12, 24, 36]
