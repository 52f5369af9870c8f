"""Fixtures that tests of several rooms share."""

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
from tests.unit.scripted import Rehearsal

T = TypeVar("T")


class LocalFiles:
    """`infinitedub.stages.contract.Files` in one folder: what is kept lies under `kept/`, what is delivered under `delivered/`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.delivered: list[str] = []  # names, in the order of delivery
        self.remembered: dict[int, Any] = {}  # by number; of one result, so to be emptied between two
        self._count = 0

    def fetch(self, what: Artifact | str) -> Path:
        path = Path(what.uri if isinstance(what, Artifact) else what.removeprefix("file://"))
        if not path.is_file():
            raise BadInput(f"{path} is not there; correct the path in the catalogue")
        return path

    def store(self, path: Path, kind: str) -> Artifact:
        data = path.read_bytes()
        place = self._fresh("kept") / path.name
        shutil.move(path, place)
        return Artifact(str(place), hashlib.sha256(data).hexdigest(), len(data), kind)

    def load_checkpoint(self, number: int, type_: type[T]) -> T | None:
        return self.remembered.get(number)

    def save_checkpoint(self, number: int, record: T) -> T:
        return self.remembered.setdefault(number, record)

    def scratch(self) -> Path:
        return self._fresh("scratch")

    def deliver(self, path: Path, name: str) -> str:
        place = self.root / "delivered" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
        self.delivered.append(name)
        return str(place)

    def _fresh(self, under: str) -> Path:
        self._count += 1
        folder = self.root / under / str(self._count)
        folder.mkdir(parents=True)
        return folder


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    return LocalFiles(tmp_path / "files")


def still(number: int, size: tuple[int, int]) -> np.ndarray:
    """A frame that tells its number by its grey level, which survives any encoding."""
    return np.full((size[1], size[0], 3), 20 + 3 * number, np.uint8)


class Studio:
    """Makes small media files with any property that users' files may have."""

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
        touch: Callable[[Any], None] = lambda stream: None,
    ) -> Path:
        """A video file; given a number, that many frames which tell their number by their level."""
        import av

        path = self.folder / name
        pictures = [still(number, size) for number in range(frames)] if isinstance(frames, int) else frames
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=Fraction(rate), options=options or {})
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = pixel_format
            tick = Fraction(1, 90000) if ticks is not None else 1 / Fraction(rate)
            stream.codec_context.time_base = tick
            if aspect is not None:
                stream.codec_context.sample_aspect_ratio = aspect
            touch(stream)
            voice = None if sound is None else container.add_stream("aac" if path.suffix != ".mkv" else "flac", rate=16000, layout="mono")
            for number, pixels in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)
                frame.pts, frame.time_base = (number if ticks is None else ticks[number]), tick
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            if voice is not None and sound is not None:
                self._encode(container, voice, sound, 16000, "mono")
        if matrix is not None:
            self._turn(path, matrix)
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
        """Something audible in one channel."""
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
    def _turn(path: Path, matrix: tuple[int, int, int, int]) -> None:
        """Writes a display matrix where the MP4 has the one that turns nothing."""

        def packed(a: int, b: int, c: int, d: int) -> bytes:
            return struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)

        data = path.read_bytes()
        place = data.index(packed(1, 0, 0, 1), data.index(b"tkhd"))
        path.write_bytes(data[:place] + packed(*matrix) + data[place + 36 :])


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    folder = tmp_path / "studio"
    folder.mkdir()
    return Studio(folder)


@pytest.fixture
def portrait(studio: Studio) -> Path:
    from PIL import Image

    path = studio.folder / "portrait.png"
    Image.fromarray(gradient()).save(path)
    return path


@pytest.fixture
def numbers() -> Callable[[Path], list[int]]:
    """Reads the numbers back that `Studio.footage` wrote into its frames."""

    def read(path: Path) -> list[int]:
        from infinitedub.stages.media.video_io import read_all

        return [round((float(frame.mean()) - 20) / 3) for frame in read_all(path)]

    return read


@pytest.fixture
def rehearsal(tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Rehearsal:
    return Rehearsal(tmp_path, storage, monkeypatch)
