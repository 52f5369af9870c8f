"""The streaming loop with a scripted engine: what the next window gets, what is stored, and memory use."""

import gc
import weakref

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from infinitedub.stages.engines.infinitetalk.window_inputs import ConditionedSegment
from infinitedub.stages.generate.noise import window_noise
from infinitedub.stages.generate.streaming import SegmentProgress, StreamOptions, generate_segment
from infinitedub.stages.generate.window_frames import fresh, to_bytes
from infinitedub.stages.records import Artifact, Chunk, Clip, Seed, Span, Window, WindowCheckpoint
from tests.unit.tiny import segment_of

HEIGHT, WIDTH = 4, 6


@pytest.fixture
def inputs(tmp_path):
    """Builds the inputs of a segment whose windows refer to frames 0, 1, 0, 1, ..."""

    def build(segment, n_speech: int = 500, **options) -> ConditionedSegment:
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
        options = {"audio_rows": 5, "compat_upstream": False, **options}
        return ConditionedSegment(segment, tmp_path / "conditions.safetensors", tmp_path / "speech.safetensors", "cpu", **options)

    return build


class ScriptedEngine:
    """An engine whose frame i of window w is w + i / 100, `scale` times, and which counts how many of its windows are still in memory."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.inputs, self.motions, self.in_memory = [], [], []
        self._made: list[weakref.ref] = []

    def window(self, inputs, motion, noise):
        gc.collect()
        self.in_memory.append(sum(ref() is not None for ref in self._made))
        self.inputs.append(inputs)
        self.motions.append(None if motion is None else motion.clone())
        self.noise = noise((1, 16, 9, 1, 1))
        values = self.scale * (len(self.inputs) - 1 + torch.arange(33) / 100)
        frames = values.view(1, 1, -1, 1, 1).expand(1, 3, 33, HEIGHT, WIDTH).contiguous()
        self._made.append(weakref.ref(frames.untyped_storage()))
        return frames


class Windows:
    """A `WindowStore` in memory: keeps what `keep` makes of each window, and starts from the given motion frames of earlier windows."""

    def __init__(self, keep, stored=()) -> None:
        self.keep = keep
        self.stored = dict(stored)  # motion frames by window; None if not needed
        self.made = {}

    def resume(self, progress):
        while progress.window in self.stored:
            progress = self.after(progress, self.stored[progress.window])
        return progress

    def save(self, progress, made):
        if made is None:
            return SegmentProgress(progress.window + 1)
        self.made[progress.window] = self.keep(made)
        return self.after(progress, made.motion_frames)

    def after(self, progress, motion_frames):
        chunk = Chunk(progress.window, Artifact("", "", 0, ""), 0)
        return SegmentProgress(progress.window + 1, motion_frames, (*progress.checkpoints, WindowCheckpoint(chunk, None)))


def levels(made):
    """The grey level of each fresh frame."""
    return made.fresh[0, 0, :, 0, 0].tolist()


def motion(made):
    return made.motion_frames


def start(engine, segment, inputs, store, strength=0.0, seam=0):
    noise = lambda window, shape: torch.full(tuple(shape), float(window))  # noqa: E731
    return generate_segment(engine, segment, inputs, store, StreamOptions(strength, seam, motion_frames=9), noise)


def run(engine, segment, inputs, keep=levels, stored=(), **options):
    """What `keep` makes of each window that the engine makes."""
    store = Windows(keep, stored)
    *chunks, clip = start(engine, segment, inputs, store, **options)
    assert [chunk.window for chunk in chunks] == list(store.made)
    assert clip == Clip(segment.index, segment.span, tuple(Chunk(n, Artifact("", "", 0, ""), 0) for n in range(len(segment.windows))))
    return list(store.made.values())


def test_the_fresh_frames_of_all_windows_make_the_film(inputs):
    segment = segment_of(70)  # windows at 0, 24 and 48, the last padded by 11
    made = run(ScriptedEngine(), segment, inputs(segment))
    assert [len(window) for window in made] == [33, 24, 13]
    assert sum(len(window) for window in made) == segment.span.frames
    assert made[0][0] == pytest.approx(0.0)
    assert made[1][0] == pytest.approx(1.09)
    assert made[2][-1] == pytest.approx(2.21)


def test_an_eased_seam_continues_the_last_frame_of_the_window_before(inputs):
    segment = segment_of(70)
    unchanged = [np.array(window) for window in run(ScriptedEngine(0.1), segment, inputs(segment))]
    first, second, third = (np.array(window) for window in run(ScriptedEngine(0.1), segment, inputs(segment), seam=4))
    assert np.array_equal(first, unchanged[0])
    difference = unchanged[0][-1] - 0.108  # level at which the second window repeats the first one's last frame
    assert second - unchanged[1] == pytest.approx(difference * np.array([1, 0.853553, 0.5, 0.146447] + [0.0] * 20), abs=1e-6)
    assert [second[0] - first[-1], third[0] - second[-1]] == pytest.approx([0.001, 0.001], abs=1e-6)  # as within the windows


def test_a_window_starts_from_the_end_of_the_one_before(inputs):
    segment, engine = segment_of(70), ScriptedEngine()
    (run(engine, segment, inputs(segment)))
    assert engine.motions[0] is None
    assert engine.motions[1].shape == (1, 3, 9, HEIGHT, WIDTH)
    assert engine.motions[1][0, 0, :, 0, 0].tolist() == pytest.approx([i / 100 for i in range(24, 33)])
    assert [each.overlap_frames for each in engine.inputs] == [0, 9, 9]


def test_motion_frames_are_colour_corrected(inputs):
    segment, engine = segment_of(40), ScriptedEngine()
    (run(engine, segment, inputs(segment), strength=1.0))
    grey = 128 / 255 * 2 - 1
    assert torch.allclose(engine.motions[1], torch.full_like(engine.motions[1], grey), atol=1e-2)


def test_each_window_gets_the_inputs_of_its_own_frames(inputs):
    segment, engine = segment_of(70), ScriptedEngine()
    (run(engine, segment, inputs(segment, n_speech=60)))
    assert [each.image[0, 0, 0].item() for each in engine.inputs] == [0, 1, 0]
    assert [each.reference[0, 0, 0, 0, 0].item() for each in engine.inputs] == [0, 1, 0]
    assert [each.audio[0, 3, 2, 0, 0].item() for each in engine.inputs] == [6, 54, 102]  # rows 3, 27 and 51
    assert (engine.inputs[2].audio[0, 14:] == 0).all()  # frame 62 on: silence around
    assert engine.inputs[0].masks is None
    assert (engine.noise == 2).all()


def test_memory_does_not_grow_with_the_film(inputs):
    """When a window is started, no earlier one is in memory, even if the caller keeps all that it was given."""
    segment, engine = segment_of(33 + 24 * 3), ScriptedEngine()
    kept = run(engine, segment, inputs(segment), keep=lambda made: to_bytes(made.fresh).shape)
    assert len(kept) == 4
    assert engine.in_memory == [0, 0, 0, 0]


def test_a_window_is_made_when_it_is_requested(inputs):
    segment, engine = segment_of(70), ScriptedEngine()
    parts = start(engine, segment, inputs(segment), Windows(levels))
    assert engine.inputs == []
    next(parts)
    assert len(engine.inputs) == 1


def test_a_resumed_segment_continues_as_if_it_had_not_stopped(inputs):
    segment, whole, rest = segment_of(70), ScriptedEngine(), ScriptedEngine()
    made = run(whole, segment, inputs(segment), keep=motion)
    run(rest, segment, inputs(segment), stored={0: made[0]})
    assert len(rest.inputs) == 2
    assert torch.equal(rest.motions[0], whole.motions[1])
    for ours, theirs in zip(rest.inputs, whole.inputs[1:], strict=True):
        assert torch.equal(ours.audio, theirs.audio) and torch.equal(ours.reference, theirs.reference)
    assert (rest.noise == 2).all()
    assert run(ScriptedEngine(), segment, inputs(segment), stored={0: made[0], 1: made[1], 2: None}) == []


def test_missing_windows_between_stored_ones_are_made(inputs):
    """Each starts from the stored window before it; stored windows after it stay."""
    segment, whole, rest = segment_of(33 + 24 * 3), ScriptedEngine(), ScriptedEngine()
    made = run(whole, segment, inputs(segment), keep=motion)
    assert len(made) == 4
    run(rest, segment, inputs(segment), stored={0: made[0], 2: made[2]})
    assert (len(rest.inputs), rest.noise[0, 0, 0, 0, 0]) == (2, 3)
    assert torch.equal(rest.motions[0], made[0]) and torch.equal(rest.motions[1], made[2])


def test_ranks_without_frames_yield_nothing_but_make_the_same_calls(inputs):
    class OtherRank(ScriptedEngine):
        def window(self, inputs, motion, noise):
            assert motion is None
            super().window(inputs, motion, noise)

    segment, engine = segment_of(70), OtherRank()
    assert list(start(engine, segment, inputs(segment), Windows(levels))) == []
    assert len(engine.inputs) == 3


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


def test_fresh_drops_overlap_and_padding():
    window = Window(Span(24, 44), overlap_frames=9, pad_frames=13, reference_frame=0)
    frames = torch.arange(33.0).view(1, 1, 33, 1, 1)
    assert fresh(frames, window).flatten().tolist() == list(range(9, 20))


def test_frames_are_rounded_to_the_nearest_bytes():
    levels = torch.tensor([-1.5, -1.0, -0.999, 0.0, 0.999, 1.0, 1.5]).view(1, 1, -1, 1, 1).expand(1, 3, 7, 2, 4)
    made = to_bytes(levels)
    assert made.shape == (7, 2, 4, 3) and made.dtype == np.uint8
    assert made[:, 0, 0, 0].tolist() == [0, 0, 0, 128, 255, 255, 255]
    grey = torch.arange(256) / 255 * 2 - 1
    assert to_bytes(grey.view(1, 1, -1, 1, 1).expand(1, 3, 256, 1, 1))[:, 0, 0, 0].tolist() == list(range(256))


def test_nan_is_not_written_as_a_picture():
    frames = torch.zeros(1, 3, 2, 4, 4)
    frames[0, 1, 1, 2, 2] = float("nan")
    with pytest.raises(FloatingPointError, match="NaN"):
        to_bytes(frames)
