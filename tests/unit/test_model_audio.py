"""How the denoiser listens: windows, projection, and whose voice each token hears."""

import pytest
import torch

from infinitedub.stages.model.audio_conditioning import AudioProjector, window_indices
from infinitedub.stages.model.shards import SingleDevice
from infinitedub.stages.model.speakers import audio_token_positions, reference_map, rotate, speaker_positions, token_classes
from infinitedub.stages.model.weights.keymap import IDENTITY, translator
from infinitedub.stages.model.weights.load import build_empty, load_weights, map_sources
from tests.golden.read import facts, golden, weights


@pytest.mark.parametrize("case", facts("audio_proj")["center_indices"], ids=lambda case: f"{case['start']}of{case['audio_len']}")
def test_windows_hear_the_rows_that_the_releases_hear(case):
    indices = window_indices(case["start"], case["frame_num"], case["audio_len"], window=5)
    assert torch.equal(indices, golden("audio_proj")[f"center_indices.{case['i']}"].long())


@pytest.mark.parametrize("case", ["a", "b"])
@pytest.mark.parametrize("persons", ["p1", "p2"])
def test_the_projector_is_the_releases(case, persons):
    tensors, sizes = golden("audio_proj"), facts("audio_proj")[case]
    with build_empty():
        projector = AudioProjector(
            window=5,
            vae_scale=4,
            blocks=sizes["blocks"],
            channels=sizes["channels"],
            intermediate_dim=sizes["intermediate_dim"],
            context_tokens=sizes["context_tokens"],
            output_dim=sizes["output_dim"],
            norm_output=sizes["norm_output_audio"],
        )
    load_weights(projector, map_sources(weights("audio_proj", f"{case}.w."), translator(IDENTITY)), dtype=torch.float32, device="cpu")
    audio = tensors[f"{case}.{persons}.in.audio"]
    first, later = projector.gather_rows(audio)
    assert torch.equal(first, tensors[f"{case}.{persons}.in.first"])
    assert torch.equal(later, tensors[f"{case}.{persons}.in.latter"])
    assert torch.allclose(projector(audio), tensors[f"{case}.{persons}.out"], rtol=0, atol=1e-5)


def projector_of(frames: int) -> tuple[AudioProjector, torch.Tensor]:
    network = AudioProjector(window=5, vae_scale=4, blocks=2, channels=3, intermediate_dim=4, context_tokens=2, output_dim=6, norm_output=True)
    return network, torch.randn(1, frames, 5, 2, 3)


def test_a_single_frame_has_a_latent_of_its_own():
    network, audio = projector_of(1)
    assert network(audio).shape == (1, 1, 2, 6)


def test_frames_that_fill_no_latent_are_refused():
    network, audio = projector_of(8)
    with pytest.raises(ValueError, match="8 frames"):
        network(audio)


# -- two persons ------------------------------------------------------------------------------------------------------


def test_rotary_positions_are_the_releases():
    tensors = golden("utils")
    heads = tensors["rope1d.x"].transpose(1, 2)  # [B, N, L, K] there
    made = rotate(heads, tensors["rope1d.pos"]).transpose(1, 2)
    assert torch.allclose(made, tensors["rope1d.out"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("compat_upstream", [False, True])
def test_the_map_of_an_even_number_of_heads_is_the_releases(compat_upstream):
    tensors = golden("utils")
    made = reference_map(tensors["attnmap.q"], tensors["attnmap.k"][:, :8], tensors["attnmap.masks"], compat_upstream)
    assert torch.allclose(made, tensors["attnmap.out"], rtol=0, atol=1e-6)


def test_an_odd_head_is_heard_by_us_and_dropped_by_the_release():
    tensors = golden("utils")
    query, keys, masks = tensors["attnmap.q"][:, :, :3], tensors["attnmap.k"][:, :8, :3], tensors["attnmap.masks"]
    of_two = reference_map(query[:, :, :2], keys[:, :, :2], masks, compat_upstream=False)
    assert torch.allclose(reference_map(query, keys, masks, compat_upstream=True), of_two)
    scores = torch.einsum("blnk,bsnk->bnls", query, keys) / query.shape[-1] ** 0.5
    of_three = torch.einsum("bnls,cs->cl", scores.softmax(-1), masks / masks.sum(1, keepdim=True)) / 3
    assert torch.allclose(reference_map(query, keys, masks, compat_upstream=False), of_three, atol=1e-6)


def test_positions_are_the_releases():
    """Through the last block of the golden pass, whose queries were recorded before and after they were turned."""
    tensors = golden("dit_multi")
    for block in range(2):
        key = f"int.blocks.{block}.audio_cross_attn.rope_1d"
        turned = rotate(tensors[f"{key}.q_in"].transpose(1, 2), tensors[f"{key}.q_pos"])
        assert torch.allclose(turned.transpose(1, 2), tensors[f"{key}.q_out"], rtol=0, atol=1e-5)
    listeners = audio_token_positions(12, torch.device("cpu"))
    assert torch.equal(listeners.repeat(4), tensors["int.blocks.0.audio_cross_attn.rope_1d.k_pos"])


def positions(masks: torch.Tensor) -> torch.Tensor:
    """Of 6 tokens that each attend to one of the 3 tokens of the first frame alone: to 0, 0, 1, 1, 2, 2."""
    keys = 100 * torch.eye(3).view(1, 3, 1, 3)
    query = torch.eye(3).repeat_interleave(2, dim=0).view(1, 6, 1, 3)
    query = query * torch.tensor([1.0, 0.01, 1.0, 0.01, 1.0, 0.01]).view(1, 6, 1, 1)  # the second of each pair is less sure
    return speaker_positions(query, torch.cat([keys, keys], dim=1), masks, SingleDevice(), compat_upstream=False)


def test_tokens_go_to_the_person_they_attend_to():
    places = positions(torch.eye(3))
    assert places[0] == 4.0  # most of person 1: the far end of the band
    assert 0.0 < places[1] < 4.0
    assert places[2] == 24.0
    assert 20.0 < places[3] < 24.0
    assert places[4:].tolist() == [12.0, 12.0]


def test_a_class_without_tokens_is_never_chosen():
    masks = torch.eye(3)
    masks[1] = 0
    places = positions(masks)
    assert places.isfinite().all()
    assert not ((places >= 20) & (places <= 24)).any()


def test_masks_are_read_at_the_nearest_pixel():
    masks = torch.zeros(3, 4, 8)
    masks[0, :, :4] = 0.2  # whatever is above zero belongs
    masks[1, 2, 4] = 1
    classes = token_classes(masks, 2, 4)
    assert classes[0].view(2, 4).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]
    assert classes[1].view(2, 4).tolist() == [[0, 0, 0, 0], [0, 0, 1, 0]]
    assert classes[2].sum() == 0
