"""The speech features of a window: before, within and after the speech."""

import pytest
import torch
from safetensors.torch import save_file

from infinitedub.stages.engines.infinitetalk.speech_windows import SILENCE, SpeechFeatures, feature_rows


def speech(tmp_path, *lengths: int):
    """A file of features in which row i of speaker s is 100 s + i, and silence -5."""
    path = tmp_path / "speech.safetensors"
    rows = {f"speaker_{s}": (100.0 * s + torch.arange(n))[:, None, None].expand(n, 2, 3).contiguous() for s, n in enumerate(lengths)}
    save_file({**rows, "silence": torch.full((2, 3), -5.0)}, path)
    return SpeechFeatures(path)


def test_a_frame_gets_the_rows_around_it():
    assert feature_rows(10, 2, 100, 5, "silence").tolist() == [[8, 9, 10, 11, 12], [9, 10, 11, 12, 13]]


def test_the_first_row_is_repeated_before_the_film():
    assert feature_rows(0, 2, 100, 5, "silence").tolist() == [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("tail", "rows"),
    [
        ("silence", [[3, 4, SILENCE], [4, SILENCE, SILENCE], [SILENCE] * 3]),
        ("hold", [[3, 4, 4], [4, 4, 4], [4, 4, 4]]),
        ("mirror", [[3, 4, 4], [4, 4, 3], [4, 3, 2]]),
    ],
)
def test_the_rows_after_the_end_of_the_speech(tail, rows):
    assert feature_rows(4, 3, 5, 3, tail).tolist() == rows


def test_mirrored_speech_shorter_than_the_tail_ends_in_its_first_row():
    assert feature_rows(0, 8, 2, 1, "mirror")[:, 0].tolist() == [0, 1, 1, 0, 0, 0, 0, 0]


def test_a_window_is_a_slice_of_the_whole(tmp_path):
    film = speech(tmp_path, 40)
    whole = film.read(0, 40, 5, last=False, compat_upstream=False)
    piece = film.read(17, 9, 5, last=False, compat_upstream=False)
    assert piece.shape == (1, 9, 5, 2, 3)
    assert torch.equal(piece, whole[:, 17:26])


def test_after_the_speech_there_is_silence_for_each_speaker_in_turn(tmp_path):
    features = speech(tmp_path, 10, 4).read(2, 8, 3, last=True, compat_upstream=False)[..., 0, 0]
    assert features[0, :, 1].tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
    assert features[1, :, 1].tolist() == [102, 103, -5, -5, -5, -5, -5, -5]
    assert features[0, -1].tolist() == [8, 9, -5]


def test_a_window_beyond_all_speech_is_silent(tmp_path):
    features = speech(tmp_path, 3).read(20, 5, 5, last=True, compat_upstream=False)
    assert features.shape == (1, 5, 5, 2, 3)
    assert (features == -5).all()


def test_upstream_mirrors_the_end_in_the_last_window_only(tmp_path):
    film = speech(tmp_path, 10)
    last = film.read(8, 4, 1, last=True, compat_upstream=True)[0, :, 0, 0, 0]
    earlier = film.read(8, 4, 1, last=False, compat_upstream=True)[0, :, 0, 0, 0]
    assert last.tolist() == [8, 9, 9, 8]
    assert earlier.tolist() == [8, 9, 9, 9]
