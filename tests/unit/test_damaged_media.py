"""Any file either becomes a source whose numbers agree with its files, or is refused with the file, the reason and what to do.

It never raises another error, nor takes more memory than allowed. `test_ingest_refusals.py` tests files that are wrong in one known way.
"""

import io
import pickle
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import av
import numpy as np
import pytest
from PIL import Image

from infinitedub.pipeline.catalogue.memory_limit import ceiling
from infinitedub.stages.errors import BadInput
from infinitedub.stages.ingest.media_decoder import open_media
from infinitedub.stages.media.audio_io import sample_blocks, sound_format
from infinitedub.stages.media.video_io import read_all
from infinitedub.stages.records import Source
from tests.unit.ingesting import ingest

MEMORY = 1 << 30
"""Bytes; none of these files may take more."""

ADVICE = (
    "supply",
    "convert",
    "wanted",
    "export",
    "cut it",
    "scale it down",
    "save it",
    "correct the path",
    "is a photograph or footage",
    "is a sound file",
)
"""Each refusal says what to do, in one of these words."""


def ingest_or_refusal(files: Any, path: Path, what: str, good: tuple[Path, Path], **changes: Any) -> Source | str:
    """The source, checked, or the message of the refusal. `good` are an undamaged picture and speech."""
    try:
        with ceiling(MEMORY):
            source = ingest(files, *((path, good[1]) if what == "picture" else (good[0], path)), **changes)
    except BadInput as refusal:
        message = str(refusal)
        assert message.startswith(f"{what if what == 'picture' else 'speech 1'} {path}: ")
        assert any(word in message for word in ADVICE), message
        assert message.isprintable()
        assert len(message) < 600
        return message
    check_source(source)
    return source


def check_source(source: Source) -> None:
    """Asserts that every number of the record agrees with the files."""
    if source.moving:
        frames = [frame.shape for frame in read_all(Path(source.picture.uri))]
        assert frames == [(source.height, source.width, 3)] * source.n_frames
        assert source.n_frames > 0
        assert source.height % 2 == source.width % 2 == 0
    else:
        assert source.n_frames == 1
        with Image.open(source.picture.uri) as image:
            image.load()
            assert (image.size, image.mode) == ((source.width, source.height), "RGB")
    for voice in source.voices:
        path = Path(voice.sound.uri)
        assert sound_format(path).sample_rate == voice.sample_rate
        assert sum(block.shape[1] for block in sample_blocks(path)) == voice.n_samples > 0


@pytest.fixture
def good(media: Any) -> tuple[Path, Path]:
    """An undamaged photograph and undamaged speech."""
    picture = media.folder / "good.png"
    Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(picture)
    return picture, media.speech("good.wav", 0.2)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


# -- files of every format, damaged in every way -------------------------------------------------------------------------

TONE = (np.sin(np.arange(19200) / 27) * 9000).astype(np.int16)[None]  # 0.4 s at 48 kHz
MOVING = {
    "a.mp4": ("libx264", "aac"),
    "a.mov": ("libx264", "pcm_s16le"),
    "a.mkv": ("libx264", "flac"),
    "a.webm": ("libvpx-vp9", ""),
    "a.avi": ("mpeg4", "pcm_s16le"),
    "a.ts": ("libx264", "aac"),
    "a.flv": ("libx264", ""),
}
SOUND = {
    "a.wav": "pcm_s16le",
    "b.wav": "pcm_f32le",
    "a.flac": "flac",
    "a.mp3": "libmp3lame",
    "a.m4a": "aac",
    "a.ogg": "libopus",
    "a.aiff": "pcm_s16be",
}
STILL = {"a.png": "PNG", "a.jpg": "JPEG", "a.webp": "WEBP", "a.tif": "TIFF", "a.gif": "GIF", "a.bmp": "BMP"}


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """Returns the bytes of an undamaged file; each is written once."""
    folder = tmp_path_factory.mktemp("whole")

    def undamaged(name: str) -> bytes:
        path = folder / name
        if not path.exists():
            if name in MOVING:
                codec, voice = MOVING[name]
                footage(path, codec, [noise(48, 64, 3)] * 10, voice)
            elif name in SOUND:
                with av.open(str(path), "w") as container:
                    write_tone(container, container.add_stream(SOUND[name], rate=48000, layout="mono"))
            else:
                Image.fromarray(noise(48, 64, 3)).save(path, STILL[name])
        return path.read_bytes()

    return undamaged


def footage(path: Path, codec: str, frames: list[np.ndarray], voice: str) -> None:
    with av.open(str(path), "w") as container:
        picture = container.add_stream(codec, rate=25, options={"g": "5"})
        picture.height, picture.width = frames[0].shape[:2]
        picture.pix_fmt = "yuv420p"
        sound = container.add_stream(voice, rate=48000, layout="mono") if voice else None
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        if sound is not None:
            write_tone(container, sound)


def write_tone(container: Any, stream: Any) -> None:
    frame = av.AudioFrame.from_ndarray(TONE, format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
    resampler = av.AudioResampler(stream.format, "mono", 48000, frame_size=stream.codec_context.frame_size)
    for ready in [*resampler.resample(frame), *resampler.resample(None)]:
        container.mux(stream.encode(ready))
    container.mux(stream.encode(None))


def flip_bits(data: bytes, one_in: int) -> bytes:
    """Flips single bits, one in `one_in` bytes on average."""
    rng, changed = random.Random(len(data)), bytearray(data)
    for _ in range(max(1, len(data) // one_in)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def zero_range(data: bytes, begin: float, end: float) -> bytes:
    a, b = (int(len(data) * part) for part in (begin, end))
    return data[:a] + bytes(b - a) + data[b:]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "first bytes alone": lambda data: data[:40],
    "cut at 30 %": lambda data: data[: len(data) * 3 // 10],
    "cut at 70 %": lambda data: data[: len(data) * 7 // 10],
    "cut at 97 %": lambda data: data[: len(data) * 97 // 100],
    "last byte lost": lambda data: data[:-1],
    "first bytes lost": lambda data: data[64:],
    "one bit": lambda data: flip_bits(data, len(data)),
    "a bit in 2000 bytes": lambda data: flip_bits(data, 2000),
    "a bit in 100 bytes": lambda data: flip_bits(data, 100),
    "header of zeros": lambda data: zero_range(data, 0.02, 0.05),
    "middle of zeros": lambda data: zero_range(data, 0.4, 0.6),
    "twice": lambda data: data + data,
    "text at the end": lambda data: data + b"To be or not to be\n" * 500,
    "line ends changed": lambda data: data.replace(b"\n", b"\r\n"),
    "high bits lost": lambda data: bytes(byte & 0x7F for byte in data),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [*MOVING, *SOUND, *STILL])
def test_damage_is_tolerated_or_refused(
    media: Any, files: Any, good: tuple[Path, Path], whole: Callable[[str], bytes], name: str, damage: str
) -> None:
    path = media.folder / name
    path.write_bytes(DAMAGE[damage](whole(name)))
    ingest_or_refusal(files, path, "speech" if name in SOUND else "picture", good)
    if name in ("a.mp4", "a.mkv"):
        ingest_or_refusal(files, path, "speech", good)


@pytest.mark.parametrize("name", [*MOVING, *SOUND, *STILL])
def test_an_undamaged_file_is_accepted_whatever_its_suffix(
    media: Any, files: Any, good: tuple[Path, Path], whole: Callable[[str], bytes], name: str
) -> None:
    path = media.folder / "a.txt"
    path.write_bytes(whole(name))
    assert isinstance(ingest_or_refusal(files, path, "speech" if name in SOUND else "picture", good), Source)


@pytest.mark.parametrize(
    "wrong", ["a", "a.mp4", "a.wav", "a.png", "a.jpg.exe", "-i", "a:b", "pipe:0", "http:a", "a%03d.mp4", "a;b", "$(a)", "漢\u202e.mp4"]
)
@pytest.mark.parametrize("name", ["a.mkv", "a.flac", "a.jpg"])
def test_special_characters_in_a_name_have_no_effect(
    media: Any, files: Any, good: tuple[Path, Path], whole: Callable[[str], bytes], name: str, wrong: str
) -> None:
    path = media.folder / wrong
    path.write_bytes(whole(name))
    assert isinstance(ingest_or_refusal(files, path, "speech" if name in SOUND else "picture", good), Source)


# -- unusual properties ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (33, 35), (1918, 33), (33, 1919), (16384, 32), (32, 16384), (4001, 37)])
def test_wide_tall_and_odd_pictures(media: Any, files: Any, good: tuple[Path, Path], size: tuple[int, int]) -> None:
    pixels = np.full((size[1], size[0], 3), 128, np.uint8)
    still = media.folder / "a.png"
    Image.fromarray(pixels).save(still)
    source = ingest_or_refusal(files, still, "picture", good)
    assert isinstance(source, Source)
    assert max(source.width, source.height) == min(1920, max(size))
    moving = media.footage("a.mkv", [pixels[: size[1] // 2 * 2, : size[0] // 2 * 2]] * 2, codec="ffv1")
    assert isinstance(ingest_or_refusal(files, moving, "picture", good), Source)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (16384, 2), (31, 31)])
def test_pictures_too_small_for_a_face(media: Any, files: Any, good: tuple[Path, Path], size: tuple[int, int]) -> None:
    path = media.footage("a.mkv", [np.zeros((size[1], size[0], 3), np.uint8)] * 2, codec="ffv1", pixel_format="yuv444p")
    assert "at least 32 px" in str(ingest_or_refusal(files, path, "picture", good))


@pytest.mark.parametrize(("rate", "count", "wanted"), [(1, 3, 75), (Fraction(1, 2), 2, 100), (240, 48, 5), (1000, 40, 1)])
def test_slow_and_fast_footage(media: Any, files: Any, good: tuple[Path, Path], rate: Fraction, count: int, wanted: int) -> None:
    source = ingest_or_refusal(files, media.footage("a.mkv", count, rate=rate), "picture", good)
    assert isinstance(source, Source)
    assert source.n_frames == wanted


@pytest.mark.parametrize("layout", ["7.1", "5.1", "quad", "2.1", "octagonal"])
def test_many_channels(media: Any, files: Any, good: tuple[Path, Path], layout: str) -> None:
    channels = av.AudioLayout(layout).nb_channels
    path = media.sound("a.wav", np.ones((channels, 800), np.int16), layout=layout)
    source = ingest_or_refusal(files, path, "speech", good)
    assert isinstance(source, Source)
    assert sound_format(Path(source.voices[0].sound.uri)).channels == channels


@pytest.mark.parametrize("n_samples", [1, 2, 15, 640])
@pytest.mark.parametrize(("name", "codec"), [("a.wav", "pcm_s16le"), ("a.flac", "flac"), ("a.wav", "pcm_f32le")])
def test_very_short_sound(media: Any, files: Any, good: tuple[Path, Path], n_samples: int, name: str, codec: str) -> None:
    """640 samples are 40 ms, one film frame."""
    samples = np.ones((1, n_samples), np.float32 if codec == "pcm_f32le" else np.int16)
    source = ingest_or_refusal(files, media.sound(name, samples, codec=codec), "speech", good)
    assert isinstance(source, Source)
    assert source.voices[0].n_samples == n_samples


@pytest.mark.parametrize("position", [0, 7999, 15999])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_a_single_invalid_sample_is_refused(media: Any, files: Any, good: tuple[Path, Path], position: int, bad: float) -> None:
    samples = np.zeros((1, 16000), np.float32)
    samples[0, position] = bad
    assert "NaN" in str(ingest_or_refusal(files, media.sound("a.wav", samples, codec="pcm_f32le"), "speech", good))


# -- false headers --------------------------------------------------------------------------------------------------------


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + kind + body


MVHD = box(b"mvhd", bytes(12), struct.pack(">II", 1000, 1000), bytes(80))
EMPTY = {
    "mp4 without tracks": box(b"ftyp", b"isom\0\0\0\0isom") + box(b"moov", MVHD) + box(b"mdat"),
    "mp4 with a track of nothing": box(b"ftyp", b"isom\0\0\0\0isom") + box(b"moov", MVHD, box(b"trak")) + box(b"mdat"),
    "mp4 with a box of 4 EB": box(b"ftyp", b"isom\0\0\0\0isom") + struct.pack(">I4sQ", 1, b"moov", 2**62),
    "mp4 with boxes in boxes": box(b"ftyp", b"isom\0\0\0\0isom") + b"".join(struct.pack(">I4s", 2**31 - 8 * n, b"moov") for n in range(5000)),
    "mkv without tracks": b"\x1a\x45\xdf\xa3\x84\x42\x82\x81\x6d" + b"\x18\x53\x80\x67\x80",
    "wav without samples": b"RIFF"
    + struct.pack("<I", 36)
    + b"WAVEfmt "
    + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    + b"data"
    + bytes(4),
    "wav of 4 GB": b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16) + b"data\xff\xff\xff\xff",
    "wav of 0 Hz": b"RIFF" + struct.pack("<I", 44) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 0, 0, 2, 16) + b"data\x08\0\0\0" + bytes(8),
    "wav of 60000 channels": b"RIFF"
    + struct.pack("<I", 44)
    + b"WAVEfmt "
    + struct.pack("<IHHIIHH", 16, 1, 60000, 16000, 1, 2, 16)
    + b"data\x08\0\0\0aaaaaaaa",
    "flac with its header alone": b"fLaC\x80\x00\x00\x22" + bytes(34),
    "ogg page of nothing": b"OggS\0\x02" + bytes(20) + b"\0",
    "avi of nothing": b"RIFF\x04\0\0\0AVI ",
    "transport stream of padding": (b"\x47\x1f\xff\x10" + bytes(184)) * 50,
    "id3 tag alone": b"ID3\x04\0\0\0\0\x0f\x76" + bytes(2000),
    "webp of nothing": b"RIFF\x04\0\0\0WEBP",
    "gif of nothing": b"GIF89a\x40\0\x30\0\0\0\0;",
    "one byte": b"\0",
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("what", ["picture", "speech"])
@pytest.mark.parametrize("content", EMPTY.values(), ids=EMPTY)
def test_headers_without_media(media: Any, files: Any, good: tuple[Path, Path], content: bytes, what: str) -> None:
    path = media.folder / "a.mp4"
    path.write_bytes(content)
    assert isinstance(ingest_or_refusal(files, path, what, good), str)


def with_duration(data: bytes, kinds: tuple[bytes, ...], units: int) -> bytes:
    """An MP4 whose headers announce this duration, in units of their own clocks."""
    changed = bytearray(data)
    for kind, offset in ((b"mvhd", 16), (b"tkhd", 20), (b"mdhd", 16)):
        position = -1
        while kind in kinds and (position := data.find(kind, position + 1)) >= 0:
            changed[position + 4 + offset : position + 8 + offset] = struct.pack(">I", units)
    return bytes(changed)


@pytest.mark.parametrize("what", ["picture", "speech"])
@pytest.mark.parametrize("kinds", [(b"mvhd",), (b"mvhd", b"tkhd", b"mdhd")])
@pytest.mark.parametrize("units", [2**31 - 1, 2**32 - 2])
def test_announced_durations_of_years(
    media: Any, files: Any, good: tuple[Path, Path], whole: Callable[[str], bytes], kinds: tuple[bytes, ...], units: int, what: str
) -> None:
    path = media.folder / "a.mp4"
    path.write_bytes(with_duration(whole("a.mp4"), kinds, units))
    source = ingest_or_refusal(files, path, what, good)
    if isinstance(source, Source):
        assert source.n_frames in (1, 10)
        assert source.voices[0].n_samples < 48000


def png(width: int, height: int, *, packed: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed or zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


HUGE = {
    "PNG": png(60000, 60000),
    "PNG at the limit of numbers": png(2**31 - 1, 2**31 - 1),
    "PNG of one row": png(2**31 - 1, 32),
    "BMP": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0),
    "GIF": b"GIF89a\xff\xff\xff\xff\0\0\0\x2c\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x4c\x01\0;",
    "PPM": b"P6 60000 60000 255\n",
    "WEBP": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff",
    "TIFF": b"II*\0\x08\0\0\0\x03\0" + b"".join(struct.pack("<HHII", tag, 4, 1, n) for tag, n in ((256, 10**6), (257, 10**6), (262, 2))) + bytes(4),
}


@pytest.mark.parametrize("content", HUGE.values(), ids=HUGE)
def test_decompression_bombs_are_refused_by_their_header(media: Any, files: Any, good: tuple[Path, Path], content: bytes) -> None:
    path = media.folder / "a.png"
    path.write_bytes(content)
    assert isinstance(ingest_or_refusal(files, path, "picture", good), str)


def test_a_small_picture_with_too_many_packed_bytes(media: Any, files: Any, good: tuple[Path, Path]) -> None:
    path = media.folder / "a.png"
    path.write_bytes(png(64, 48, packed=zlib.compress(bytes(64 * 3 * 48 + 48 + 50_000_000))))
    ingest_or_refusal(files, path, "picture", good)


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("a.ts", "libx264"), ("a.webm", "libvpx-vp9"), ("a.avi", "mjpeg")])
def test_footage_of_huge_frames_is_not_decoded(media: Any, files: Any, good: tuple[Path, Path], name: str, codec: str) -> None:
    """FFmpeg must not decode them either, although it decodes the first frames of every stream to detect their size."""
    frames = [noise(600, 800, 3)] * 5
    path = media.footage(name, frames, codec=codec, pixel_format="yuvj420p" if codec == "mjpeg" else "yuv420p")
    assert "470000 pixels" in str(ingest_or_refusal(files, path, "picture", good, max_pixels=470_000))
    assert isinstance(ingest_or_refusal(files, path, "picture", good), Source)


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "ffv1"), ("a.webm", "libvpx-vp9")])
def test_a_huge_frame_is_not_decoded_to_detect_its_size(media: Any, name: str, codec: str) -> None:
    """Their size is stored in their frames only."""
    path = media.footage(name, [noise(600, 800, 3)] * 2, codec=codec)
    for max_pixels, width in ((470_000, 0), (480_000, 800)):
        with open_media(path, max_pixels) as container:
            assert container.streams.video[0].codec_context.width == width


@pytest.mark.parametrize("name", ["a.ts", "a.h264"])
def test_footage_whose_frames_become_larger(media: Any, files: Any, good: tuple[Path, Path], name: str) -> None:
    small, large = media.footage(f"s{name}", 5), media.footage(f"l{name}", [np.zeros((600, 800, 3), np.uint8)] * 5)
    path = media.folder / name
    for order in ((small, large), (large, small)):
        path.write_bytes(b"".join(part.read_bytes() for part in order))
        assert isinstance(ingest_or_refusal(files, path, "picture", good, max_pixels=470_000), str)
        assert isinstance(ingest_or_refusal(files, path, "picture", good), Source)


def test_an_animation_whose_frames_become_larger_is_refused_before_decoding(media: Any, files: Any, good: tuple[Path, Path]) -> None:
    small, large = io.BytesIO(), io.BytesIO()
    Image.new("1", (64, 48)).save(small, "GIF")
    Image.new("1", (800, 600)).save(large, "GIF")
    picture = large.getvalue()[large.getvalue().index(b"\x2c\0\0\0\0") :]  # from its descriptor on
    path = media.folder / "a.gif"
    path.write_bytes(small.getvalue()[:-1] + picture)
    assert isinstance(ingest_or_refusal(files, path, "picture", good), Source)
    path.write_bytes(small.getvalue()[:-1] + picture[:40])  # decoding it would fail, since it is truncated
    assert "470000 pixels" in str(ingest_or_refusal(files, path, "picture", good, max_pixels=470_000))


def test_footage_above_max_gigapixels_is_refused(media: Any, files: Any, good: tuple[Path, Path]) -> None:
    """Small files can hold many frames of many pixels; a smaller frame counts as one of 256x256."""
    path = media.footage("a.mp4", 20)
    message = str(ingest_or_refusal(files, path, "picture", good, max_gigapixels=19 * 65536 / 1e9))
    assert "gigapixels in all; scale it down" in message
    assert isinstance(ingest_or_refusal(files, path, "picture", good, max_gigapixels=20 * 65536 / 1e9), Source)
    stills = [Image.new("L", (640, 480), level) for level in range(9)]
    stills[0].save(media.folder / "a.gif", save_all=True, append_images=stills[1:], duration=10)
    assert "gigapixels" in str(ingest_or_refusal(files, media.folder / "a.gif", "picture", good, max_gigapixels=0.002))


# -- executable content ---------------------------------------------------------------------------------------------------


class FileCreator:
    """Creates the file `mark` when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.mark), "w")


def programs(mark: Path) -> Iterator[bytes]:
    payload = FileCreator(mark)
    yield pickle.dumps(payload)
    yield pickle.dumps(payload, protocol=0)
    array = np.empty(1, object)
    array[0] = payload
    for save in (np.save, np.savez):
        buffer = io.BytesIO()
        save(buffer, array, allow_pickle=True)
        yield buffer.getvalue()
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive:  # as torch.save writes it
        archive.writestr("archive/data.pkl", pickle.dumps({"payload": payload}))
    yield buffer.getvalue()
    yield b"#!/bin/sh\ntouch " + str(mark).encode() + b"\n"


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pt", "a.pkl", "a.png", "a.wav", "a.mp4"])
def test_pickles_and_scripts_are_not_executed(media: Any, files: Any, good: tuple[Path, Path], name: str) -> None:
    mark, path = media.folder / "mark", media.folder / name
    for content in programs(mark):
        path.write_bytes(content)
        for what in ("picture", "speech"):
            assert isinstance(ingest_or_refusal(files, path, what, good), str)
    assert not mark.exists()
