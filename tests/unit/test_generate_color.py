"""Colour matching: statistics, strength and gamut; the golden tensors are in test_verify.py."""

import pytest
import torch

from infinitedub.stages.generate.color_match import lab_of_rgb, match_color, rgb_of_lab, statistics


@pytest.fixture
def frames() -> torch.Tensor:
    """Three muted frames, [-0.5, 0.5]: matched colours stay inside the gamut."""
    return torch.rand(1, 3, 3, 12, 16, generator=torch.Generator().manual_seed(1)) - 0.5


@pytest.fixture
def reference() -> torch.Tensor:
    return torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(2)) * 0.4 + 0.3


def test_known_colours():
    """CIE values of sRGB white, mid grey and pure red under D65."""
    colours = torch.tensor([[1.0, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0]]).T[:, None]
    wanted = torch.tensor([[100.0, 0, 0], [53.39, 0, 0], [53.24, 80.09, 67.20]]).T[:, None]
    assert torch.allclose(lab_of_rgb(colours), wanted, atol=2e-2)


def test_rgb_to_lab_and_back_is_the_identity():
    colours = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(3))
    colours[:, 0] = 0.01  # on the line near black
    assert torch.allclose(rgb_of_lab(lab_of_rgb(colours)), colours, atol=1e-4)


def test_every_frame_gets_the_references_statistics(frames, reference):
    matched = match_color(frames, reference, 1.0)
    wanted_mean, wanted_std = statistics(lab_of_rgb(reference))
    for number in range(3):
        mean, std = statistics(lab_of_rgb((matched[0, :, number] + 1) / 2))
        assert torch.allclose(mean, wanted_mean, atol=0.05)  # of 100
        assert torch.allclose(std, wanted_std, atol=0.05)


def test_strength_mixes(frames, reference):
    assert match_color(frames, reference, 0.0) is frames
    full, half = match_color(frames, reference, 1.0), match_color(frames, reference, 0.5)
    assert torch.allclose(half, (frames + full) / 2, atol=1e-6)
    assert (full - frames).abs().max() > 0.1


def test_a_frame_matched_to_itself_does_not_change(frames):
    own = (frames[0, :, 1] + 1) / 2
    assert torch.allclose(match_color(frames[:, :, 1:2], own, 1.0), frames[:, :, 1:2], atol=1e-4)


def test_a_frame_of_one_colour_gets_the_mean_and_no_nan(reference):
    matched = match_color(torch.zeros(1, 3, 1, 12, 16), reference, 1.0)
    mean, _ = statistics(lab_of_rgb(reference))
    assert torch.allclose(lab_of_rgb((matched[0, :, 0] + 1) / 2)[:, 3, 3], mean.flatten(), atol=0.05)
