"""The people that the tiny bundle learns from, the meter that reads their mouths, and the network that learns them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import nn

from infinitedub.assets.tiny_bundle import autoencoder, clips, export, faces, latent_cache, voices
from infinitedub.assets.tiny_bundle.faces import Act
from infinitedub.assets.tiny_bundle.meter import MouthMeter
from infinitedub.assets.tiny_bundle.trainer import Crew, Plan, train
from infinitedub.stages.model.latent_codec import LatentCodec

ALONE = Crew(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def corpus() -> list[voices.Utterance]:
    """A mouth that opens and shuts every third of a second; no sound is needed to draw."""
    curve = 0.4 + 0.4 * np.sin(np.arange(120) * 0.75)
    return [voices.Utterance(np.zeros(0, np.float32), curve, np.full(120, 0.5))]


def test_a_clip_is_the_same_in_every_run(corpus: list[voices.Utterance]):
    one, two = (clips.scene(4, "wide", corpus) for _ in range(2))
    assert one.boxes == two.boxes
    assert one.spoken == two.spoken
    assert np.array_equal(faces.draw(one.portrait, [act_at(act, 7) for act in one.acts]), faces.draw(two.portrait, [act_at(a, 7) for a in two.acts]))


def act_at(act: Act, frame: int) -> Act:
    return Act(act.openness[[frame]], act.width[[frame]], act.moved.at([frame]))


def test_only_the_mouth_of_the_one_who_talks_moves_and_it_stays_in_its_box():
    portrait = faces.couple(np.random.default_rng(3))
    for person in (0, 1):
        shut, wide = faces.still(portrait, np.array([0.0, 1.0]), np.array([0.5, 0.9]), person).astype(int)
        rows, columns = faces.mouth_box(portrait, person, margin=0.02)
        changed = np.abs(wide - shut).max(axis=2)
        assert changed[rows, columns].max() > 100
        changed[rows, columns] = 0
        assert changed.max() == 0


def test_stills_of_other_speech_show_the_same_pose(corpus: list[voices.Utterance]):
    scene = clips.scene(0, "square", [replace(corpus[0], openness=np.r_[np.zeros(60), np.ones(60)])])
    moved = scene.acts[0].moved
    for still, frame in ((clips.STILLS["other_first"], 0), (clips.STILLS["other_second"], clips.ADVANCE)):
        assert (moved.x[still], moved.turn[still], moved.lids[still]) == (moved.x[frame], moved.turn[frame], moved.lids[frame])


@pytest.mark.parametrize("filmed", [True, False])
def test_the_meter_reads_both_mouths_of_a_pair_and_finds_their_heads(filmed: bool, corpus: list[voices.Utterance]):
    scene = next(found for at in range(60) if wanted(found := clips.scene(at, "wide", corpus), filmed=filmed))
    steps = np.arange(0, clips.CLIP, 3)
    acts = [Act(act.openness[steps], act.width[steps], act.moved.at(steps)) for act in scene.acts]
    camera = scene.filmed.at(steps) if scene.filmed else None
    frames = faces.draw(scene.portrait, acts, camera)
    truth = faces.heads(scene.portrait, acts, camera)[..., :2]
    rest = faces.heads(scene.portrait, [faces.shut(1) for _ in acts])[..., :2]
    for person, act in enumerate(acts):
        meter = MouthMeter.of(scene.portrait, person)
        assert np.corrcoef(meter(frames), act.openness)[0, 1] > 0.97
        assert np.abs(meter.positions(frames) - (truth - rest)[person]).mean() < 0.6


def wanted(scene: clips.Scene, *, filmed: bool) -> bool:
    return (scene.filmed is not None) == filmed and len(scene.acts) == 2 and None not in scene.spoken


def test_the_meter_says_shut_of_the_silent_one():
    portrait = faces.couple(np.random.default_rng(5))
    frames = faces.still(portrait, np.linspace(0, 1, 5), np.full(5, 0.5), person=1)
    assert MouthMeter.of(portrait, 0)(frames).max() < 0.05
    assert MouthMeter.of(portrait, 1)(frames) == pytest.approx(np.linspace(0, 1, 5), abs=0.05)


def test_mouths_follow_syllables_and_nothing_faster():
    seconds = np.arange(100) / 25
    slow, fast = (voices.smoothed(np.sin(2 * np.pi * rate * seconds)).std() for rate in (2, 10))
    assert slow > 0.85 * np.sqrt(0.5)
    assert fast < 0.1


def test_voices_and_lines_to_measure_with_are_none_of_those_in_training():
    languages, timbres = zip(*(voice.split("+") for voice in voices.UNSEEN_VOICES), strict=True)
    heard_languages, heard_timbres = zip(*(voice.split("+") for voice in voices.TRAINING_VOICES), strict=True)
    assert not set(timbres) & set(heard_timbres)
    assert set(languages) & set(heard_languages) == {"en-us"}
    assert not set(voices.UNSEEN_LINES) & set(voices.TRAINING_LINES)


def test_the_network_in_training_is_the_products():
    torch.manual_seed(0)
    network = autoencoder.begin()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    saved = AutoencoderKLWan(**autoencoder.CODEC, latents_mean=[0.0] * 16, latents_std=[1.0] * 16).eval()
    saved.load_state_dict(network.state_dict())
    codec = LatentCodec(saved)
    video = torch.rand(1, 3, 9, 32, 48) * 2 - 1
    with torch.no_grad():
        latents = autoencoder.encode(network, video)
        assert torch.allclose(latents, codec.encode(video), atol=1e-4)
        assert torch.allclose(autoencoder.decode(network, latents).clamp(-1, 1), codec.decode(latents), atol=1e-4)


def test_training_that_was_cut_off_gives_what_it_would_have_given(tmp_path):
    plan = Plan(seed=1, steps=100, muon=1e-2, adam=1e-2, hold=0.5, average=0.9)

    def trained(name: str, stop: int | None) -> list[torch.Tensor]:
        torch.manual_seed(0)
        network = nn.Linear(6, 5)

        def loss(rng: np.random.Generator, progress: float) -> torch.Tensor:
            if stop is not None and progress * plan.steps >= stop:
                raise KeyboardInterrupt
            return (network(torch.from_numpy(rng.standard_normal((8, 6))).float()) - 1).square().mean()

        train(network, loss, plan, tmp_path / name, ALONE, lambda: "")
        return [parameter.detach() for parameter in network.parameters()]

    with pytest.raises(KeyboardInterrupt):
        trained("cut.pt", stop=70)
    for one, other in zip(trained("cut.pt", stop=None), trained("whole.pt", stop=None), strict=True):
        assert torch.equal(one, other)


def half_written(path: Path, *_: object) -> None:
    path.write_bytes(b"half")
    raise KeyboardInterrupt


def test_clips_cut_off_while_their_file_was_made_get_another(tmp_path, monkeypatch):
    monkeypatch.setitem(clips.COUNTS, "tall", 1)
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(np.lib.format, "open_memmap", half_written)
        clips.open_frames(tmp_path, "tall")
    assert clips.open_frames(tmp_path, "tall").shape == (1, clips.FRAMES, *clips.SHAPES["tall"], 3)


def test_a_scale_cut_off_while_it_was_written_is_measured_again(tmp_path, monkeypatch):
    monkeypatch.setitem(clips.COUNTS, "square", 160)
    monkeypatch.setitem(clips.SHAPES, "square", (8, 8))
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(torch, "save", lambda _, path: half_written(path))
        latent_cache.latent_scale(tmp_path, autoencoder.begin())
    mean, std = latent_cache.latent_scale(tmp_path, autoencoder.begin())
    assert mean.shape == std.shape == (16,)


def test_a_bundle_cut_off_before_its_weights_were_trained_ones_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(export.make, "main", lambda out: out.mkdir())
    monkeypatch.setattr(torch, "load", lambda path, **_: half_written(path))
    with pytest.raises(KeyboardInterrupt):
        export.write_bundle(tmp_path, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
