"""Ingest, with files of every make: what comes out is right, what cannot be right is refused with the reason."""

import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageCms

from stages.contract import Seat
from stages.errors import BadInput
from stages.ingest.settings import IngestSettings
from stages.ingest.stage import IngestStage
from stages.media.footage import read_all
from stages.media.sound import sample_blocks, sound_format
from stages.records import Box, Material, Source, Speaker, Turns

CONF = Path(__file__).resolve().parents[2] / "conf" / "ingest" / "default.yaml"


def stage(**changes) -> IngestStage:
    made = IngestStage(IngestSettings(**{**yaml.safe_load(CONF.read_text()), "fps": 25, **changes}))
    made.open(Seat())
    return made


def ingest(files, picture: Path, *speech: Path, boxes: tuple[Box | None, ...] = (None, None), turns: Turns = Turns.TOGETHER, **changes) -> Source:
    speakers = tuple(Speaker(str(path), box) for path, box in zip(speech, boxes, strict=False))
    return stage(**changes)(Material(str(picture), speakers, turns), files=files)


def pixels(files, source: Source) -> np.ndarray:
    return np.asarray(Image.open(files.fetch(source.picture)))


def samples(files, source: Source, voice: int = 0) -> np.ndarray:
    return np.concatenate(list(sample_blocks(files.fetch(source.voices[voice].sound))), axis=1)


def gradient(width: int = 64, height: int = 48) -> np.ndarray:
    """A picture in which every direction is told apart."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), np.full_like(x, 60)], -1).astype(np.uint8)


@pytest.fixture
def portrait(studio) -> Path:
    path = studio.folder / "portrait.png"
    Image.fromarray(gradient()).save(path)
    return path


# -- footage ------------------------------------------------------------------------------------------------------------


def test_footage_at_the_right_rate_passes_frame_for_frame(studio, files, numbers) -> None:
    source = ingest(files, studio.footage("a.mp4", 30), studio.speech())
    assert (source.moving, source.width, source.height, source.fps, source.n_frames) == (True, 64, 48, 25, 30)
    assert source.picture.kind == "footage/mp4"
    assert numbers(files.fetch(source.picture)) == list(range(30))


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
def test_any_rate_becomes_ours_by_time(studio, files, numbers, name: str, rate: Fraction, wanted: list[int]) -> None:
    source = ingest(files, studio.footage(name, 12, rate=rate, options={"bf": "0"}), studio.speech())
    assert source.n_frames == len(wanted)
    assert numbers(files.fetch(source.picture)) == wanted


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_variable_rate_is_followed_by_time(studio, files, numbers, name: str) -> None:
    frames = [0, 1, 2, 7, 8, 20]  # the first output frame that shows each
    path = studio.footage(name, 6, ticks=[frame * 3600 for frame in frames], options={"bf": "0"})
    got = numbers(files.fetch(ingest(files, path, studio.speech()).picture))
    assert got[:21] == [0, 1, *[2] * 5, 3, *[4] * 12, 5]
    assert set(got[21:]) <= {5}


def test_the_clock_may_begin_anywhere(studio, files, numbers) -> None:
    path = studio.footage("a.mkv", 10, ticks=[450000 + 3600 * n for n in range(10)], options={"bf": "0"})
    assert numbers(files.fetch(ingest(files, path, studio.speech()).picture)) == list(range(10))


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
def test_footage_is_set_upright(studio, files, matrix: tuple[int, int, int, int], upright) -> None:
    source = ingest(files, studio.footage("a.mp4", [gradient()] * 3, matrix=matrix), studio.speech())
    want = upright(gradient()).astype(int)
    assert (source.height, source.width) == want.shape[:2]
    assert all(np.abs(frame - want).mean() < 3 for frame in read_all(files.fetch(source.picture)))


@pytest.mark.parametrize("order", ["picture first", "sound first"])
def test_no_stream_loses_its_last_frames_to_another(studio, files, portrait: Path, numbers, order: str) -> None:
    """Decoders give their last frames when they are drained; B-frames and AAC make both have some."""
    import av

    given, path = studio.footage("given.mp4", 20, sound=noise(1, 12800, 16), options={"bf": "3"}), studio.folder / "a.mkv"
    with av.open(str(given)) as container, av.open(str(path), "w") as made:
        found = [*container.streams.video, *container.streams.audio]
        streams = {stream.index: made.add_stream_from_template(stream) for stream in (found if order == "picture first" else found[::-1])}
        for packet in container.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                made.mux(packet)
    assert numbers(files.fetch(ingest(files, path, studio.speech()).picture)) == list(range(20))
    assert ingest(files, portrait, path).voices[0].n_samples >= 12800


def test_pixels_become_square(studio, files) -> None:
    source = ingest(files, studio.footage("a.mp4", 3, size=(72, 58), aspect=Fraction(16, 11)), studio.speech())
    assert (source.width, source.height) == (104, 58)


def test_odd_sizes_become_even_without_blur(studio, files) -> None:
    given = np.full((49, 65, 3), 60, np.uint8)
    given[:, ::2] = 200  # stripes of one pixel, which scaling by 64/65 would turn into grey in the middle
    source = ingest(files, studio.footage("a.mp4", [given] * 3, pixel_format="yuv444p", options={"crf": "1"}), studio.speech())
    assert (source.width, source.height) == (64, 48)
    assert np.abs(next(read_all(files.fetch(source.picture))).astype(int) - given[:48, :64]).max() < 30


@pytest.mark.parametrize("matrix", [None, (0, 1, -1, 0)])
def test_large_footage_is_scaled_down_with_its_boxes(studio, files, matrix) -> None:
    path = studio.footage("a.mp4", [gradient(200, 100)] * 3, matrix=matrix)
    source = ingest(files, path, studio.speech(), boxes=(Box(20, 40, 60, 100),), max_side_px=100)
    assert (source.width, source.height) == ((100, 50) if matrix is None else (50, 100))
    assert source.voices[0].box == Box(10, 20, 30, 50)


@pytest.mark.parametrize("pixel_format", ["yuv420p10le", "yuv422p", "yuv444p", "yuvj420p"])
def test_pixel_formats_become_ours(studio, files, pixel_format: str) -> None:
    source = ingest(files, studio.footage("a.mp4", [gradient()] * 3, pixel_format=pixel_format), studio.speech())
    assert np.abs(next(read_all(files.fetch(source.picture))).astype(int) - gradient()).mean() < 3


def test_rgb_footage_keeps_its_colours(studio, files) -> None:
    source = ingest(files, studio.footage("a.mkv", [gradient()] * 3, codec="libx264rgb", pixel_format="rgb24"), studio.speech())
    assert np.abs(next(read_all(files.fetch(source.picture))).astype(int) - gradient()).mean() < 3


def test_high_definition_without_tags_is_bt709(studio, files) -> None:
    """Red under the wrong matrix is off by a dozen levels."""
    import av

    red = np.full((720, 1280, 3), (200, 30, 30), np.uint8)
    path = studio.folder / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        frame = av.VideoFrame.from_ndarray(red, format="rgb24").reformat(format="yuv420p", dst_colorspace=1)
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    source = ingest(files, path, studio.speech())
    assert np.abs(next(read_all(files.fetch(source.picture))).astype(int) - red).max() < 5


def test_high_dynamic_range_is_shown_as_on_a_standard_screen(studio, files) -> None:
    """PQ at 1/4 and 1/2 of its range is 5.2 and 92 cd/m2 (SMPTE ST 2084); diffuse white is 203 (ITU-R BT.2408), the screen's gamma 2.4 (BT.1886)."""

    def as_pq(stream) -> None:
        codec = stream.codec_context
        codec.color_trc, codec.color_primaries, codec.colorspace, codec.color_range = 16, 9, 9, 1

    frames = [np.full((48, 64, 3), level, np.uint8) for level in (0, 64, 128, 255)]
    path = studio.footage("a.mp4", frames, codec="libx265", pixel_format="yuv420p10le", touch=as_pq, options={"x265-params": "log-level=none:crf=1"})
    black, dark, middle, bright = (float(frame.mean()) for frame in read_all(files.fetch(ingest(files, path, studio.speech()).picture)))
    assert black < 2
    assert dark == pytest.approx((5.2 / 203) ** (1 / 2.4) * 255, abs=3)
    assert middle == pytest.approx((92 / 203) ** (1 / 2.4) * 255, abs=3)
    assert bright > 253


def test_interlaced_footage_is_woven_into_whole_frames(studio, files) -> None:
    """A bar that has moved between two fields leaves a comb in the frame; deinterlacing takes most of it away."""

    def combed(number: int) -> np.ndarray:
        frame = np.full((96, 128, 3), 40, np.uint8)
        for field in (0, 1):
            left = 10 + 8 * number + 4 * field
            frame[field::2, left : left + 30] = 220
        return frame

    def comb(frame: np.ndarray) -> float:
        rows = frame.astype(int)
        return float(np.abs(2 * rows[1:-1] - rows[:-2] - rows[2:]).mean())

    def interlaced(stream) -> None:
        stream.codec_context.options = {"x264-params": "tff=1", "crf": "4"}

    given = [combed(number) for number in range(8)]
    path = studio.footage("a.mp4", given, touch=interlaced)
    source = ingest(files, path, studio.speech())
    assert source.n_frames == 8
    after = [comb(frame) for frame in read_all(files.fetch(source.picture))]
    assert max(after[1:-1]) < 0.5 * comb(given[3])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_is_footage(studio, files, kind: str) -> None:
    path = studio.folder / "a.jpg"
    frames = [Image.fromarray(np.full((48, 64, 3), 20 + 60 * number, np.uint8)) for number in range(3)]
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=[80, 200, 120], loop=0)
    source = ingest(files, path, studio.speech())
    assert (source.moving, source.n_frames) == (True, 10)
    levels = [round((float(frame.mean()) - 20) / 60) for frame in read_all(files.fetch(source.picture))]
    assert levels == [0, 0, 1, 1, 1, 1, 1, 2, 2, 2]


def test_normalised_footage_is_the_same_every_time(studio, files) -> None:
    path = studio.footage("a.mp4", [gradient()] * 5, rate=30)
    assert ingest(files, path, studio.speech()).picture.sha256 == ingest(files, path, studio.speech()).picture.sha256


# -- photographs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "PPM", "JPEG", "GIF"])
def test_a_photograph_is_known_by_its_content(studio, files, kind: str) -> None:
    path = studio.folder / "photograph.mp4"  # a name that lies
    Image.fromarray(gradient()).save(path, kind, **({"lossless": True} if kind == "WEBP" else {}))
    source = ingest(files, path, studio.speech())
    assert (source.moving, source.n_frames, source.width, source.height, source.picture.kind) == (False, 1, 64, 48, "picture/png")
    difference = np.abs(pixels(files, source).astype(int) - gradient())
    assert difference.mean() < 12 if kind in ("JPEG", "GIF") else difference.max() == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_set_upright(studio, files, orientation: int) -> None:
    path = studio.folder / "a.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(gradient()).save(path, exif=exif)
    want = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
        8: np.rot90,
    }[orientation](gradient())
    source = ingest(files, path, studio.speech())
    assert np.array_equal(pixels(files, source), want)
    assert Image.open(files.fetch(source.picture)).getexif() == {}


def test_what_is_transparent_shows_the_stated_colour(studio, files) -> None:
    path = studio.folder / "a.png"
    alpha = np.zeros((48, 64, 1), np.uint8)
    alpha[:, 32:] = 255
    Image.fromarray(np.concatenate([gradient(), alpha], -1)).save(path)
    got = pixels(files, ingest(files, path, studio.speech(), alpha_color=(10, 200, 30)))
    assert np.array_equal(got[:, :32], np.broadcast_to(np.array([10, 200, 30], np.uint8), (48, 32, 3)))
    assert np.array_equal(got[:, 32:], gradient()[:, 32:])


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(studio, files, mode: str) -> None:
    path = studio.folder / "a"
    grey = Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1)))
    if mode == "I;16":
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(path, "PNG")
    elif mode == "P":
        grey.convert("RGB").quantize(256).save(path, "PNG")
    else:
        grey.convert("RGB" if mode == "CMYK" else "L").convert(mode).save(path, "TIFF" if mode == "CMYK" else "PNG")
    got = pixels(files, ingest(files, path, studio.speech())).astype(int)
    assert got.shape == (48, 64, 3)
    want = np.asarray(grey.convert("1") if mode == "1" else grey).astype(int) * (255 if mode == "1" else 1)
    assert np.abs(got - want[..., None]).max() <= 2


def test_numbers_without_a_range_are_refused(studio, files) -> None:
    path = studio.folder / "a.tiff"
    Image.fromarray(np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(48, 64)).save(path)
    with pytest.raises(BadInput, match="8 or 16 bits"):
        ingest(files, path, studio.speech())


def test_an_embedded_profile_is_applied(studio, files) -> None:
    """With half of sRGB's gamma the same numbers mean brighter greys; a broken profile is passed over."""
    grey = np.full((48, 64, 3), 50, np.uint8)
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    place = profile.index(b"para") + 12  # parametric curve: type, reserved, function, gamma as s15Fixed16 (ICC.1, 10.18)
    profile[place : place + 4] = struct.pack(">i", round(1.2 * 65536))
    for name, icc in (("bright.png", bytes(profile)), ("broken.png", b"no profile at all")):
        Image.fromarray(grey).save(studio.folder / name, icc_profile=icc)
    assert np.array_equal(pixels(files, ingest(files, studio.folder / "broken.png", studio.speech())), grey)
    assert pixels(files, ingest(files, studio.folder / "bright.png", studio.speech())).min() > 80


def test_a_large_photograph_is_scaled_down_with_its_boxes(studio, files) -> None:
    path = studio.folder / "a.png"
    Image.fromarray(gradient(201, 101)).save(path)
    source = ingest(files, path, studio.speech(), studio.speech("b.wav"), boxes=(Box(0, 0, 100, 101), Box(100, 0, 201, 101)), max_side_px=100)
    assert (source.width, source.height) == (100, 50)
    assert [voice.box for voice in source.voices] == [Box(0, 0, 50, 50), Box(49, 0, 100, 50)]


# -- speech -------------------------------------------------------------------------------------------------------------


def noise(channels: int, count: int, bits: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    if bits == 16:
        return rng.integers(-(2**15), 2**15, (channels, count)).astype(np.int16)
    return rng.integers(-(2**23), 2**23, (channels, count)).astype(np.int32) << 8


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize(("codec", "bits"), [("pcm_s16le", 16), ("pcm_s24le", 24), ("pcm_s16be", 16), ("flac", 16)])
def test_whole_numbers_are_kept_to_the_sample(studio, files, portrait: Path, codec: str, bits: int, channels: int, rate: int) -> None:
    given = noise(channels, 5000, bits)
    suffix = {"flac": "flac", "pcm_s16be": "aiff"}.get(codec, "wav")
    source = ingest(files, portrait, studio.sound(f"a.{suffix}", given, rate, codec=codec))
    voice = source.voices[0]
    assert (voice.sample_rate, voice.n_samples, voice.start_sample, voice.sound.kind) == (rate, 5000, 0, "sound/flac")
    assert sound_format(files.fetch(voice.sound)).bits == bits
    assert np.array_equal(samples(files, source), given)


def test_eight_bits_become_sixteen_exactly(studio, files, portrait: Path) -> None:
    given = np.arange(256, dtype=np.uint8)[None]
    source = ingest(files, portrait, studio.sound("a.wav", given, codec="pcm_u8"))
    assert np.array_equal(samples(files, source), (given.astype(np.int16) - 128) << 8)


def test_thirty_two_bits_are_rounded_to_twenty_four(studio, files, portrait: Path) -> None:
    given = np.array([[0, 127, 128, -128, -129, 2**31 - 1, -(2**31), 1 << 20]], np.int32).repeat(50, axis=1)
    got = samples(files, ingest(files, portrait, studio.sound("a.wav", given, codec="pcm_s32le")))
    assert np.abs(got.astype(np.int64) - given).max() <= 255
    assert np.array_equal(got & 0xFF, np.zeros_like(got))


@pytest.mark.parametrize("codec", ["pcm_f32le", "pcm_f64le"])
def test_floats_become_twenty_four_bits(studio, files, portrait: Path, codec: str) -> None:
    given = np.random.default_rng(0).uniform(-1, 1, (2, 4000)).astype(np.float32 if codec == "pcm_f32le" else np.float64)
    source = ingest(files, portrait, studio.sound("a.wav", given, codec=codec))
    assert sound_format(files.fetch(source.voices[0].sound)).bits == 24
    assert np.abs(samples(files, source) / 2**31 - given).max() <= 2**-23


def test_floats_beyond_full_scale_are_turned_down_not_clipped(studio, files, portrait: Path, caplog) -> None:
    given = (np.sin(np.arange(4000) / 9) * 2.5).astype(np.float32)[None]
    got = samples(files, ingest(files, portrait, studio.sound("a.wav", given, codec="pcm_f32le"))) / 2**31
    assert np.abs(got - given / np.abs(given).max()).max() < 1e-5
    assert "turned down" in caplog.text


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(studio, files, portrait: Path, bad: float) -> None:
    given = np.zeros((1, 4000), np.float32)
    given[0, 3000] = bad
    with pytest.raises(BadInput, match=r"speech 1 .*a\.wav: .*no numbers"):
        ingest(files, portrait, studio.sound("a.wav", given, codec="pcm_f32le"))


@pytest.mark.parametrize(("name", "codec"), [("a.mp3", "libmp3lame"), ("a.m4a", "aac"), ("a.ogg", "libopus"), ("a.webm", "libopus")])
def test_compressed_speech_keeps_its_length_and_place(studio, files, portrait: Path, name: str, codec: str) -> None:
    given = np.zeros((1, 48000), np.int16)
    given[0, 12000:24000] = (np.sin(np.arange(12000) / 20) * 12000).astype(np.int16)
    source = ingest(files, portrait, studio.sound(name, given, 48000, codec=codec))
    assert source.voices[0].sample_rate == 48000
    assert abs(source.voices[0].n_samples - 48000) <= 2000  # the encoder may fill its last block
    loud = np.flatnonzero(np.abs(samples(files, source)[0] / 2**31) > 0.1)
    assert abs(loud[0] - 12000) < 300
    assert abs(loud[-1] - 24000) < 300


def test_speech_may_come_from_a_video(studio, files, portrait: Path) -> None:
    given = noise(1, 8000, 16)
    source = ingest(files, portrait, studio.footage("a.mkv", 25, sound=given))
    assert np.array_equal(samples(files, source), given)


def test_silence_is_speech_too(studio, files, portrait: Path) -> None:
    source = ingest(files, portrait, studio.sound("a.wav", np.zeros((1, 16000), np.int16)))
    assert source.speech_seconds == 1.0


def test_one_sample_is_enough(studio, files, portrait: Path) -> None:
    assert ingest(files, portrait, studio.sound("a.wav", noise(1, 1, 16))).voices[0].n_samples == 1


@pytest.mark.parametrize(("turns", "start"), [(Turns.TOGETHER, 0), (Turns.IN_TURN, 22050)])
def test_two_voices_keep_their_rates_and_take_their_turns(studio, files, portrait: Path, turns: Turns, start: int) -> None:
    first, second = studio.sound("a.wav", noise(1, 4000, 16), 8000), studio.sound("b.wav", noise(2, 3000, 16), 44100)
    source = ingest(files, portrait, first, second, boxes=(Box(0, 0, 32, 48), Box(32, 0, 64, 48)), turns=turns)
    assert [(voice.sample_rate, voice.n_samples) for voice in source.voices] == [(8000, 4000), (44100, 3000)]
    assert [voice.start_sample for voice in source.voices] == [0, start]
    assert [voice.box for voice in source.voices] == [Box(0, 0, 32, 48), Box(32, 0, 64, 48)]


def test_a_hole_between_time_stamps_is_silence(studio, files, portrait: Path) -> None:
    import av

    path, given = studio.folder / "a.mkv", noise(1, 4000, 16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for pts, part in ((0, given[:, :2000]), (6000, given[:, 2000:])):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, pts, Fraction(1, 8000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    got = samples(files, ingest(files, portrait, path))
    assert np.array_equal(got, np.concatenate([given[:, :2000], np.zeros((1, 4000), np.int16), given[:, 2000:]], axis=1))
