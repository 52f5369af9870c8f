"""Fixtures that tests of several folders share."""

import hashlib
import shutil
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.errors import BadInput
from infinitedub.stages.records import Artifact
from tests.unit.ingesting import gradient
from tests.unit.scripted import ScriptedRun

T = TypeVar("T")


class LocalFiles:
    """`infinitedub.stages.contract.Files` in one folder: artifacts lie under `kept/`, delivered files under `delivered/`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.delivered: list[str] = []  # names, in the order of delivery
        self.remembered: dict[int, Any] = {}  # checkpoints by number; of one stage call, so cleared between two
        self.released: list[Path] = []
        self._count = 0

    def fetch(self, what: Artifact | str) -> Path:
        path = Path(what.uri if isinstance(what, Artifact) else what.removeprefix("file://"))
        if not path.is_file():
            raise BadInput(f"{path} does not exist; correct the path in the catalogue")
        return path

    def release(self, path: Path) -> None:
        self.released.append(path)

    def store(self, path: Path, kind: str) -> Artifact:
        data = path.read_bytes()
        stored = self._fresh_folder("kept") / path.name
        shutil.move(path, stored)
        return Artifact(str(stored), hashlib.sha256(data).hexdigest(), len(data), kind)

    def load_checkpoint(self, number: int, type_: type[T]) -> T | None:
        return self.remembered.get(number)

    def save_checkpoint(self, number: int, record: T) -> T:
        return self.remembered.setdefault(number, record)

    def scratch(self) -> Path:
        return self._fresh_folder("scratch")

    def deliver(self, path: Path, name: str) -> str:
        target = self.root / "delivered" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        self.delivered.append(name)
        return str(target)

    def _fresh_folder(self, parent: str) -> Path:
        self._count += 1
        folder = self.root / parent / str(self._count)
        folder.mkdir(parents=True)
        return folder


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    return LocalFiles(tmp_path / "files")


def numbered_frame(number: int, size: tuple[int, int]) -> np.ndarray:
    """A frame whose grey level encodes its number, which survives any encoding."""
    return np.full((size[1], size[0], 3), 20 + 3 * number, np.uint8)


class MediaFactory:
    """Writes small media files with any property that files of users may have."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def footage(
        self,
        name: str,
        frames: Sequence[np.ndarray] | int,
        *,
        size: tuple[int, int] = (64, 48),  # width, height of numbered frames
        rate: Fraction | int = 25,
        ticks: Sequence[int] | None = None,  # when each frame is shown, in 1/90000 s
        codec: str = "libx264",
        pixel_format: str = "yuv420p",
        aspect: Fraction | None = None,
        matrix: tuple[int, int, int, int] | None = None,  # (a, b, c, d) of the display matrix
        sound: np.ndarray | None = None,  # int16 (channels, samples) at 16 kHz
        options: dict[str, str] | None = None,
        configure: Callable[[Any], None] = lambda stream: None,
    ) -> Path:
        """A video file; given a number, this many frames whose grey level encodes their number."""
        import av

        path = self.folder / name
        pictures = [numbered_frame(number, size) for number in range(frames)] if isinstance(frames, int) else frames
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=Fraction(rate), options=options or {})
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = pixel_format
            tick = Fraction(1, 90000) if ticks is not None else 1 / Fraction(rate)
            stream.codec_context.time_base = tick
            if aspect is not None:
                stream.codec_context.sample_aspect_ratio = aspect
            configure(stream)
            voice = None if sound is None else container.add_stream("aac" if path.suffix != ".mkv" else "flac", rate=16000, layout="mono")
            for number, pixels in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)
                frame.pts, frame.time_base = (number if ticks is None else ticks[number]), tick
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            if voice is not None and sound is not None:
                self._encode(container, voice, sound, 16000, "mono")
        if matrix is not None:
            self._set_display_matrix(path, matrix)
        return path

    def sound(self, name: str, samples: np.ndarray, rate: int = 16000, *, codec: str = "pcm_s16le", layout: str | None = None) -> Path:
        """A sound file from (channels, samples) of uint8, int16, int32, float32 or float64."""
        import av

        path = self.folder / name
        layout = layout or {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[0]]
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=rate, layout=layout)
            self._encode(container, stream, samples, rate, layout)
        return path

    def speech(self, name: str = "speech.wav", seconds: float = 0.5, rate: int = 16000) -> Path:
        """A tone in one channel."""
        tone = np.sin(np.arange(round(seconds * rate)) * 2 * np.pi * 220 / rate)
        return self.sound(name, (tone * 12000).astype(np.int16)[None], rate)

    @staticmethod
    def _encode(container: Any, stream: Any, samples: np.ndarray, rate: int, layout: str) -> None:
        import av

        formats = {"uint8": "u8", "int16": "s16", "int32": "s32", "float32": "flt", "float64": "dbl"}
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T).reshape(1, -1), format=formats[samples.dtype.name], layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

    @staticmethod
    def _set_display_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
        """Replaces the identity display matrix of an MP4."""

        def packed(a: int, b: int, c: int, d: int) -> bytes:
            return struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)

        data = path.read_bytes()
        offset = data.index(packed(1, 0, 0, 1), data.index(b"tkhd"))
        path.write_bytes(data[:offset] + packed(*matrix) + data[offset + 36 :])


@pytest.fixture
def media(tmp_path: Path) -> MediaFactory:
    folder = tmp_path / "media"
    folder.mkdir()
    return MediaFactory(folder)


@pytest.fixture
def portrait(media: MediaFactory) -> Path:
    from PIL import Image

    path = media.folder / "portrait.png"
    Image.fromarray(gradient()).save(path)
    return path


@pytest.fixture
def frame_numbers() -> Callable[[Path], list[int]]:
    """Reads back the numbers that `MediaFactory.footage` encoded in its frames."""

    def read(path: Path) -> list[int]:
        from infinitedub.stages.media.video_io import read_all

        return [round((float(frame.mean()) - 20) / 3) for frame in read_all(path)]

    return read


@pytest.fixture
def scripted_run(tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> ScriptedRun:
    return ScriptedRun(tmp_path, storage, monkeypatch)
