"""The product's own FLAC files: exact samples, and exact lengths after resampling."""

from pathlib import Path

import numpy as np
import pytest

from infinitedub.stages.media.audio_io import SoundFormat, mono_blocks, read_mono, sample_blocks, sound_format, write_flac


def noise(shape: tuple[int, int], bits: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    if bits == 16:
        return rng.integers(-(2**15), 2**15, shape).astype(np.int16)
    return rng.integers(-(2**23), 2**23, shape).astype(np.int32) << 8


def sine(sample_rate: int, samples: int, hertz: float = 440.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(samples) / sample_rate)


@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize(("layout", "channels"), [("mono", 1), ("stereo", 2), ("2.1", 3), ("5.1", 6), ("7.1", 8)])
def test_samples_are_read_back_exactly(tmp_path: Path, layout: str, channels: int, bits: int) -> None:
    original = noise((channels, 9000), bits)
    path = tmp_path / "a.flac"
    assert write_flac(path, (original[:, i : i + 1700] for i in range(0, 9000, 1700)), 44100, layout) == 9000
    assert sound_format(path) == SoundFormat(44100, layout, channels, bits)
    assert np.array_equal(np.concatenate(list(sample_blocks(path)), axis=1), original)


def test_same_samples_give_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_flac(tmp_path / name, [noise((2, 5000))], 48000, "stereo")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_samples_raise_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no samples"):
        write_flac(tmp_path / "a.flac", [], 48000, "mono")


@pytest.mark.parametrize("samples", [1, 2, 5, 999, 48001])
@pytest.mark.parametrize("rate", [7350, 8000, 16000, 22050, 44100, 48000, 96000])
def test_resampled_length_is_exact(tmp_path: Path, rate: int, samples: int) -> None:
    path = tmp_path / "a.flac"
    write_flac(path, [noise((1, samples))], rate, "mono")
    mono = read_mono(path, 16000)
    assert mono.dtype == np.float32
    assert mono.shape == (round(samples * 16000 / rate),)


def test_resampling_keeps_pitch_level_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    write_flac(path, [(sine(44100, 44100) * 16000).astype(np.int16)[None]], 44100, "mono")
    mono = read_mono(path, 16000)
    # Any shift in time or level would exceed the bound; the first and last samples are skipped, since the filter has no context there.
    assert np.abs(mono - sine(16000, 16000) * 16000 / 32768)[200:-200].max() < 1e-3


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    original = noise((2, 3000))
    write_flac(path, [original], 16000, "stereo")
    assert np.allclose(read_mono(path, 16000), original.mean(axis=0) / 32768, atol=1e-7)


def test_full_scale_is_one(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    write_flac(path, [np.full((1, 10), -(2**31), np.int32)], 16000, "mono")
    assert np.array_equal(read_mono(path, 16000), np.full(10, -1.0, np.float32))


def test_blocks_concatenate_to_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    write_flac(path, [noise((2, 50000))], 44100, "stereo")
    blocks = list(mono_blocks(path, 16000))
    assert len(blocks) > 1
    assert np.array_equal(np.concatenate(blocks), read_mono(path, 16000))


@pytest.mark.parametrize(("left", "right", "heard"), [(1.0, -1.0, 1.0), (0.4, -0.5, -0.5), (1.0, 1.0, 1.0), (0.0, 0.8, 0.4), (0.5, 0.3, 0.4)])
def test_channels_are_averaged_unless_they_cancel_each_other(tmp_path: Path, left: float, right: float, heard: float) -> None:
    voice = sine(16000, 8000) * 2**14
    path = tmp_path / "a.flac"
    write_flac(path, [np.stack([voice * left, voice * right]).astype(np.int16)], 16000, "stereo")
    assert np.allclose(read_mono(path, 16000), voice * heard / 2**15, atol=2 / 2**15)


def test_a_voice_in_one_of_six_channels_is_heard_at_its_loudness(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    voice = sine(16000, 8000) * 2**14
    path = tmp_path / "film.flac"
    write_flac(path, [np.stack([voice if channel == 2 else 0 * voice for channel in range(6)]).astype(np.int16)], 16000, "5.1")
    assert np.allclose(read_mono(path, 16000), voice / 2**15, atol=2 / 2**15)
    assert "film.flac: its channels cancel each other when they are averaged; channel 3 of 6 is heard alone" in caplog.text
