"""Speech of every format keeps every sample."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from infinitedub.stages.errors import BadInput
from infinitedub.stages.media.audio_io import sound_format
from infinitedub.stages.records import Box, Turns
from tests.unit.ingesting import ingest, noise, samples


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize(("codec", "bits"), [("pcm_s16le", 16), ("pcm_s24le", 24), ("pcm_s16be", 16), ("flac", 16)])
def test_integer_samples_are_kept_exactly(media, files, portrait: Path, codec: str, bits: int, channels: int, rate: int) -> None:
    original = noise(channels, 5000, bits)
    suffix = {"flac": "flac", "pcm_s16be": "aiff"}.get(codec, "wav")
    source = ingest(files, portrait, media.sound(f"a.{suffix}", original, rate, codec=codec))
    voice = source.voices[0]
    assert (voice.sample_rate, voice.n_samples, voice.start_sample, voice.sound.kind) == (rate, 5000, 0, "sound/flac")
    assert sound_format(files.fetch(voice.sound)).bits == bits
    assert np.array_equal(samples(files, source), original)


def test_eight_bits_become_sixteen_exactly(media, files, portrait: Path) -> None:
    original = np.arange(256, dtype=np.uint8)[None]
    source = ingest(files, portrait, media.sound("a.wav", original, codec="pcm_u8"))
    assert np.array_equal(samples(files, source), (original.astype(np.int16) - 128) << 8)


def test_thirty_two_bits_are_rounded_to_twenty_four(media, files, portrait: Path) -> None:
    original = np.array([[0, 127, 128, -128, -129, 2**31 - 1, -(2**31), 1 << 20]], np.int32).repeat(50, axis=1)
    got = samples(files, ingest(files, portrait, media.sound("a.wav", original, codec="pcm_s32le")))
    assert np.abs(got.astype(np.int64) - original).max() <= 255
    assert np.array_equal(got & 0xFF, np.zeros_like(got))


@pytest.mark.parametrize("codec", ["pcm_f32le", "pcm_f64le"])
def test_floats_become_twenty_four_bits(media, files, portrait: Path, codec: str) -> None:
    original = np.random.default_rng(0).uniform(-1, 1, (2, 4000)).astype(np.float32 if codec == "pcm_f32le" else np.float64)
    source = ingest(files, portrait, media.sound("a.wav", original, codec=codec))
    assert sound_format(files.fetch(source.voices[0].sound)).bits == 24
    assert np.abs(samples(files, source) / 2**31 - original).max() <= 2**-23


def test_floats_beyond_full_scale_are_attenuated_not_clipped(media, files, portrait: Path, caplog) -> None:
    original = (np.sin(np.arange(4000) / 9) * 2.5).astype(np.float32)[None]
    got = samples(files, ingest(files, portrait, media.sound("a.wav", original, codec="pcm_f32le"))) / 2**31
    assert np.abs(got - original / np.abs(original).max()).max() < 1e-5
    assert "attenuated" in caplog.text


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinite_samples_are_refused(media, files, portrait: Path, bad: float) -> None:
    original = np.zeros((1, 4000), np.float32)
    original[0, 3000] = bad
    with pytest.raises(BadInput, match=r"speech 1 .*a\.wav: .*NaN"):
        ingest(files, portrait, media.sound("a.wav", original, codec="pcm_f32le"))


@pytest.mark.parametrize(("name", "codec"), [("a.mp3", "libmp3lame"), ("a.m4a", "aac"), ("a.ogg", "libopus"), ("a.webm", "libopus")])
def test_compressed_speech_keeps_its_length_and_position(media, files, portrait: Path, name: str, codec: str) -> None:
    original = np.zeros((1, 48000), np.int16)
    original[0, 12000:24000] = (np.sin(np.arange(12000) / 20) * 12000).astype(np.int16)
    source = ingest(files, portrait, media.sound(name, original, 48000, codec=codec))
    assert source.voices[0].sample_rate == 48000
    assert abs(source.voices[0].n_samples - 48000) <= 2000  # the encoder may pad its last block
    loud = np.flatnonzero(np.abs(samples(files, source)[0] / 2**31) > 0.1)
    assert abs(loud[0] - 12000) < 300
    assert abs(loud[-1] - 24000) < 300


def test_speech_may_come_from_a_video(media, files, portrait: Path) -> None:
    original = noise(1, 8000, 16)
    source = ingest(files, portrait, media.footage("a.mkv", 25, sound=original))
    assert np.array_equal(samples(files, source), original)


def test_silent_speech_is_accepted(media, files, portrait: Path) -> None:
    source = ingest(files, portrait, media.sound("a.wav", np.zeros((1, 16000), np.int16)))
    assert source.speech_seconds == 1.0


def test_one_sample_is_enough(media, files, portrait: Path) -> None:
    assert ingest(files, portrait, media.sound("a.wav", noise(1, 1, 16))).voices[0].n_samples == 1


@pytest.mark.parametrize(("turns", "start"), [(Turns.TOGETHER, 0), (Turns.IN_TURN, 22050)])
def test_two_voices_keep_their_rates_and_start_in_turn(media, files, portrait: Path, turns: Turns, start: int) -> None:
    first, second = media.sound("a.wav", noise(1, 4000, 16), 8000), media.sound("b.wav", noise(2, 3000, 16), 44100)
    source = ingest(files, portrait, first, second, boxes=(Box(0, 0, 32, 48), Box(32, 0, 64, 48)), turns=turns)
    assert [(voice.sample_rate, voice.n_samples) for voice in source.voices] == [(8000, 4000), (44100, 3000)]
    assert [voice.start_sample for voice in source.voices] == [0, start]
    assert [voice.box for voice in source.voices] == [Box(0, 0, 32, 48), Box(32, 0, 64, 48)]


def test_a_gap_between_time_stamps_becomes_silence(media, files, portrait: Path) -> None:
    import av

    path, original = media.folder / "a.mkv", noise(1, 4000, 16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for pts, part in ((0, original[:, :2000]), (6000, original[:, 2000:])):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, pts, Fraction(1, 8000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    got = samples(files, ingest(files, portrait, path))
    assert np.array_equal(got, np.concatenate([original[:, :2000], np.zeros((1, 4000), np.int16), original[:, 2000:]], axis=1))
