"""The stage generate as the pipeline calls it, with the bundled tiny model."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file

from infinitedub.stages.condition.stage import ConditionStage
from infinitedub.stages.contract import Rank
from infinitedub.stages.errors import ConfigError, Damaged, Transient
from infinitedub.stages.generate.stage import GenerateStage
from infinitedub.stages.media.video_io import read_all
from infinitedub.stages.model.dit import TalkingBlock
from infinitedub.stages.records import Artifact, Chunk, Clip, Prompt, Seed, Speech
from infinitedub.stages.sampling.samplers import SAMPLERS
from tests.unit.tiny import condition_settings, generate_settings, read, segment_of, source_of


@pytest.fixture
def conditions(files, tmp_path):
    """Conditions of a segment of a square photograph."""

    def build(segment):
        photograph = tmp_path / "face.png"
        Image.fromarray(np.random.default_rng(0).integers(60, 200, (64, 64, 3), np.uint8)).save(photograph)
        stage = ConditionStage(condition_settings())
        stage.open(Rank())
        return stage(source_of(photograph, width=64, height=64), segment, Prompt("a person talks", "blurry"), files=files)

    return build


@pytest.fixture
def speech(tmp_path) -> Speech:
    path = tmp_path / "speech.safetensors"
    save_file({"speaker_0": torch.randn(20, 3, 64, generator=torch.Generator().manual_seed(5)), "silence": torch.zeros(3, 64)}, path)
    return Speech(Artifact(str(path), "", 0, "tensors/safetensors"), 20, (None,))


def generate(stage, segment, conditions, speech, files, seed=1):
    *chunks, clip = stage(segment, conditions, speech, Seed(seed, "job"), files=files)
    return chunks, clip


def pixels(chunks, files) -> np.ndarray:
    return np.stack([frame for chunk in chunks for frame in read_all(files.fetch(chunk.picture))])


def test_a_chunk_per_window_and_the_clip_last(files, conditions, speech):
    segment = segment_of(50)
    prepared = conditions(segment)
    stage = GenerateStage(generate_settings())
    stage.open(Rank())
    chunks, clip = generate(stage, segment, prepared, speech, files)
    assert all(isinstance(chunk, Chunk) for chunk in chunks)
    assert [chunk.frames for chunk in chunks] == [33, 17]
    assert clip == Clip(0, segment.span, tuple(chunks))
    made = pixels(chunks, files)
    assert made.shape == (50, 96, 96, 3)
    assert made.std() > 1

    files.remembered.clear()
    again, _ = generate(stage, segment, prepared, speech, files)
    assert [chunk.picture.sha256 for chunk in again] == [chunk.picture.sha256 for chunk in chunks]
    files.remembered.clear()
    other, _ = generate(stage, segment, prepared, speech, files, seed=2)
    assert (pixels(other, files) != made).mean() > 0.5
    stage.close()


def test_an_interrupted_segment_is_resumed_with_the_same_bits(files, conditions, speech):
    segment = segment_of(80)
    prepared = conditions(segment)
    stage = GenerateStage(generate_settings())
    stage.open(Rank())
    chunks, clip = generate(stage, segment, prepared, speech, files)
    assert len(chunks) == 3
    undisturbed = dict(files.remembered)
    assert undisturbed[1].motion is not None and undisturbed[2].motion is None

    files.remembered.clear()
    interrupted = stage(segment, prepared, speech, Seed(1, "job"), files=files)
    next(interrupted)
    interrupted.close()
    stage.close()
    assert files.remembered.keys() == {0}

    other = GenerateStage(generate_settings())  # as in another process
    other.open(Rank())
    rest, resumed = generate(other, segment, prepared, speech, files)
    assert [chunk.window for chunk in rest] == [1, 2]
    assert [chunk.picture.sha256 for chunk in resumed.chunks] == [chunk.picture.sha256 for chunk in clip.chunks]
    assert files.remembered[1].motion.sha256 == undisturbed[1].motion.sha256

    nothing, whole = generate(other, segment, prepared, speech, files)
    assert nothing == [] and whole == resumed


def test_a_lost_window_is_made_again_and_no_other(files, conditions, speech):
    segment = segment_of(80)
    prepared = conditions(segment)
    stage = GenerateStage(generate_settings())
    stage.open(Rank())
    _, clip = generate(stage, segment, prepared, speech, files)
    del files.remembered[1]
    made, again = generate(stage, segment, prepared, speech, files)
    assert [chunk.window for chunk in made] == [1]
    assert [chunk.picture.sha256 for chunk in again.chunks] == [chunk.picture.sha256 for chunk in clip.chunks]
    assert again.chunks[2] == clip.chunks[2]


def test_a_storage_outage_discards_no_finished_window(files, conditions, speech, monkeypatch):
    """It spends the retry budget instead: hours of GPU work are still there when the storage answers again."""
    segment = segment_of(80)
    prepared = conditions(segment)
    stage = GenerateStage(generate_settings())
    stage.open(Rank())
    _, clip = generate(stage, segment, prepared, speech, files)
    del files.remembered[2]
    fetch = files.fetch

    def outage(what):
        if getattr(what, "kind", "") == "motion/safetensors":
            raise Transient("503 Slow Down")
        return fetch(what)

    with monkeypatch.context() as patch, pytest.raises(Transient, match="503"):
        patch.setattr(files, "fetch", outage)
        generate(stage, segment, prepared, speech, files)
    assert sorted(files.remembered) == [0, 1]
    made, again = generate(stage, segment, prepared, speech, files)
    assert [chunk.window for chunk in made] == [2]
    assert [chunk.picture.sha256 for chunk in again.chunks] == [chunk.picture.sha256 for chunk in clip.chunks]


def test_a_window_whose_motion_frames_are_damaged_is_made_again(files, conditions, speech, caplog, monkeypatch):
    segment = segment_of(80)
    prepared = conditions(segment)
    stage = GenerateStage(generate_settings())
    stage.open(Rank())
    _, clip = generate(stage, segment, prepared, speech, files)
    kept = dict(files.remembered)
    del files.remembered[2]
    harmed, fetch = kept[1].motion.uri, files.fetch

    def fetch_all_but_one(what):
        if getattr(what, "uri", None) == harmed:
            raise Damaged(f"{harmed} has another sha256")
        return fetch(what)

    monkeypatch.setattr(files, "fetch", fetch_all_but_one)
    rest, again = generate(stage, segment, prepared, speech, files)
    assert [chunk.window for chunk in rest] == [1, 2]
    assert [chunk.picture.sha256 for chunk in again.chunks] == [chunk.picture.sha256 for chunk in clip.chunks]
    assert "window 1 is made again" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance": {"name": "apg", "text_scale": 3.0, "audio_scale": 2.0, "momentum": -0.75, "norm_threshold": 55.0}},
        {"guidance": {"name": "cfg", "text_scale": 1.0, "audio_scale": 1.0}},
        {"precision": {"dtype": "bf16"}},
        {"compat": "upstream"},
        {"cache": {"name": "teacache", "threshold": 9.0, "coefficients": [1.0, 0.0], "warmup_steps": 1, "final_steps": 0}},
    ],
    ids=["apg", "unguided", "bf16", "upstream", "teacache"],
)
def test_every_setting_makes_another_film(files, conditions, speech, changes):
    segment = segment_of(20)
    prepared = conditions(segment)
    films = []
    for settings in (generate_settings(), generate_settings(**changes)):
        stage = GenerateStage(settings)
        stage.open(Rank())
        films.append(pixels(generate(stage, segment, prepared, speech, files)[0], files))
        files.remembered.clear()
        stage.close()
    assert films[0].shape == films[1].shape == (20, 96, 96, 3)
    assert not np.array_equal(*films)


def heun(flow, latents, sigmas):
    """Second order: two evaluations per step (Heun's method)."""
    for step, (sigma, following) in enumerate(pairwise(sigmas)):
        slope = flow(latents, sigma, step)
        predicted = latents + slope * (following - sigma)
        latents = latents + (slope + flow(predicted, following, step)) / 2 * (following - sigma)
    return latents


TEACACHE = {"name": "teacache", "threshold": 9.0, "coefficients": [1.0, 0.0], "warmup_steps": 1, "final_steps": 1}
APG = {"name": "apg", "text_scale": 3.0, "audio_scale": 2.0, "momentum": -0.75, "norm_threshold": 55.0}


@pytest.mark.parametrize(
    ("changes", "computed"),
    [
        ({"cache": TEACACHE}, 2 * 2 * 2),  # of 3 steps the first and the last, each in two evaluations of two passes
        ({"guidance": APG}, 3 * 2 * 3),
        ({"cache": TEACACHE, "guidance": APG}, 2 * 2 * 3),
    ],
    ids=["teacache", "apg", "both"],
)
def test_a_sampler_may_evaluate_the_model_twice_per_step(files, conditions, speech, monkeypatch, changes, computed):
    monkeypatch.setitem(SAMPLERS, "heun", heun)
    blocks_run = []
    block = TalkingBlock.forward
    monkeypatch.setattr(TalkingBlock, "forward", lambda self, *inputs: blocks_run.append(self) or block(self, *inputs))
    segment = segment_of(20)
    prepared = conditions(segment)
    stage = GenerateStage(generate_settings(sampler={"name": "heun", "steps": 3, "shift": 3.0}, **changes))
    stage.open(Rank())
    made = pixels(generate(stage, segment, prepared, speech, files)[0], files)
    assert made.shape == (20, 96, 96, 3)
    assert blocks_run.count(blocks_run[0]) == computed


def test_nan_raises_a_floating_point_error(files, conditions, speech, tmp_path):
    """The pools retry numeric failures, within a budget of their own."""
    segment = segment_of(20)
    prepared = conditions(segment)
    path = tmp_path / "nan.safetensors"
    save_file({"speaker_0": torch.full((50, 3, 64), float("nan")), "silence": torch.zeros(3, 64)}, path)
    stage = GenerateStage(generate_settings())
    stage.open(Rank())
    with pytest.raises(FloatingPointError, match="latents"):
        generate(stage, segment, prepared, Speech(Artifact(str(path), "", 0, ""), 50, (None,)), files)


def test_a_rank_on_another_device_than_the_settings_is_refused():
    with pytest.raises(ConfigError, match=r"generate\.device is cuda.*cpu"):
        GenerateStage(generate_settings(device="cuda")).open(Rank())


def test_a_gang_of_another_size_than_the_settings_is_refused():
    with pytest.raises(ConfigError, match=r"gang has 1 ranks.*degree=2"):
        GenerateStage(generate_settings(parallel="ulysses_2")).open(Rank())


def test_xfuser_needs_cuda():
    parallel = {**read("generate/parallel/ulysses_2"), "backend": "xfuser"}
    settings = generate_settings().model_copy(update={"parallel": type(generate_settings().parallel)(**parallel)})
    with pytest.raises(ConfigError, match="xfuser needs CUDA"):
        GenerateStage(settings).open(Rank(0, 2, "cpu", "tcp://127.0.0.1:1"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"motion_frames": 8}, "motion_frames is 8.*take 5 or 9"),
        ({"window_frames": 9}, "leaves nothing new in windows of 9 frames"),
        ({"window_frames": 80}, "take 77 or 81"),
        ({"buckets": {1.0: [64, 60]}}, "multiples of 16"),
    ],
)
def test_sizes_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        generate_settings(model={**read("generate/model/tiny"), **changes})
