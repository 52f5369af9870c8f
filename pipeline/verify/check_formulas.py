"""Fixtures of the code around the networks: framing, colours, guidance, schedules, TeaCache, LoRAs."""

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file

from infinitedub.pipeline.verify.comparison import Check, Skipped, compare, compare_exactly
from infinitedub.pipeline.verify.fixture import Fixture
from infinitedub.stages.engines.framing import frame_masks, frame_picture, to_range
from infinitedub.stages.generate.color_match import match_color
from infinitedub.stages.listen.loudness import measure_loudness, normalize_loudness
from infinitedub.stages.model.speakers import reference_map, rotate
from infinitedub.stages.model.speech_encoder import SAMPLE_RATE, interpolate_features
from infinitedub.stages.model.weights.keymap import TRANSFORMER, translator
from infinitedub.stages.model.weights.lora import open_lora
from infinitedub.stages.sampling.guidance import Momentum
from infinitedub.stages.sampling.schedules import TIMESTEPS, shifted_sigmas
from infinitedub.stages.sampling.step_cache import TeaCache

EXACT = 1e-6
"""A few roundings in float32."""
CLOSE = 1e-5
"""Roundings with powers, sines or norms among them."""
BETWEEN = 1e-4
"""The release computes positions in float32, which changes them by about 1e-6 of a feature."""
TARGET_LUFS = -23.0
"""The release's."""
PASSES = 3
"""The release counts forwards, three per step."""


def check_utils(fixture: Fixture) -> Iterator[Check | Skipped]:
    yield from check_framing(fixture)
    yield from check_color(fixture)
    yield from check_loudness(fixture)
    yield from check_speakers(fixture)
    yield from check_schedules(fixture)
    yield from check_projection(fixture)
    yield from check_interpolation(fixture)
    yield Skipped(
        f"{fixture.name}: addnoise", "the noise that the release adds to motion latents is overwritten before it is used; not implemented here"
    )


def check_framing(fixture: Fixture) -> Iterator[Check]:
    picture, masks = fixture["rcc.img"].numpy(), fixture["rcc.mask"]
    for number, (height, width) in enumerate(fixture.about["rcc_targets"]):
        framed = frame_picture(picture, (height, width))
        yield compare_exactly(fixture.name, f"picture {number}", framed, fixture[f"rcc.pil.{number}.out"][0, :, 0])
        yield compare(fixture.name, f"picture {number} in range", to_range(framed), fixture[f"rcc.pil.{number}.norm"][0, :, 0], EXACT)
        yield compare_exactly(fixture.name, f"masks {number}", frame_masks(masks, (height, width)), fixture[f"rcc.mask.{number}.out"])


def check_interpolation(fixture: Fixture) -> Iterator[Check]:
    features = fixture["interp.in"].transpose(1, 2)
    for name in sorted(name for name in fixture.tensors if re.fullmatch(r"interp\.\d+\.out", name)):
        positions = torch.linspace(0, features.shape[2] - 1, fixture[name].shape[1], dtype=torch.float64)
        yield compare(fixture.name, name, interpolate_features(features, positions).transpose(1, 2), fixture[name], BETWEEN)


def check_color(fixture: Fixture) -> Iterator[Check]:
    reference = (fixture["color.ref"][0, :, 0] + 1) / 2
    for frames, made in (("color.src", "color.out."), ("color.flat_src", "color.flat_out.")):
        for name in sorted(name for name in fixture.tensors if name.startswith(made)):
            ours = match_color(fixture[frames], reference, float(name.removeprefix(made)))
            yield compare(fixture.name, name, ours, fixture[name], CLOSE)


def check_loudness(fixture: Fixture) -> Iterator[Check]:
    for name in sorted(name for name in fixture.tensors if name.startswith("loud.") and name.endswith(".out")):
        case = name.removesuffix(".out")
        expected = fixture[name]
        given = fixture[f"{case}.in"] if f"{case}.in" in fixture else torch.zeros_like(expected)
        ours = normalize_loudness(given.numpy(), measure_loudness(given.numpy(), SAMPLE_RATE), TARGET_LUFS)
        yield compare(fixture.name, case, torch.from_numpy(ours), expected, EXACT)


def check_speakers(fixture: Fixture) -> Iterator[Check]:
    turned = rotate(fixture["rope1d.x"].transpose(1, 2), fixture["rope1d.pos"])
    yield compare(fixture.name, "rope1d", turned.transpose(1, 2), fixture["rope1d.out"], CLOSE)
    classes = fixture["attnmap.masks"]
    shares = reference_map(fixture["attnmap.q"], fixture["attnmap.k"][:, : classes.shape[1]], classes, compat_upstream=True)
    yield compare(fixture.name, "attention map", shares, fixture["attnmap.out"], EXACT)


def check_schedules(fixture: Fixture) -> Iterator[Check]:
    for name in sorted(name for name in fixture.tensors if name.startswith("timesteps.")):
        steps, shift = fixture.about[name]
        yield compare(fixture.name, name, shifted_sigmas(steps, shift) * TIMESTEPS, fixture[name], TIMESTEPS * EXACT)


def check_projection(fixture: Fixture) -> Iterator[Check]:
    """Steps of APG that share one running difference, in order."""
    about = fixture.about["apg"]
    momentum = Momentum(about["momentum"], about["norm_threshold"])
    for number in range(sum(name.startswith("apg.") and name.endswith(".out") for name in fixture.tensors)):
        ours = momentum(fixture[f"apg.{number}.diff"], fixture[f"apg.{number}.pred_cond"], step=number)
        yield compare(fixture.name, f"apg {number}", ours, fixture[f"apg.{number}.out"], CLOSE)


def check_teacache(fixture: Fixture) -> Iterator[Check]:
    """The steps that are computed. The fixture counts every forward of several windows; each pass of each window must have our decisions."""
    for about in fixture.about["cases"]:
        cache = TeaCache(
            name="teacache",
            threshold=about["thresh"],
            coefficients=about["coefficients"],
            warmup_steps=about["ret_steps"] // PASSES,
            final_steps=(about["num_steps"] - about["cutoff_steps"]) // PASSES,
        )
        decided = cache.computed(fixture[f"case{about['case']}.modulated_inp"])
        window = [int(computed) for computed in decided for _ in range(PASSES)]
        windows = len(about["computed"]) // len(window)
        yield compare_exactly(fixture.name, f"case {about['case']} decisions", window * windows, about["computed"])


def check_lora(fixture: Fixture) -> Iterator[Check]:
    """A LoRA, merged as the release does."""
    ours_of = translator(TRANSFORMER)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "lora.safetensors"
        save_file({name.removeprefix("lora."): value for name, value in fixture.tensors.items() if name.startswith("lora.")}, path)
        lora = open_lora(path, fixture.about["scale"], ours_of, compat_upstream=True)
        for name in fixture.about["changed"]:
            targets = ours_of(name) or (name,)
            yield compare(fixture.name, name, lora.merge(targets[0], fixture[f"before.{name}"]), fixture[f"after.{name}"], EXACT)
