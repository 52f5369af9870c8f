"""Wrong and hostile files of users are refused with a reason, and no other file is opened meanwhile."""

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
from infinitedub.stages.ingest.media_decoder import HEIF_BRANDS, open_media
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
def test_a_file_without_media_is_refused_whatever_its_name(media, files, portrait: Path, content: bytes, name: str, what: str) -> None:
    path = media.folder / name
    path.write_bytes(content)
    with pytest.raises(BadInput) as refusal:
        ingest(files, *((path, media.speech()) if what == "picture" else (portrait, path)))
    assert what in str(refusal.value)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("brand", sorted(HEIF_BRANDS))
def test_a_heif_photograph_is_named_in_the_message(media, files, brand: str) -> None:
    """FFmpeg opens its container, and would read its tiles as videos."""
    path = media.footage("a.mp4", 5)
    data = path.read_bytes()
    assert data[4:8] == b"ftyp"
    path.write_bytes(data[:8] + brand.encode() + data[12:])
    with pytest.raises(BadInput, match="is a HEIF photograph, which is not supported; save it as JPEG or PNG"):
        ingest(files, path, media.speech())


def test_a_missing_file_is_refused(media, files) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        ingest(files, media.folder / "missing.mp4", media.speech())


PLAYLISTS = {
    "a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\n{victim}\n#EXT-X-ENDLIST\n",
    "a.ffconcat": "ffconcat version 1.0\nfile {victim}\n",
    "a.mpd": '<?xml version="1.0"?><MPD type="static"><Period><AdaptationSet><Representation id="1" bandwidth="1" mimeType="video/mp4">'
    "<BaseURL>{victim}</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "a.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "a.asx": '<asx version="3.0"><entry><ref href="{victim}"/></entry></asx>',
}


@pytest.mark.parametrize("what", ["picture", "speech"])
@pytest.mark.parametrize("victim", ["/etc/passwd", "video", "http://127.0.0.1:9/a.ts"])
@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_is_never_followed(media, files, portrait: Path, name: str, victim: str, what: str) -> None:
    """The video is playable: if the playlist were followed, ingest would accept it."""
    target = str(media.footage("victim.mp4", 5, sound=np.zeros((1, 3200), np.int16))) if victim == "video" else victim
    for path in (media.folder / name, media.folder / "innocent.mp4"):
        path.write_text(PLAYLISTS[name].format(victim=target))
        with pytest.raises(BadInput):
            ingest(files, *((path, media.speech()) if what == "picture" else (portrait, path)))


@pytest.mark.parametrize("protocol", ["concat:", "cache:", "async:", "subfile,,start,0,end,6000,,:"])
def test_ffmpegs_protocols_other_than_file_are_refused(media, protocol: str) -> None:
    """With each of these protocols FFmpeg could read the speech."""
    with pytest.raises(BadInput), open_media(Path(f"{protocol}{media.speech()}"), 10**8):
        pass


def test_a_number_pattern_in_a_name_is_not_expanded(media, files) -> None:
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(media.folder / "frame1.png")
    path = media.folder / "frame%d.png"
    path.write_bytes(b"nothing")
    with pytest.raises(BadInput):
        ingest(files, path, media.speech())


# -- cut short or damaged -------------------------------------------------------------------------------------------------


CUT = ("a.mp4", "a.mkv", "a.webm", "a.avi", "a.flv", "fast.mp4")


def cut(path: Path, part: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    return path


def noisy_frames(count: int) -> list[np.ndarray]:
    """Frames that take so many bytes that a file cut in its middle has lost half of its duration."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize(("name", "sound"), [*((name, False) for name in CUT), ("a.mp4", True), ("a.mkv", True), ("fast.mp4", True)])
def test_truncated_footage_is_refused(media, files, name: str, sound: bool) -> None:
    import av

    voice = np.zeros((1, 32000), np.int16) if sound else None
    path = media.footage(name, noisy_frames(50), sound=voice, codec="libvpx-vp9" if name == "a.webm" else "libx264")
    if name == "fast.mp4":  # the index comes first, so the file opens although it is truncated
        whole, path = path, media.folder / "b.mp4"
        with av.open(str(whole)) as original, av.open(str(path), "w", options={"movflags": "+faststart"}) as copy:
            streams = {stream.index: copy.add_stream_from_template(stream) for stream in original.streams}
            for packet in original.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream_index]
                    copy.mux(packet)
    cut(path, 0.5)
    reason = "cut short" if name != "a.mp4" else "index is missing"
    with pytest.raises(BadInput, match=reason):
        ingest(files, path, media.speech())


def test_the_message_states_the_announced_and_the_decoded_duration(media, files) -> None:
    path = cut(media.footage("a.mkv", noisy_frames(50)), 0.5)
    with pytest.raises(BadInput, match=r"announces 2\.00 s, only (0\.9|1\.0)\d s could be decoded"):
        ingest(files, path, media.speech())


def test_min_decoded_fraction_sets_how_much_may_be_missing(media, files) -> None:
    path = cut(media.footage("a.mkv", noisy_frames(50)), 0.5)
    assert 20 <= ingest(files, path, media.speech(), min_decoded_fraction=0.3).n_frames <= 30


def test_footage_shorter_than_its_sound_is_complete(media, files) -> None:
    for name in ("a.mkv", "a.mp4", "a.mov"):
        path = media.footage(name, 25, sound=np.zeros((1, 64000), np.int16))
        assert ingest(files, path, media.speech()).n_frames == 25


def test_footage_with_a_damaged_middle_is_refused(media, files) -> None:
    path = media.footage("a.mkv", noisy_frames(50), options={"g": "1"})
    data = bytearray(path.read_bytes())
    for offset in range(len(data) // 10, len(data) * 9 // 10, 300):
        data[offset : offset + 150] = bytes(150)
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"damaged|cut short"):
        ingest(files, path, media.speech())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF"])
def test_a_truncated_photograph_is_refused(media, files, kind: str) -> None:
    path = media.folder / "a"
    Image.fromarray(noisy_frames(1)[0]).save(path, kind)
    with pytest.raises(BadInput, match=r"damaged|cut short|not a media file"):
        ingest(files, cut(path, 0.5), media.speech())


@pytest.mark.parametrize("seed", range(30))
def test_random_damage_is_refused_or_tolerated_but_never_crashes(media, files, portrait: Path, seed: int) -> None:
    rng = random.Random(seed)
    makers = [
        lambda: media.footage("a.mp4", noisy_frames(6), sound=np.ones((1, 3200), np.int16)),
        lambda: media.footage("a.mkv", noisy_frames(6)),
        lambda: media.sound("a.wav", np.ones((2, 4000), np.int16)),
        lambda: media.sound("a.flac", np.ones((1, 4000), np.int16), codec="flac"),
        lambda: portrait.rename(media.folder / "b.png"),
    ]
    path = makers[seed % len(makers)]()
    data = bytearray(path.read_bytes())
    for _ in range(rng.randrange(1, 30)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data)
    Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(portrait)
    for picture, speech in ((path, media.speech()), (portrait, path)):
        try:
            ingest(files, picture, speech, max_seconds=60, max_pixels=10**6)
        except BadInput as refusal:
            assert str(path) in str(refusal)


# -- too much, too little -------------------------------------------------------------------------------------------------


def test_a_sound_file_as_source_is_refused(media, files) -> None:
    with pytest.raises(BadInput, match="only sound"):
        ingest(files, media.speech(), media.speech("b.wav"))


def test_footage_without_sound_as_speech_is_refused(media, files, portrait: Path) -> None:
    with pytest.raises(BadInput, match=r"speech 1 .*has no sound"):
        ingest(files, portrait, media.footage("a.mp4", 5))


def test_a_photograph_as_speech_is_refused(media, files, portrait: Path) -> None:
    with pytest.raises(BadInput, match="speech 1"):
        ingest(files, portrait, portrait)


def test_speech_without_samples_is_refused(media, files, portrait: Path) -> None:
    path = media.speech("a.wav", 0.1)
    path.write_bytes(path.read_bytes()[: path.read_bytes().index(b"data") + 4] + bytes(4))
    with pytest.raises(BadInput, match="speech 1"):
        ingest(files, portrait, path)


def test_more_channels_than_flac_supports_are_refused(media, files, portrait: Path) -> None:
    path = media.sound("a.wav", np.zeros((10, 500), np.int16), layout="10 channels")
    with pytest.raises(BadInput, match="10 channels"):
        ingest(files, portrait, path)


def test_unknown_codecs_are_refused(media, files, portrait: Path) -> None:
    path = media.footage("a.mkv", 5, sound=np.ones((1, 3200), np.int16))
    whole = path.read_bytes()
    for what, known, made_up in (("picture", b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/XYZ"), ("sound", b"A_FLAC", b"A_XLAC")):
        path.write_bytes(whole.replace(known, made_up))
        with pytest.raises(BadInput, match=f"holds its {what} in a codec that is not supported"):
            ingest(files, path if what == "picture" else portrait, path)


@pytest.mark.parametrize("rate", [500, 65537, 700_000])
def test_rates_that_flac_cannot_store_are_refused(media, files, portrait: Path, rate: int) -> None:
    with pytest.raises(BadInput, match=f"sample rate of {rate} Hz.*convert it to 48000 Hz"):
        ingest(files, portrait, media.sound("a.wav", np.ones((1, 2000), np.int16), rate=rate))


def test_samples_that_flac_cannot_store_are_refused(media, files, portrait: Path) -> None:
    with pytest.raises(BadInput, match="samples of format s64"):
        ingest(files, portrait, media.sound("a.wav", np.ones((1, 2000), np.int32), codec="pcm_s64le"))


def test_sound_that_changes_its_layout_is_refused(media, files, portrait: Path) -> None:
    parts = [media.sound(f"{channels}.mp3", np.ones((channels, 16000), np.int16), codec="libmp3lame") for channels in (1, 2)]
    path = media.folder / "a.mp3"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(BadInput, match=r"changes from .*'mono'.* to .*'stereo'.* after 1\.\d\d s"):
        ingest(files, portrait, path)


@pytest.mark.parametrize("make", ["footage", "photograph"])
def test_pictures_above_max_pixels_are_refused(media, files, make: str) -> None:
    path = media.folder / "a.png"
    Image.fromarray(np.zeros((200, 300, 3), np.uint8)).save(path)
    with pytest.raises(BadInput, match=r"300x200 px.*50000 pixels"):
        ingest(files, media.footage("a.mp4", 2, size=(300, 200)) if make == "footage" else path, media.speech(), max_pixels=50000)


def test_a_decompression_bomb_is_not_decoded(media, files) -> None:
    """The header announces 60000x60000 px, which is refused before decoding."""
    path = media.folder / "a.png"
    Image.new("1", (64, 64)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", __import__("zlib").crc32(bytes(data[12:29])))
    path.write_bytes(data)
    with pytest.raises(BadInput, match="pixels"):
        ingest(files, path, media.speech())


def test_a_bomb_of_compressed_text_in_a_png_is_refused(media, files) -> None:
    path, info = media.folder / "a.png", PngImagePlugin.PngInfo()
    info.add_text("bomb", "a" * 80_000_000, zip=True)
    Image.new("RGB", (64, 48)).save(path, pnginfo=info)
    with pytest.raises(BadInput):
        ingest(files, path, media.speech())


@pytest.mark.parametrize("size", [(1, 1), (31, 400), (400, 2)])
def test_pictures_below_min_side_px_are_refused(media, files, size: tuple[int, int]) -> None:
    path = media.folder / "a.png"
    Image.new("RGB", size).save(path)
    with pytest.raises(BadInput, match=f"{size[0]}x{size[1]} px.*at least 32 px"):
        ingest(files, path, media.speech())


def test_footage_that_is_too_narrow_with_square_pixels_is_refused(media, files) -> None:
    path = media.footage("a.mp4", 10, size=(64, 48), aspect=Fraction(1, 4))
    with pytest.raises(BadInput, match=r"16x48 px.*at least 32 px"):
        ingest(files, path, media.speech())


def test_files_longer_than_max_seconds_are_refused(media, files, portrait: Path) -> None:
    footage, speech = media.footage("a.mp4", 50), media.speech(seconds=2.0)
    assert ingest(files, footage, speech, max_seconds=2).n_frames == 50
    with pytest.raises(BadInput, match=r"picture .*more than 1\.9 s"):
        ingest(files, footage, media.speech("b.wav"), max_seconds=1.9)
    with pytest.raises(BadInput, match=r"speech 1 .*more than 1\.9 s"):
        ingest(files, portrait, speech, max_seconds=1.9)


def test_a_time_stamp_years_ahead_does_not_fill_the_disk(media, files) -> None:
    path = media.footage("a.mkv", 3, ticks=[0, 3600, 90000 * 3600 * 24 * 300], options={"bf": "0"})
    with pytest.raises(BadInput, match="more than 7200 s"):
        ingest(files, path, media.speech())


def test_boxes_are_checked_against_the_upright_picture(media, files) -> None:
    path = media.footage("a.mp4", 3, size=(64, 48), matrix=(0, 1, -1, 0))
    assert ingest(files, path, media.speech(), boxes=(Box(0, 0, 48, 64),)).voices[0].box == Box(0, 0, 48, 64)
    with pytest.raises(BadInput, match="48x64 px"):
        ingest(files, path, media.speech(), boxes=(Box(0, 0, 64, 48),))


@pytest.mark.parametrize("pixel_format", ["rgb96le", "yaf32le", "yaf16be"])
def test_unsupported_pixel_formats_are_refused(pixel_format: str) -> None:
    """Some of them make FFmpeg abort the process, so they are refused before it converts them."""
    import av

    from infinitedub.stages.ingest.color_space import complete_color_tags, scale_arguments
    from infinitedub.stages.ingest.filter_graph import apply_filters

    frame = av.VideoFrame(64, 48, pixel_format)
    frame.pts, frame.time_base = 0, Fraction(1, 25)
    with pytest.raises(BadInput, match=pixel_format):
        list(apply_filters([complete_color_tags(frame)], lambda tagged: (("scale", scale_arguments(tagged, 64, 48)), ("format", "yuv420p"))))


def test_ffmpeg_writes_nothing_to_the_terminal(media) -> None:
    """The libraries must not print messages about a damaged file."""
    path = cut(media.footage("a.mkv", noisy_frames(20)), 0.5)
    code = f"""
from pathlib import Path
from infinitedub.stages.ingest.media_decoder import StreamDecoder, open_media, video_stream
with open_media(Path({str(path)!r}), 10**8) as container:
    assert list(StreamDecoder(container, video_stream(container, 10**8)))
"""
    clean = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=clean, check=True)
    assert done.stderr == done.stdout == ""
