"""Listen: alignment of voices with film frames, loudness, and the features of the bundled encoder."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyloudnorm import Meter
from safetensors.numpy import load_file

from infinitedub.stages.contract import Files, Rank
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.listen.frame_alignment import align_to_frames
from infinitedub.stages.listen.loudness import is_silent, measure_loudness, normalize_loudness
from infinitedub.stages.listen.sample_file import NormalizedSamples, SampleFile
from infinitedub.stages.listen.settings import ListenSettings
from infinitedub.stages.listen.speech_features import silence_row, write_speech_features
from infinitedub.stages.listen.stage import ListenStage
from infinitedub.stages.media.audio_io import write_flac
from infinitedub.stages.model.speech_encoder import FRAME_SAMPLES
from infinitedub.stages.model.speech_encoder import SAMPLE_RATE as RATE
from infinitedub.stages.records import Artifact, Source, Voice

SETTINGS = ListenSettings(speech="bundled:tiny/wav2vec2", target_lufs=-23.0, silence_lufs=-60.0, chunk_seconds=2.0, context_seconds=0.5)
GOLDEN = Path(__file__).parents[1] / "golden"
SILENT_FEATURE = -1.0  # what the encoder below returns for silence


class FakeEncoder:
    """An encoder with predictable features: the mean magnitude of the frame's samples, twice; SILENT_FEATURE for digital silence."""

    def __call__(self, samples: np.ndarray, frames: int | None = None) -> torch.Tensor:
        whole = samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
        magnitude = np.abs(whole).mean(1)
        return torch.from_numpy(np.where(magnitude == 0, SILENT_FEATURE, magnitude).astype(np.float32))[:, None, None].expand(-1, 1, 2)

    def encode_in_chunks(self, samples: np.ndarray, chunk_seconds: float, context_seconds: float) -> Iterator[torch.Tensor]:
        step = round(chunk_seconds * RATE)
        for start in range(0, len(samples), step):
            yield self(samples[start : start + step])


def voice(start_sample: int, sample_rate: int = RATE, n_samples: int = 1) -> Voice:
    return Voice(Artifact("sound", "0" * 64, 0, "sound/flac"), sample_rate, n_samples, start_sample, None)


def tone(seconds: float, amplitude: float = 0.1) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * 440 / RATE * np.arange(round(seconds * RATE)))).astype(np.float32)


def features_of(tmp_path: Path, *sounds: tuple[Voice, np.ndarray]) -> tuple[int, tuple[float | None, ...], dict[str, np.ndarray]]:
    encoder = FakeEncoder()
    path = tmp_path / "speech.safetensors"
    voices, samples = zip(*sounds, strict=True)
    n_frames, lufs = write_speech_features(path, voices, samples, silence_row(encoder), encoder, SETTINGS)
    return n_frames, lufs, load_file(path)


def speech_frames(rows: np.ndarray) -> list[int]:
    return np.flatnonzero(rows[:, 0, 0] != SILENT_FEATURE).tolist()


# -- frame alignment ------------------------------------------------------------------------------------------------------


def test_one_voice_from_frame_0(tmp_path: Path) -> None:
    n_frames, lufs, tensors = features_of(tmp_path, (voice(0), tone(5.01)))
    assert n_frames == 126  # the last frame contains 10 ms of it
    assert tensors["speaker_0"].shape == (126, 1, 2)
    assert speech_frames(tensors["speaker_0"]) == list(range(126))
    assert tensors["silence"].tolist() == [[SILENT_FEATURE, SILENT_FEATURE]]
    assert lufs[0] == pytest.approx(-23.7, abs=0.3)  # a sine of amplitude 0.1 has -23 dB of power, and K-weighting takes a little at 440 Hz


def test_an_encoder_that_returns_too_few_rows_raises(tmp_path: Path) -> None:
    class TruncatingEncoder(FakeEncoder):
        def encode_in_chunks(self, samples: np.ndarray, chunk_seconds: float, context_seconds: float) -> Iterator[torch.Tensor]:
            yield from list(super().encode_in_chunks(samples, chunk_seconds, context_seconds))[:-1]

    with pytest.raises(RuntimeError, match="returned 50 rows for 75 frames"):
        write_speech_features(tmp_path / "speech", [voice(0)], [tone(3.0)], silence_row(FakeEncoder()), TruncatingEncoder(), SETTINGS)


def test_two_voices_of_different_length_at_once(tmp_path: Path) -> None:
    n_frames, _, tensors = features_of(tmp_path, (voice(0), tone(1.0)), (voice(0), tone(2.0)))
    assert n_frames == 50
    assert speech_frames(tensors["speaker_0"]) == list(range(25))
    assert speech_frames(tensors["speaker_1"]) == list(range(50))


def test_two_voices_in_turn(tmp_path: Path) -> None:
    second = voice(round(1.25 * 48_000), 48_000)
    n_frames, _, tensors = features_of(tmp_path, (voice(0), tone(1.25)), (second, tone(0.75)))
    assert n_frames == 50
    assert speech_frames(tensors["speaker_0"]) == list(range(32))  # 31.25 frames
    assert speech_frames(tensors["speaker_1"]) == list(range(31, 50))
    assert tensors["speaker_1"][31, 0, 0] < 0.8 * tensors["speaker_1"][32, 0, 0]  # a quarter of that frame is still silent


@pytest.mark.parametrize("seconds", [1 / RATE, 0.01, 0.04, 0.3])
def test_very_short_voices(tmp_path: Path, seconds: float) -> None:
    n_frames, lufs, tensors = features_of(tmp_path, (voice(0), tone(seconds) + 0.01))
    assert n_frames == len(tensors["speaker_0"]) == max(1, round(seconds * 25))
    assert speech_frames(tensors["speaker_0"]) == list(range(n_frames))
    assert lufs == (None,)


@pytest.mark.parametrize("sound", [np.zeros(RATE, np.float32), tone(1.0, 1e-4), np.zeros(100, np.float32)])
def test_a_silent_voice_gets_the_features_of_silence(tmp_path: Path, sound: np.ndarray) -> None:
    n_frames, _, tensors = features_of(tmp_path, (voice(0), sound), (voice(0), tone(2.0)))
    assert n_frames == 50
    assert speech_frames(tensors["speaker_0"]) == []
    assert speech_frames(tensors["speaker_1"]) == list(range(50))


@settings(deadline=None)
@given(start=st.integers(0, 10**9), rate=st.sampled_from([8000, 16000, 22050, 44100, 48000, 192000]), n_samples=st.integers(1, 10**9))
def test_a_voice_is_aligned_to_the_sample(start: int, rate: int, n_samples: int) -> None:
    alignment = align_to_frames(start, rate, n_samples)
    assert abs((alignment.first_frame * FRAME_SAMPLES + alignment.lead_samples) / RATE - start / rate) <= 0.5 / RATE + 1e-9
    assert alignment.lead_samples + n_samples + alignment.tail_samples == alignment.frames * FRAME_SAMPLES
    assert 0 <= alignment.lead_samples < FRAME_SAMPLES
    assert 0 <= alignment.tail_samples < FRAME_SAMPLES


# -- loudness -------------------------------------------------------------------------------------------------------------


def test_speech_is_scaled_to_the_target_loudness() -> None:
    for amplitude in (0.003, 0.1, 0.9):
        sound = tone(2.0, amplitude)
        lufs = measure_loudness(sound, RATE)
        normalized = normalize_loudness(sound, lufs, -23.0)
        assert measure_loudness(normalized, RATE) == pytest.approx(-23.0, abs=0.01)
        assert normalized.dtype == np.float32


def test_sound_without_loudness_is_not_scaled() -> None:
    short = tone(0.39)
    assert measure_loudness(short, RATE) is None
    assert normalize_loudness(short, None, -23.0) is short
    assert measure_loudness(np.zeros(RATE, np.float32), RATE) is None
    assert measure_loudness(tone(1.0, 1e-5), RATE) is None  # below the absolute gate of the standard


def test_is_silent() -> None:
    assert is_silent(np.zeros(RATE, np.float32), RATE, None, -60.0)
    assert is_silent(np.zeros(9, np.float32), RATE, None, -60.0)
    assert not is_silent(tone(0.1), RATE, None, -60.0)
    noise = np.random.default_rng(0).normal(0, 5e-4, RATE).astype(np.float32)
    lufs = measure_loudness(noise, RATE)
    assert lufs == pytest.approx(-64, abs=2)
    assert is_silent(noise, RATE, lufs, -60.0)
    assert not is_silent(noise, RATE, lufs, -70.0)


@pytest.mark.parametrize("clip", ["loud.0", "loud.1"])
def test_loudness_agrees_with_the_original_code(clip: str) -> None:
    golden = load_file(GOLDEN / "utils.safetensors")
    lufs = measure_loudness(golden[f"{clip}.in"], RATE)
    assert lufs == pytest.approx(json.loads((GOLDEN / "utils.json").read_text())[clip]["lufs_in"], abs=1e-6)
    np.testing.assert_allclose(normalize_loudness(golden[f"{clip}.in"], lufs, -23.0), golden[f"{clip}.out"], atol=1e-6)


# -- the whole stage with the bundled model -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stage() -> Iterator[ListenStage]:
    stage = ListenStage(SETTINGS)
    stage.open(Rank())
    yield stage
    stage.close()


def stored_voice(files: Files, samples: np.ndarray, sample_rate: int = RATE, start_sample: int = 0) -> Voice:
    path = files.scratch() / "voice.flac"
    write_flac(path, [(samples * 32767).astype(np.int16)[None]], sample_rate, "mono")
    return Voice(files.store(path, "sound/flac"), sample_rate, len(samples), start_sample, None)


def photograph(*voices: Voice, fps: float = 25.0) -> Source:
    return Source(Artifact("picture", "0" * 64, 0, "picture/png"), False, 64, 64, fps, 1, voices)


def babble(seconds: float, sample_rate: int = RATE) -> np.ndarray:
    """A sound that changes continuously, as speech does."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return (0.2 * np.sin(2 * np.pi * (200 * time + 30 * np.sin(9 * time))) * (1 + np.sin(23 * time)) / 2).astype(np.float32)


def test_each_frame_of_speech_has_its_own_features(stage: ListenStage, files: Files) -> None:
    source = photograph(stored_voice(files, babble(3.0, 48_000), 48_000))
    speech = stage(source, files=files)
    assert speech.n_frames == 75
    assert speech.features.kind == "tensors/safetensors"
    tensors = load_file(files.fetch(speech.features))
    assert tensors["speaker_0"].dtype == np.float32
    assert tensors["speaker_0"].shape == (75, *tensors["silence"].shape)
    assert np.isfinite(tensors["speaker_0"]).all()
    assert len(np.unique(tensors["speaker_0"].round(4), axis=0)) == 75  # no two rows are equal
    again = load_file(files.fetch(stage(source, files=files).features))
    assert all(np.array_equal(tensors[name], again[name]) for name in tensors)


def test_a_speaker_gets_silence_while_the_other_speaks(stage: ListenStage, files: Files) -> None:
    speech = stage(photograph(stored_voice(files, babble(1.0)), stored_voice(files, babble(0.6), RATE, RATE)), files=files)
    assert speech.n_frames == 40
    tensors = load_file(files.fetch(speech.features))
    assert (tensors["speaker_0"][25:] == tensors["silence"]).all()
    assert (tensors["speaker_1"][:25] == tensors["silence"]).all()
    assert not (tensors["speaker_0"][:25] == tensors["silence"]).all(axis=(1, 2)).any()
    assert not (tensors["speaker_1"][25:] == tensors["silence"]).all(axis=(1, 2)).any()


def test_speech_of_40_milliseconds_and_less(stage: ListenStage, files: Files) -> None:
    for n_samples in (1, 399, 640):
        speech = stage(photograph(stored_voice(files, babble(1.0)[3000 : 3000 + n_samples])), files=files)
        assert speech.n_frames == 1
        assert speech.lufs == (None,)
        assert np.isfinite(load_file(files.fetch(speech.features))["speaker_0"]).all()


def test_silent_speech_gets_the_features_of_silence(stage: ListenStage, files: Files) -> None:
    speech = stage(photograph(stored_voice(files, np.zeros(RATE, np.float32))), files=files)
    tensors = load_file(files.fetch(speech.features))
    assert speech.n_frames == 25
    assert (tensors["speaker_0"] == tensors["silence"]).all()
    assert speech.lufs == (None,)


def test_features_do_not_depend_on_the_recording_level(stage: ListenStage, files: Files) -> None:
    loud, soft = (load_file(files.fetch(stage(photograph(stored_voice(files, babble(2.0) * gain)), files=files).features)) for gain in (1.0, 0.05))
    # in the pauses the quantisation to 16 bits differs, hence the mean; features have a range of about 1
    assert np.abs(loud["speaker_0"] - soft["speaker_0"]).mean() < 0.02


def test_a_film_at_another_frame_rate_is_refused(stage: ListenStage, files: Files) -> None:
    with pytest.raises(ConfigError, match=r"24 frames per second.*generate\.model\.fps=25"):
        stage(photograph(stored_voice(files, babble(1.0)), fps=24.0), files=files)


# -- sound on disk -----------------------------------------------------------------------------------------------------------


def alternating_noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Alternating loud and soft noise, so that some blocks pass the gates of the standard and some do not."""
    generator = np.random.default_rng(seed)
    loud = np.repeat(generator.choice([0.0, 1e-5, 0.003, 0.3], round(seconds * 10) + 1), RATE // 10)[: round(seconds * RATE)]
    return (loud * generator.normal(0, 0.3, round(seconds * RATE))).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.4, 0.5, 3.217, 17.0, 40.03])  # the K-weighting runs in blocks of 16.4 s
def test_loudness_from_disk_has_the_bits_of_pyloudnorm(tmp_path: Path, seconds: float) -> None:
    sound = alternating_noise(seconds, seed=round(seconds))
    assert (
        measure_loudness(SampleFile(tmp_path / "voice.f32", [sound]), RATE)
        == measure_loudness(sound, RATE)
        == float(Meter(RATE).integrated_loudness(sound))
    )


def test_a_sample_file_is_sliced_like_an_array(tmp_path: Path) -> None:
    sound = alternating_noise(1.0)
    sample_file = SampleFile(tmp_path / "voice.f32", (sound[start : start + 999] for start in range(0, len(sound), 999)))
    assert len(sample_file) == len(sound)
    for span in (slice(0, 5), slice(990, 2010), slice(15_990, 99_999), slice(None), slice(7, 7), slice(9, 3)):
        assert np.array_equal(sample_file[span], sound[span])
    normalized, whole = NormalizedSamples(sample_file, -30.0, -23.0, 100, 50), np.pad(normalize_loudness(sound, -30.0, -23.0), (100, 50))
    assert len(normalized) == len(whole)
    for span in (slice(0, 90), slice(0, 101), slice(50, 400), slice(16_000, 16_120), slice(16_101, 16_150), slice(None)):
        assert np.array_equal(normalized[span], whole[span])


def test_features_from_disk_and_from_memory_are_identical(stage: ListenStage, tmp_path: Path) -> None:
    encoder, silence = stage._encoder
    voices, sounds = [voice(0), voice(2 * RATE + 77)], [babble(7.03), alternating_noise(5.0)]
    sample_files = [SampleFile(tmp_path / f"{number}.f32", [sound]) for number, sound in enumerate(sounds)]
    paths = [tmp_path / "memory.safetensors", tmp_path / "disk.safetensors"]
    results = [
        write_speech_features(path, voices, samples, silence, encoder, SETTINGS) for path, samples in zip(paths, (sounds, sample_files), strict=True)
    ]
    assert results[0] == results[1]
    assert paths[0].read_bytes() == paths[1].read_bytes()
