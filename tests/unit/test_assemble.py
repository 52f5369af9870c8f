"""Assemble: frames in order, every sample of the speech unchanged, the same bytes for the same input."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import yaml

from infinitedub.stages.assemble.chunk_order import chunks_in_order
from infinitedub.stages.assemble.settings import AssembleSettings
from infinitedub.stages.assemble.soundtrack import BLOCK_SAMPLES, VoiceTrack, build_soundtrack
from infinitedub.stages.assemble.stage import AssembleStage
from infinitedub.stages.contract import Rank
from infinitedub.stages.media.audio_io import planar_samples, write_flac
from infinitedub.stages.media.video_io import write_lossless
from infinitedub.stages.records import Artifact, Chunk, Clip, Film, Source, Span, Voice

CONF = Path(__file__).resolve().parents[2] / "conf" / "assemble" / "default.yaml"
NO_FILE = Artifact("no-file", "", 0, "picture/png")


def assemble(files, source: Source, *clips: Clip, **changes) -> Film:
    stage = AssembleStage(AssembleSettings(**{**yaml.safe_load(CONF.read_text()), "preset": "ultrafast", **changes}))
    stage.open(Rank())
    return stage(source, clips, files=files)


def numbered(start: int, stop: int, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    return [np.full((*size, 3), 20 + 3 * number, np.uint8) for number in range(start, stop)]


def clip(files, index: int, start: int, *chunk_frames: int, size: tuple[int, int] = (48, 64)) -> Clip:
    """A clip that begins at frame `start`, in chunks of these many frames; the grey level of a frame encodes its number."""
    chunks, stop = [], start
    for frames in chunk_frames:
        path = files.scratch() / "chunk.mkv"
        write_lossless(path, numbered(stop, stop + frames, size), 25.0)
        chunks.append(Chunk(len(chunks), files.store(path, "chunk/mkv"), frames))
        stop += frames
    return Clip(index, Span(start, stop), tuple(chunks))


def voice(files, samples: np.ndarray, rate: int = 16000, start: int = 0, layout: str | None = None) -> Voice:
    path = files.scratch() / "voice.flac"
    write_flac(path, [samples], rate, layout or {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[0]])
    return Voice(files.store(path, "sound/flac"), rate, samples.shape[1], start, None)


def source(*voices: Voice, fps: float = 25.0) -> Source:
    return Source(NO_FILE, False, 64, 48, fps, 1, voices)


def noise(channels: int, count: int, bits: int = 16, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if bits == 16:
        return rng.integers(-(2**15), 2**15, (channels, count)).astype(np.int16)
    return rng.integers(-(2**23), 2**23, (channels, count)).astype(np.int32) << 8


def film_samples(files, film: Film) -> np.ndarray:
    with av.open(str(files.fetch(film.file))) as container:
        return np.concatenate([planar_samples(frame) for frame in container.decode(audio=0)], axis=1)


def film_frames(files, film: Film) -> list[np.ndarray]:
    with av.open(str(files.fetch(film.file))) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_clips_and_chunks_are_joined_in_order(files) -> None:
    film = assemble(files, source(voice(files, noise(1, 16000))), clip(files, 0, 0, 10, 7), clip(files, 1, 17, 3), clip(files, 2, 20, 5, 5))
    assert (film.frames, film.fps, film.file.kind) == (30, 25.0, "film/mp4")
    assert [round((float(frame.mean()) - 20) / 3) for frame in film_frames(files, film)] == list(range(30))


def test_each_chunk_is_released_when_the_film_has_its_frames(files) -> None:
    """Otherwise the node's disk would hold the whole film, whatever the limit of its cache."""
    clips = clip(files, 0, 0, 3, 2), clip(files, 1, 5, 4)
    assemble(files, source(voice(files, noise(1, 16000))), *clips)
    assert [str(path) for path in files.released] == [chunk.picture.uri for each in clips for chunk in each.chunks]


@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize(("channels", "rate"), [(1, 16000), (2, 44100), (2, 48000), (6, 48000), (1, 8000), (2, 96000), (1, 192000)])
def test_one_voice_keeps_every_sample(files, channels: int, rate: int, bits: int) -> None:
    original = noise(channels, rate * 3 // 5, bits)
    film = assemble(files, source(voice(files, original, rate, start=1000)), clip(files, 0, 0, 25))
    got = film_samples(files, film)
    assert got.shape == (channels, rate)
    assert np.array_equal(got[:, 1000 : 1000 + original.shape[1]], original)
    assert not got[:, :1000].any()
    assert not got[:, 1000 + original.shape[1] :].any()


@pytest.mark.parametrize(("samples", "drift"), [(16000, 0.0), (16320, 20.0), (8000, -500.0)])
def test_audio_is_cut_or_padded_to_the_video_and_drift_is_recorded(files, samples: int, drift: float) -> None:
    original = noise(1, samples)
    film = assemble(files, source(voice(files, original)), clip(files, 0, 0, 25))
    assert film.drift_ms == pytest.approx(drift)
    got = film_samples(files, film)
    assert got.shape == (1, 16000)
    assert np.array_equal(got[:, :samples], original[:, :16000])


def test_a_voice_that_begins_after_the_film_is_dropped(files) -> None:
    film = assemble(files, source(voice(files, noise(1, 100), start=50000)), clip(files, 0, 0, 5))
    assert not film_samples(files, film).any()


def test_two_voices_are_added(files) -> None:
    first, second = noise(1, 4000) // 4, noise(1, 6000, seed=1) // 4
    film = assemble(files, source(voice(files, first), voice(files, second, start=3000)), clip(files, 0, 0, 15))
    want = np.zeros((1, 9600), np.int64)
    want[:, :4000] += first
    want[:, 3000:9000] += second
    assert np.array_equal(film_samples(files, film), want << 16)


def test_a_mix_that_would_clip_is_attenuated_as_a_whole(files, caplog) -> None:
    first = np.full((1, 9600), 30000, np.int16)
    second = (np.sin(np.arange(9600) / 7) * 20000).astype(np.int16)[None]
    film = assemble(files, source(voice(files, first), voice(files, second)), clip(files, 0, 0, 15))
    want = (first.astype(float) + second) / (first.astype(float) + second).max()
    assert np.abs(film_samples(files, film) / 2**31 - want).max() < 1e-6
    assert "attenuated" in caplog.text


def test_a_mix_that_fits_is_not_attenuated(files, caplog) -> None:
    voices = [voice(files, np.full((1, 9600), level, np.int16)) for level in (16000, 16767)]
    film = assemble(files, source(*voices), clip(files, 0, 0, 15))
    assert np.array_equal(film_samples(files, film), np.full((1, 9600), 32767 << 16))
    assert caplog.text == ""


def test_voices_are_mixed_at_the_higher_rate_and_wider_layout(files) -> None:
    def sine(rate: int) -> np.ndarray:
        return (np.sin(2 * np.pi * 300 * np.arange(rate) / rate) * 9000).astype(np.int16)

    low, high = sine(16000)[None], np.stack([sine(48000), np.zeros(48000, np.int16)])
    got = film_samples(files, assemble(files, source(voice(files, low), voice(files, high, 48000)), clip(files, 0, 0, 25))) / 2**31 * 32768
    assert got.shape == (2, 48000)
    assert np.abs(got[0] - 2 * sine(48000))[500:-500].max() < 40
    assert np.abs(got[1] - sine(48000))[500:-500].max() < 40


def test_voices_in_turn_at_two_rates_start_at_the_right_sample(files) -> None:
    first, second = np.full((1, 8000), 5000, np.int16), np.full((1, 22050), 7000, np.int16)
    got = (
        film_samples(files, assemble(files, source(voice(files, first, 16000), voice(files, second, 44100, start=22050)), clip(files, 0, 0, 25)))[0]
        >> 16
    )
    assert np.abs(got[100:21900] - 5000).max() < 20
    assert np.array_equal(got[22200:], np.full(21900, 7000))


def test_aac_keeps_the_duration_and_uses_a_supported_rate(files) -> None:
    original = (np.sin(np.arange(15000) / 11) * 9000).astype(np.int16)[None]
    film = assemble(files, source(voice(files, original, 15000)), clip(files, 0, 0, 25), sound_codec="aac")
    with av.open(str(files.fetch(film.file))) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.codec_context.sample_rate) == ("aac", 48000)
        assert float(stream.duration * stream.time_base) == pytest.approx(1.0, abs=0.001)


@pytest.mark.parametrize("codec", ["flac", "aac"])
def test_the_same_input_gives_the_same_bytes(files, codec: str) -> None:
    sources = [source(voice(files, noise(2, 30000), 48000), voice(files, noise(1, 9000, seed=1)))] * 2
    clips = clip(files, 0, 0, 20)
    first, second = (assemble(files, each, clips, sound_codec=codec, preset="medium") for each in sources)
    assert first.file.sha256 == second.file.sha256
    assert first.file.uri != second.file.uri


def test_colors_are_bt709_and_tagged(files) -> None:
    y, x = np.mgrid[:48, :64]
    original = np.stack([x * 4, y * 5, 255 - x * 4], -1).astype(np.uint8)
    path = files.scratch() / "a.mkv"
    write_lossless(path, [original] * 5, 25.0)
    film = assemble(files, source(voice(files, noise(1, 100))), Clip(0, Span(0, 5), (Chunk(0, files.store(path, "chunk/mkv"), 5),)), crf=1)
    with av.open(str(files.fetch(film.file))) as container:
        frame = next(container.decode(video=0))
        assert frame.format.name == "yuv420p"
        assert [int(tag) for tag in (frame.colorspace, frame.color_range, frame.color_trc, frame.color_primaries)] == [1, 1, 1, 1]
        got = frame.reformat(format="rgb24", src_colorspace=1).to_ndarray().astype(int)
        assert np.abs(got - original).mean() < 3


def test_odd_sizes_are_padded_with_a_copied_row_and_column(files) -> None:
    film = assemble(files, source(voice(files, noise(1, 100))), clip(files, 0, 0, 3, size=(47, 63)))
    frames = film_frames(files, film)
    assert {frame.shape for frame in frames} == {(48, 64, 3)}
    assert all(np.ptp(frame.mean(-1)) < 3 for frame in frames)


def test_the_index_comes_first_and_metadata_holds_no_date(files) -> None:
    film = assemble(files, source(voice(files, noise(1, 16000))), clip(files, 0, 0, 10))
    data = files.fetch(film.file).read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(files.fetch(film.file))) as container:
        assert not {"creation_time", "encoder"} & set(container.metadata)


@pytest.mark.parametrize("fps", [25.0, 24.0, 29.97, 30.0])
def test_other_frame_rates_keep_the_duration(files, fps: float) -> None:
    film = assemble(files, source(voice(files, noise(1, 16000)), fps=fps), clip(files, 0, 0, 30))
    with av.open(str(files.fetch(film.file))) as container:
        picture = container.streams.video[0]
        assert float(picture.duration * picture.time_base) == pytest.approx(30 / fps, abs=0.001)
    assert film_samples(files, film).shape[1] == pytest.approx(30 / fps * 16000, abs=2)


CHUNK = Chunk(0, NO_FILE, 5)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ((), "at least one clip"),
        ((Clip(0, Span(0, 0), ()),), "at least one frame"),
        ((Clip(0, Span(5, 10), (CHUNK,)),), "begins at frame 5, the one before it ends at 0"),
        ((Clip(0, Span(0, 5), (CHUNK,)), Clip(1, Span(6, 11), (CHUNK,))), "begins at frame 6, the one before it ends at 5"),
        ((Clip(0, Span(0, 5), (CHUNK,)), Clip(1, Span(4, 9), (CHUNK,))), "begins at frame 4"),
        ((Clip(1, Span(5, 10), (CHUNK,)), Clip(0, Span(0, 5), (CHUNK,))), "begins at frame 5"),
        ((Clip(0, Span(0, 6), (CHUNK,)),), "covers 6 frames, its chunks hold 5"),
    ],
)
def test_clips_that_do_not_join_raise_value_error(clips: tuple[Clip, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chunks_in_order(clips)


def test_a_chunk_that_differs_from_its_record_raises_value_error(files) -> None:
    good = clip(files, 0, 0, 5)
    mislabelled = Clip(0, Span(0, 6), (Chunk(0, good.chunks[0].picture, 6),))
    with pytest.raises(ValueError, match="holds 5 frames, its record says 6"):
        assemble(files, source(voice(files, noise(1, 100))), mislabelled)
    with pytest.raises(ValueError, match="frames of shape"):
        assemble(files, source(voice(files, noise(1, 100))), good, clip(files, 1, 5, 2, size=(50, 64)))


def test_the_soundtrack_is_computed_in_blocks(files) -> None:
    """No block exceeds BLOCK_SAMPLES, whatever the length of voice or silence."""
    path = files.scratch() / "a.flac"
    write_flac(path, [noise(1, 160000)], 16000, "mono")
    for tracks in ([VoiceTrack(path, 200000)], [VoiceTrack(path, 0), VoiceTrack(path, 300000)]):
        soundtrack = build_soundtrack(tracks, Fraction(60))
        sizes = [block.shape[1] for block in soundtrack.blocks()]
        assert sum(sizes) == soundtrack.n_samples == 960000
        assert max(sizes) <= BLOCK_SAMPLES
