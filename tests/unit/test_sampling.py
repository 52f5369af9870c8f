"""Samplers against flows with known solutions, guidance against its formulas, and the decisions of the step cache."""

import math

import pytest
import torch
from pydantic import ValidationError

from infinitedub.stages.sampling.guidance import Apg, Cfg, Momentum, Pass, orthogonal_part
from infinitedub.stages.sampling.samplers import SAMPLERS, SamplerSettings
from infinitedub.stages.sampling.schedules import shifted_sigmas
from infinitedub.stages.sampling.step_cache import ResidualCache, TeaCache

every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


def decay(latents, sigma, step):
    """dx/ds = x cos(s): x(0) = x(1) exp(-sin 1)."""
    return latents * torch.cos(sigma)


def error(sampler, steps: int) -> float:
    start = torch.full((1, 2), 3.0, dtype=torch.float64)
    reached = sampler(decay, start, torch.linspace(1, 0, steps + 1, dtype=torch.float64))
    return (reached - start * math.exp(-math.sin(1))).abs().max().item()


@every_sampler
def test_the_error_shrinks_at_least_with_the_step(sampler):
    coarse, fine = error(sampler, 64), error(sampler, 128)
    assert 0 < fine < coarse < 0.1
    assert math.log2(coarse / fine) > 0.9


@every_sampler
def test_straight_flows_are_followed_exactly(sampler):
    """Flow matching trains towards straight lines: from noise e to sample x the flow is e - x everywhere."""
    noise, sample = torch.randn(2, 1, 4, dtype=torch.float64)
    reached = sampler(lambda latents, sigma, step: noise - sample, noise, shifted_sigmas(5, 7.0).double())
    assert torch.allclose(reached, sample, atol=1e-12)


@every_sampler
def test_each_step_begins_with_an_evaluation_at_its_sigma(sampler):
    evaluated = []
    sampler(lambda latents, sigma, step: evaluated.append((step, float(sigma))) or latents, torch.ones(1), torch.tensor([1.0, 0.5, 0.25, 0.0]))
    assert [step for step, _ in evaluated] == sorted(step for step, _ in evaluated)
    first = dict(reversed(evaluated))
    assert first == {0: 1.0, 1: 0.5, 2: 0.25}


def test_the_schedule_decreases_from_one_to_zero():
    sigmas = shifted_sigmas(40, 7.0)
    assert sigmas[0] == 1 and sigmas[-1] == 0 and len(sigmas) == 41
    assert (sigmas.diff() < 0).all()


def test_the_shift_moves_steps_to_high_noise():
    assert torch.allclose(shifted_sigmas(1000, 1.0)[:-1], torch.arange(1000, 0, -1) / 1000)
    middle = shifted_sigmas(3, 3.0)[1].item()  # of t = 0.5005
    assert middle == pytest.approx(3 * 0.5005 / (1 + 2 * 0.5005))


def test_an_unknown_sampler_is_refused_and_the_known_ones_are_named():
    with pytest.raises(ValidationError, match="no sampler 'eulr'; known: euler"):
        SamplerSettings(name="eulr", steps=2, shift=1.0)


# -- guidance -------------------------------------------------------------------------------------------------------------------------------


def predictions(*passes: Pass) -> dict[Pass, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {each: torch.randn(1, 16, 2, 3, 4, generator=generator) for each in passes}


@pytest.mark.parametrize(
    ("text", "audio", "passes"),
    [
        (5.0, 4.0, (Pass.COND, Pass.DROP_TEXT, Pass.UNCOND)),
        (1.0, 2.0, (Pass.COND, Pass.DROP_AUDIO)),
        (5.0, 1.0, (Pass.COND, Pass.DROP_TEXT)),
        (1.0, 1.0, (Pass.COND,)),
    ],
)
def test_a_scale_of_one_needs_no_pass(text: float, audio: float, passes: tuple[Pass, ...]):
    assert Cfg(name="cfg", text_scale=text, audio_scale=audio).passes == passes


@pytest.mark.parametrize("audio", [4.0, 1.0])
def test_cfg_is_the_published_sum_of_three(audio: float):
    """v = u + g_text (c - t) + g_audio (t - u); with g_audio = 1 the third prediction cancels and is not computed."""
    guidance = Cfg(name="cfg", text_scale=5.0, audio_scale=audio)
    given = predictions(Pass.COND, Pass.DROP_TEXT, Pass.UNCOND)
    c, t, u = given.values()
    made = guidance.start()({each: given[each] for each in guidance.passes}, 0)
    assert torch.allclose(made, u + 5.0 * (c - t) + audio * (t - u), atol=1e-5)


def test_cfg_is_the_published_sum_of_two():
    given = predictions(Pass.COND, Pass.DROP_AUDIO)
    c, a = given.values()
    made = Cfg(name="cfg", text_scale=1.0, audio_scale=3.0).start()(given, 0)
    assert torch.allclose(made, a + 3.0 * (c - a), atol=1e-5)


@pytest.mark.parametrize(
    "guidance", [Cfg(name="cfg", text_scale=1, audio_scale=1), Apg(name="apg", text_scale=1, audio_scale=1, momentum=-0.75, norm_threshold=55)]
)
def test_without_guidance_the_prediction_is_unchanged(guidance):
    given = predictions(Pass.COND)
    assert torch.equal(guidance.start()(given, 0), given[Pass.COND])


def test_apg_adds_only_the_part_orthogonal_to_the_prediction():
    given = predictions(Pass.COND, Pass.DROP_AUDIO)
    made = Apg(name="apg", text_scale=1.0, audio_scale=3.0, momentum=0.0, norm_threshold=0.0).start()(given, 0)
    c, a = given.values()
    added = (made - c).double()
    assert (added * c.double()).sum().abs() < 1e-3  # of sums of 384 products
    along = ((c - a).double() * c.double()).sum() / c.double().square().sum() * c.double()
    assert torch.allclose(added, 2 * ((c - a).double() - along), atol=1e-5)


def test_apg_bounds_the_norm_of_a_difference():
    difference, cond = torch.zeros(1, 8), torch.zeros(1, 8)
    difference[0, 0], cond[0, 1] = 10.0, 1.0
    assert Momentum(0.0, 4.0)(difference, cond, 0).norm() == pytest.approx(4.0)
    assert Momentum(0.0, 40.0)(difference, cond, 0).norm() == pytest.approx(10.0)
    assert Momentum(0.0, 0.0)(difference, cond, 0).norm() == pytest.approx(10.0)


def test_apg_momentum_spans_steps_but_not_windows():
    guidance = Apg(name="apg", text_scale=5.0, audio_scale=4.0, momentum=-0.75, norm_threshold=0.0)
    given = predictions(*guidance.passes)
    window = guidance.start()
    first, second = window(given, 0), window(given, 1)
    assert not torch.allclose(first, second)
    assert torch.equal(guidance.start()(given, 0), first)
    cond = given[Pass.COND]  # the running difference of the second step is d - 0.75 d
    assert torch.allclose(second - cond, 0.25 * (first - cond), atol=1e-4)


def test_apg_counts_steps_and_not_evaluations():
    """The running difference of a step is that of its first evaluation; all evaluations start from the difference of the step before."""
    first, second, third = torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(1))
    cond = torch.zeros(1, 8)  # nothing is projected away
    once, twice = Momentum(-0.5, 0.0), Momentum(-0.5, 0.0)
    once(first, cond, 0)
    twice(first, cond, 0)
    assert torch.equal(twice(third, cond, 0), third)
    assert torch.equal(twice(second, cond, 1), once(second, cond, 1))
    assert torch.allclose(twice(third, cond, 1), third - 0.5 * first)


def test_a_difference_parallel_to_the_prediction_vanishes():
    cond = torch.randn(1, 16, 2, 3, 4)
    assert orthogonal_part(3.0 * cond, cond).abs().max() < 1e-6


# -- step cache -----------------------------------------------------------------------------------------------------------------------------


def teacache(**changes) -> TeaCache:
    values = {"threshold": 0.25, "coefficients": (1.0, 0.0), "warmup_steps": 1, "final_steps": 0}
    return TeaCache(name="teacache", **{**values, **changes})


def rising(steps: int, by: float) -> torch.Tensor:
    """Embedded timesteps with a constant relative change."""
    return (1 + by) ** torch.arange(steps, dtype=torch.float64)[:, None, None] * torch.ones(1, 6, 8, dtype=torch.float64)


def test_steps_are_skipped_until_the_predicted_changes_reach_the_threshold():
    assert teacache().computed(rising(8, 0.1)) == (True, False, False, True, False, False, True, False)


def test_the_polynomial_predicts_the_change():
    assert teacache(coefficients=(10.0, 0.0, 0.2)).computed(rising(4, 0.1)) == (True, True, True, True)  # 10 * 0.01 + 0.2 = 0.3


def test_the_first_and_last_steps_are_always_computed():
    assert teacache(threshold=99.0, warmup_steps=3, final_steps=2).computed(rising(8, 0.1)) == (True, True, True, False, False, False, True, True)


def test_a_residual_is_reused_until_the_blocks_are_computed_again():
    cache = ResidualCache([True, False, True, False])
    assert cache.at(0).reuse() is None
    cache.at(0).keep(torch.tensor(1.0))
    assert cache.at(1).reuse() == 1.0
    assert cache.at(2).reuse() is None
    cache.at(2).keep(torch.tensor(2.0))
    assert cache.at(3).reuse() == 2.0


def test_all_evaluations_of_a_step_follow_its_decision():
    cache = ResidualCache([True, False, True])
    for value in (1.0, 2.0):
        assert cache.at(0).reuse() is None
        cache.at(0).keep(torch.tensor(value))
    assert [cache.at(1).reuse(), cache.at(1).reuse()] == [2.0, 2.0]
    assert cache.at(2).reuse() is None
