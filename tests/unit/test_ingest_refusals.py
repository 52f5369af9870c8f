"""Everything a user can get wrong, or do on purpose: refused with the reason, and nothing else opened on the way."""

import os
import random
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from infinitedub.stages.errors import BadInput
from infinitedub.stages.ingest.opening import HEIF, open_media
from infinitedub.stages.records import Box
from tests.unit.ingesting import ingest

ROOT = Path(__file__).resolve().parents[2]


NOT_MEDIA = {
    "empty": b"",
    "text": b"To be or not to be, that is the question.\n" * 40,
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "json": b'{"error": "access denied"}',
    "noise": random.Random(0).randbytes(20000),
    "zeros": bytes(20000),
    "zip": b"PK\x03\x04" + random.Random(1).randbytes(2000),
    "png signature alone": b"\x89PNG\r\n\x1a\n",
    "mp4 signature alone": struct.pack(">I", 24) + b"ftypisom\0\0\2\0isomiso2",
    "heif": struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + struct.pack(">I", 8) + b"mdat",
    "pdf": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
}


@pytest.mark.parametrize("what", ["picture", "speech"])
@pytest.mark.parametrize("name", ["a.mp4", "a.wav", "a.png"])
@pytest.mark.parametrize("content", NOT_MEDIA.values(), ids=NOT_MEDIA)
def test_what_is_no_media_is_refused_whatever_its_name(studio, files, portrait: Path, content: bytes, name: str, what: str) -> None:
    path = studio.folder / name
    path.write_bytes(content)
    with pytest.raises(BadInput) as refused:
        ingest(files, *((path, studio.speech()) if what == "picture" else (portrait, path)))
    assert what in str(refused.value)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("brand", sorted(HEIF))
def test_a_heif_photograph_is_called_one(studio, files, brand: str) -> None:
    """FFmpeg opens its container, and would take the tiles it is made of for films."""
    path = studio.footage("a.mp4", 5)
    data = path.read_bytes()
    assert data[4:8] == b"ftyp"
    path.write_bytes(data[:8] + brand.encode() + data[12:])
    with pytest.raises(BadInput, match="is a HEIF photograph, which cannot be read here; save it as JPEG or PNG"):
        ingest(files, path, studio.speech())


def test_a_missing_file_is_refused(studio, files) -> None:
    with pytest.raises(BadInput, match="not there"):
        ingest(files, studio.folder / "nowhere.mp4", studio.speech())


LISTS = {
    "a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\n{victim}\n#EXT-X-ENDLIST\n",
    "a.ffconcat": "ffconcat version 1.0\nfile {victim}\n",
    "a.mpd": '<?xml version="1.0"?><MPD type="static"><Period><AdaptationSet><Representation id="1" bandwidth="1" mimeType="video/mp4">'
    "<BaseURL>{victim}</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "a.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "a.asx": '<asx version="3.0"><entry><ref href="{victim}"/></entry></asx>',
}


@pytest.mark.parametrize("what", ["picture", "speech"])
@pytest.mark.parametrize("victim", ["/etc/passwd", "video", "http://127.0.0.1:9/a.ts"])
@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_other_files_is_never_followed(studio, files, portrait: Path, name: str, victim: str, what: str) -> None:
    """The video is one that could be played: were the list followed, it would be taken."""
    target = str(studio.footage("victim.mp4", 5, sound=np.zeros((1, 3200), np.int16))) if victim == "video" else victim
    for path in (studio.folder / name, studio.folder / "innocent.mp4"):
        path.write_text(LISTS[name].format(victim=target))
        with pytest.raises(BadInput):
            ingest(files, *((path, studio.speech()) if what == "picture" else (portrait, path)))


@pytest.mark.parametrize("protocol", ["concat:", "cache:", "async:", "subfile,,start,0,end,6000,,:"])
def test_none_of_ffmpegs_protocols_is_spoken_but_that_of_files(studio, protocol: str) -> None:
    """Each of these would play the speech behind it."""
    with pytest.raises(BadInput), open_media(Path(f"{protocol}{studio.speech()}"), 10**8):
        pass


def test_a_number_pattern_is_a_name_like_any_other(studio, files) -> None:
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(studio.folder / "frame1.png")
    path = studio.folder / "frame%d.png"
    path.write_bytes(b"nothing")
    with pytest.raises(BadInput):
        ingest(files, path, studio.speech())


# -- cut short or damaged -------------------------------------------------------------------------------------------------


CUT = ("a.mp4", "a.mkv", "a.webm", "a.avi", "a.flv", "fast.mp4")


def cut(path: Path, part: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    return path


def busy(count: int) -> list[np.ndarray]:
    """Frames that cost so many bytes that a file cut in its middle has lost half of its time."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize(("name", "sound"), [*((name, False) for name in CUT), ("a.mp4", True), ("a.mkv", True), ("fast.mp4", True)])
def test_footage_that_breaks_off_is_refused(studio, files, name: str, sound: bool) -> None:
    import av

    voice = np.zeros((1, 32000), np.int16) if sound else None
    path = studio.footage(name, busy(50), sound=voice, codec="libvpx-vp9" if name == "a.webm" else "libx264")
    if name == "fast.mp4":  # the index in front, so that the file opens and only then breaks off
        whole, path = path, studio.folder / "b.mp4"
        with av.open(str(whole)) as given, av.open(str(path), "w", options={"movflags": "+faststart"}) as made:
            streams = {stream.index: made.add_stream_from_template(stream) for stream in given.streams}
            for packet in given.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream_index]
                    made.mux(packet)
    cut(path, 0.5)
    reason = "cut short" if name != "a.mp4" else "index is missing"
    with pytest.raises(BadInput, match=reason):
        ingest(files, path, studio.speech())


def test_the_announced_and_the_decoded_time_are_told(studio, files) -> None:
    path = cut(studio.footage("a.mkv", busy(50)), 0.5)
    with pytest.raises(BadInput, match=r"announces 2\.00 s, only (0\.9|1\.0)\d s could be decoded"):
        ingest(files, path, studio.speech())


def test_how_much_may_be_missing_is_a_setting(studio, files) -> None:
    path = cut(studio.footage("a.mkv", busy(50)), 0.5)
    assert 20 <= ingest(files, path, studio.speech(), min_decoded_fraction=0.3).n_frames <= 30


def test_a_longer_sound_track_is_no_loss(studio, files) -> None:
    for name in ("a.mkv", "a.mp4", "a.mov"):
        path = studio.footage(name, 25, sound=np.zeros((1, 64000), np.int16))
        assert ingest(files, path, studio.speech()).n_frames == 25


def test_a_broken_middle_is_refused(studio, files) -> None:
    path = studio.footage("a.mkv", busy(50), options={"g": "1"})
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 10, len(data) * 9 // 10, 300):
        data[place : place + 150] = bytes(150)
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"damaged|cut short"):
        ingest(files, path, studio.speech())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF"])
def test_a_photograph_that_breaks_off_is_refused(studio, files, kind: str) -> None:
    path = studio.folder / "a"
    Image.fromarray(busy(1)[0]).save(path, kind)
    with pytest.raises(BadInput, match=r"damaged|cut short|no media"):
        ingest(files, cut(path, 0.5), studio.speech())


@pytest.mark.parametrize("seed", range(30))
def test_random_damage_is_refused_or_survived_but_never_a_crash(studio, files, portrait: Path, seed: int) -> None:
    rng = random.Random(seed)
    makers = [
        lambda: studio.footage("a.mp4", busy(6), sound=np.ones((1, 3200), np.int16)),
        lambda: studio.footage("a.mkv", busy(6)),
        lambda: studio.sound("a.wav", np.ones((2, 4000), np.int16)),
        lambda: studio.sound("a.flac", np.ones((1, 4000), np.int16), codec="flac"),
        lambda: portrait.rename(studio.folder / "b.png"),
    ]
    path = makers[seed % len(makers)]()
    data = bytearray(path.read_bytes())
    for _ in range(rng.randrange(1, 30)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data)
    Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(portrait)
    for picture, speech in ((path, studio.speech()), (portrait, path)):
        try:
            ingest(files, picture, speech, max_seconds=60, max_pixels=10**6)
        except BadInput as refused:
            assert str(path) in str(refused)


# -- too much, too little -------------------------------------------------------------------------------------------------


def test_no_picture_in_a_sound_file(studio, files) -> None:
    with pytest.raises(BadInput, match="only sound"):
        ingest(files, studio.speech(), studio.speech("b.wav"))


def test_no_sound_in_a_silent_film(studio, files, portrait: Path) -> None:
    with pytest.raises(BadInput, match=r"speech 1 .*has no sound"):
        ingest(files, portrait, studio.footage("a.mp4", 5))


def test_a_photograph_does_not_speak(studio, files, portrait: Path) -> None:
    with pytest.raises(BadInput, match="speech 1"):
        ingest(files, portrait, portrait)


def test_speech_without_a_sample(studio, files, portrait: Path) -> None:
    path = studio.speech("a.wav", 0.1)
    path.write_bytes(path.read_bytes()[: path.read_bytes().index(b"data") + 4] + bytes(4))
    with pytest.raises(BadInput, match="speech 1"):
        ingest(files, portrait, path)


def test_more_channels_than_flac_holds(studio, files, portrait: Path) -> None:
    path = studio.sound("a.wav", np.zeros((10, 500), np.int16), layout="10 channels")
    with pytest.raises(BadInput, match="10 channels"):
        ingest(files, portrait, path)


def test_codecs_that_nobody_knows(studio, files, portrait: Path) -> None:
    path = studio.footage("a.mkv", 5, sound=np.ones((1, 3200), np.int16))
    whole = path.read_bytes()
    for what, known, made_up in (("picture", b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/XYZ"), ("sound", b"A_FLAC", b"A_XLAC")):
        path.write_bytes(whole.replace(known, made_up))
        with pytest.raises(BadInput, match=f"holds its {what} in a codec that cannot be decoded"):
            ingest(files, path if what == "picture" else portrait, path)


@pytest.mark.parametrize("rate", [500, 65537, 700_000])
def test_rates_that_flac_does_not_hold(studio, files, portrait: Path, rate: int) -> None:
    with pytest.raises(BadInput, match=f"sample rate of {rate} Hz.*convert it to 48000 Hz"):
        ingest(files, portrait, studio.sound("a.wav", np.ones((1, 2000), np.int16), rate=rate))


def test_samples_that_flac_does_not_hold(studio, files, portrait: Path) -> None:
    with pytest.raises(BadInput, match="samples of format s64"):
        ingest(files, portrait, studio.sound("a.wav", np.ones((1, 2000), np.int32), codec="pcm_s64le"))


def test_sound_that_becomes_another_on_the_way(studio, files, portrait: Path) -> None:
    parts = [studio.sound(f"{channels}.mp3", np.ones((channels, 16000), np.int16), codec="libmp3lame") for channels in (1, 2)]
    path = studio.folder / "a.mp3"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(BadInput, match=r"changes from .*'mono'.* to .*'stereo'.* after 1\.\d\d s"):
        ingest(files, portrait, path)


@pytest.mark.parametrize("make", ["footage", "photograph"])
def test_pictures_of_absurd_size(studio, files, make: str) -> None:
    path = studio.folder / "a.png"
    Image.fromarray(np.zeros((200, 300, 3), np.uint8)).save(path)
    with pytest.raises(BadInput, match=r"300x200 px.*50000 pixels"):
        ingest(files, studio.footage("a.mp4", 2, size=(300, 200)) if make == "footage" else path, studio.speech(), max_pixels=50000)


def test_a_picture_that_would_swell_to_gigabytes_is_not_decoded(studio, files) -> None:
    """A header may promise what it likes; 60000x60000 px are refused by their header alone."""
    path = studio.folder / "a.png"
    Image.new("1", (64, 64)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", __import__("zlib").crc32(bytes(data[12:29])))
    path.write_bytes(data)
    with pytest.raises(BadInput, match="pixels"):
        ingest(files, path, studio.speech())


def test_compressed_text_in_a_png_does_not_swell(studio, files) -> None:
    path, info = studio.folder / "a.png", PngImagePlugin.PngInfo()
    info.add_text("bomb", "a" * 80_000_000, zip=True)
    Image.new("RGB", (64, 48)).save(path, pnginfo=info)
    with pytest.raises(BadInput):
        ingest(files, path, studio.speech())


@pytest.mark.parametrize("size", [(1, 1), (31, 400), (400, 2)])
def test_pictures_in_which_nobody_is_seen(studio, files, size: tuple[int, int]) -> None:
    path = studio.folder / "a.png"
    Image.new("RGB", size).save(path)
    with pytest.raises(BadInput, match=f"{size[0]}x{size[1]} px.*at least 32 px"):
        ingest(files, path, studio.speech())


def test_footage_that_is_narrow_once_its_pixels_are_square(studio, files) -> None:
    path = studio.footage("a.mp4", 10, size=(64, 48), aspect=Fraction(1, 4))
    with pytest.raises(BadInput, match=r"16x48 px.*at least 32 px"):
        ingest(files, path, studio.speech())


def test_files_that_are_too_long(studio, files, portrait: Path) -> None:
    footage, speech = studio.footage("a.mp4", 50), studio.speech(seconds=2.0)
    assert ingest(files, footage, speech, max_seconds=2).n_frames == 50
    with pytest.raises(BadInput, match=r"picture .*more than 1\.9 s"):
        ingest(files, footage, studio.speech("b.wav"), max_seconds=1.9)
    with pytest.raises(BadInput, match=r"speech 1 .*more than 1\.9 s"):
        ingest(files, portrait, speech, max_seconds=1.9)


def test_a_time_stamp_years_ahead_does_not_fill_the_disk(studio, files) -> None:
    path = studio.footage("a.mkv", 3, ticks=[0, 3600, 90000 * 3600 * 24 * 300], options={"bf": "0"})
    with pytest.raises(BadInput, match="more than 7200 s"):
        ingest(files, path, studio.speech())


def test_boxes_are_checked_against_the_upright_picture(studio, files) -> None:
    path = studio.footage("a.mp4", 3, size=(64, 48), matrix=(0, 1, -1, 0))
    assert ingest(files, path, studio.speech(), boxes=(Box(0, 0, 48, 64),)).voices[0].box == Box(0, 0, 48, 64)
    with pytest.raises(BadInput, match="48x64 px"):
        ingest(files, path, studio.speech(), boxes=(Box(0, 0, 64, 48),))


@pytest.mark.parametrize("pixel_format", ["rgb96le", "yaf32le", "yaf16be"])
def test_pixel_formats_that_cannot_be_converted(pixel_format: str) -> None:
    """Some of them make FFmpeg abort the process: the refusal has to come before."""
    import av

    from infinitedub.stages.ingest.color_space import scaling, settled
    from infinitedub.stages.ingest.filters import filtered

    frame = av.VideoFrame(64, 48, pixel_format)
    frame.pts, frame.time_base = 0, Fraction(1, 25)
    with pytest.raises(BadInput, match=pixel_format):
        list(filtered([settled(frame)], lambda seen: (("scale", scaling(seen, 64, 48)), ("format", "yuv420p"))))


def test_nothing_of_ffmpeg_reaches_the_terminal(studio) -> None:
    """The libraries' chatter over a damaged file belongs in no log of ours."""
    path = cut(studio.footage("a.mkv", busy(20)), 0.5)
    code = f"""
from pathlib import Path
from infinitedub.stages.ingest.opening import Decoding, open_media, picture_stream
with open_media(Path({str(path)!r}), 10**8) as container:
    assert list(Decoding(container, picture_stream(container, 10**8)))
"""
    clean = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=clean, check=True)
    assert done.stderr == done.stdout == ""
