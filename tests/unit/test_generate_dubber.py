"""The streaming loop with an engine that paints: what is handed on, what is kept, and how much memory that takes."""

import gc
import weakref

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from infinitedub.stages.generate.noise import window_noise
from infinitedub.stages.generate.streaming import dub, nothing_ahead
from infinitedub.stages.generate.window_frames import fresh, to_bytes
from infinitedub.stages.generate.window_inputs import SegmentInputs
from infinitedub.stages.records import Seed, Span, Window
from tests.unit.tiny import segment_of

HEIGHT, WIDTH = 4, 6


@pytest.fixture
def script(tmp_path):
    """Builds the script of a segment whose windows refer to frames 0, 1, 0, 1, ..."""

    def build(segment, n_speech: int = 500, **options) -> SegmentInputs:
        count = len(segment.windows)
        tensors = {
            "text": torch.zeros(3, 8),
            "null_text": torch.ones(2, 8),
            "window_reference": torch.arange(count) % 2,
            "color_reference": torch.full((3, HEIGHT, WIDTH), 128, dtype=torch.uint8),
        }
        for number in range(2):
            tensors[f"reference.{number}.clip"] = torch.full((1, 257, 4), float(number))
            tensors[f"reference.{number}.latents"] = torch.full((1, 16, 9, 1, 1), float(number))
        save_file(tensors, tmp_path / "conditions.safetensors")
        save_file({"speaker_0": torch.arange(n_speech * 2.0).view(n_speech, 1, 2), "silence": torch.zeros(1, 2)}, tmp_path / "speech.safetensors")
        options = {"compat_upstream": False, **options}
        return SegmentInputs(segment, tmp_path / "conditions.safetensors", tmp_path / "speech.safetensors", "cpu", **options)

    return build


class Painter:
    """An engine whose frame i of window w is w + i / 100, `scale` times, and which watches how many of its windows are still held."""

    audio_rows = 5

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.cues, self.motions, self.held = [], [], []
        self._made: list[weakref.ref] = []

    def window(self, cue, motion, noise):
        gc.collect()
        self.held.append(sum(ref() is not None for ref in self._made))
        self.cues.append(cue)
        self.motions.append(None if motion is None else motion.clone())
        self.noise = noise((1, 16, 9, 1, 1))
        values = self.scale * (len(self.cues) - 1 + torch.arange(33) / 100)
        frames = values.view(1, 1, -1, 1, 1).expand(1, 3, 33, HEIGHT, WIDTH).contiguous()
        self._made.append(weakref.ref(frames.untyped_storage()))
        return frames


def run(engine, segment, script, keep=lambda frames, _: frames[0, 0, :, 0, 0].tolist(), strength=0.0, seam=0, ahead=nothing_ahead):
    noise = lambda window, shape: torch.full(tuple(shape), float(window))  # noqa: E731
    return dub(engine, segment, script, keep, color_strength=strength, seam_frames=seam, motion_frames=9, noise=noise, ahead=ahead)


def test_fresh_frames_are_the_films(script):
    segment = segment_of(70)  # windows at 0, 24 and 48, the last padded by 11
    takes = list(run(Painter(), segment, script(segment)))
    assert [len(take) for take in takes] == [33, 24, 13]
    assert sum(len(take) for take in takes) == segment.span.frames
    assert takes[0][0] == pytest.approx(0.0)
    assert takes[1][0] == pytest.approx(1.09)
    assert takes[2][-1] == pytest.approx(2.21)


def test_a_window_goes_on_from_the_very_picture_before_it(script):
    segment = segment_of(70)
    painted = [np.array(take) for take in run(Painter(0.1), segment, script(segment))]
    first, second, third = (np.array(take) for take in run(Painter(0.1), segment, script(segment), seam=4))
    assert np.array_equal(first, painted[0])
    off = painted[0][-1] - 0.108  # as which the second window paints the first one's last frame
    assert second - painted[1] == pytest.approx(off * np.array([1, 0.853553, 0.5, 0.146447] + [0.0] * 20), abs=1e-6)
    assert [second[0] - first[-1], third[0] - second[-1]] == pytest.approx([0.001, 0.001], abs=1e-6)  # as within the windows


def test_a_window_starts_from_the_end_of_the_one_before(script):
    segment, engine = segment_of(70), Painter()
    list(run(engine, segment, script(segment)))
    assert engine.motions[0] is None
    assert engine.motions[1].shape == (1, 3, 9, HEIGHT, WIDTH)
    assert engine.motions[1][0, 0, :, 0, 0].tolist() == pytest.approx([i / 100 for i in range(24, 33)])
    assert [cue.overlap_frames for cue in engine.cues] == [0, 9, 9]


def test_motion_frames_are_colour_corrected(script):
    segment, engine = segment_of(40), Painter()
    list(run(engine, segment, script(segment), strength=1.0))
    grey = 128 / 255 * 2 - 1
    assert torch.allclose(engine.motions[1], torch.full_like(engine.motions[1], grey), atol=1e-2)


def test_each_window_is_told_of_its_own_frames(script):
    segment, engine = segment_of(70), Painter()
    list(run(engine, segment, script(segment, n_speech=60)))
    assert [cue.image[0, 0, 0].item() for cue in engine.cues] == [0, 1, 0]
    assert [cue.reference[0, 0, 0, 0, 0].item() for cue in engine.cues] == [0, 1, 0]
    assert [cue.audio[0, 3, 2, 0, 0].item() for cue in engine.cues] == [6, 54, 102]  # rows 3, 27 and 51
    assert (engine.cues[2].audio[0, 14:] == 0).all()  # frame 62 on: silence around
    assert engine.cues[0].masks is None
    assert (engine.noise == 2).all()


def test_memory_does_not_grow_with_the_film(script):
    """When a window is begun no earlier one is held, however the caller keeps what it was given."""
    segment, engine = segment_of(33 + 24 * 3), Painter()
    kept = list(run(engine, segment, script(segment), keep=lambda frames, _: to_bytes(frames).shape))
    assert len(kept) == 4
    assert engine.held == [0, 0, 0, 0]


def test_windows_are_made_as_they_are_asked_for(script):
    segment, engine = segment_of(70), Painter()
    takes = run(engine, segment, script(segment))
    assert engine.cues == []
    next(takes)
    assert len(engine.cues) == 1


def test_taken_up_in_the_middle_it_goes_on_as_if_it_had_never_stopped(script):
    segment, whole, rest = segment_of(70), Painter(), Painter()
    takes = list(run(whole, segment, script(segment), keep=lambda frames, motion: motion.clone()))
    list(run(rest, segment, script(segment), ahead=lambda number: (max(number, 1), None if number else takes[0])))
    assert len(rest.cues) == 2
    assert torch.equal(rest.motions[0], whole.motions[1])
    for ours, theirs in zip(rest.cues, whole.cues[1:], strict=True):
        assert torch.equal(ours.audio, theirs.audio) and torch.equal(ours.reference, theirs.reference)
    assert (rest.noise == 2).all()
    assert list(run(Painter(), segment, script(segment), ahead=lambda number: (3, None))) == []


def test_of_windows_with_a_hole_the_hole_is_filled(script):
    """From what lies before it, and what lies behind it stays."""
    segment, whole, rest = segment_of(33 + 24 * 3), Painter(), Painter()
    takes = list(run(whole, segment, script(segment), keep=lambda frames, motion: motion.clone()))
    assert len(takes) == 4
    list(run(rest, segment, script(segment), ahead={0: (1, takes[0]), 2: (3, takes[2]), 4: (4, None)}.get))
    assert (len(rest.cues), rest.noise[0, 0, 0, 0, 0]) == (2, 3)
    assert torch.equal(rest.motions[0], takes[0]) and torch.equal(rest.motions[1], takes[2])


def test_ranks_without_frames_yield_nothing_but_work_on(script):
    class Helper(Painter):
        def window(self, cue, motion, noise):
            assert motion is None
            super().window(cue, motion, noise)

    segment, engine = segment_of(70), Helper()
    assert list(run(engine, segment, script(segment))) == []
    assert len(engine.cues) == 3


def test_noise_depends_on_its_window_alone():
    """So a resumed or rerun segment makes the same frames."""
    seed, shape = Seed(7, "job"), (1, 16, 3, 2, 2)
    drawn = window_noise(seed, 1, 2, shape)
    torch.manual_seed(99)
    torch.randn(5)
    assert torch.equal(window_noise(Seed(7, "job"), 1, 2, shape), drawn)
    others = [
        window_noise(Seed(8, "job"), 1, 2, shape),
        window_noise(Seed(7, "job2"), 1, 2, shape),
        window_noise(seed, 0, 2, shape),
        window_noise(seed, 1, 3, shape),
    ]
    assert all(not torch.equal(other, drawn) for other in others)
    many = window_noise(seed, 0, 0, (100_000,))
    assert abs(many.mean()) < 0.02 and abs(many.std() - 1) < 0.02


def test_fresh_drops_what_is_repeated_and_what_pads():
    window = Window(Span(24, 44), overlap_frames=9, pad_frames=13, reference_frame=0)
    frames = torch.arange(33.0).view(1, 1, 33, 1, 1)
    assert fresh(frames, window).flatten().tolist() == list(range(9, 20))


def test_frames_become_the_nearest_bytes():
    levels = torch.tensor([-1.5, -1.0, -0.999, 0.0, 0.999, 1.0, 1.5]).view(1, 1, -1, 1, 1).expand(1, 3, 7, 2, 4)
    made = to_bytes(levels)
    assert made.shape == (7, 2, 4, 3) and made.dtype == np.uint8
    assert made[:, 0, 0, 0].tolist() == [0, 0, 0, 128, 255, 255, 255]
    grey = torch.arange(256) / 255 * 2 - 1
    assert to_bytes(grey.view(1, 1, -1, 1, 1).expand(1, 3, 256, 1, 1))[:, 0, 0, 0].tolist() == list(range(256))


def test_what_is_no_number_is_not_made_a_picture():
    frames = torch.zeros(1, 3, 2, 4, 4)
    frames[0, 1, 1, 2, 2] = float("nan")
    with pytest.raises(FloatingPointError, match="NaN"):
        to_bytes(frames)
