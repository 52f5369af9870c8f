"""Runs the check of each fixture in a folder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path

import torch

from infinitedub.pipeline.verify.check_denoiser import ROUNDED, check_denoiser, check_rounded_denoiser
from infinitedub.pipeline.verify.check_encoders import (
    check_audio_projector,
    check_codec,
    check_image_encoder,
    check_speech_encoder,
    check_text_encoder,
)
from infinitedub.pipeline.verify.check_formulas import check_lora, check_teacache, check_utils
from infinitedub.pipeline.verify.check_loop import Coefficients, check_loop
from infinitedub.pipeline.verify.comparison import Check, Skipped
from infinitedub.pipeline.verify.fixture import Fixture, find_fixtures
from infinitedub.stages.engines.settings import ParallelSettings


@dataclass(frozen=True, slots=True)
class Profile:
    """Variants in which the denoiser is checked, beyond float32 in one process."""

    parallel: ParallelSettings
    dtype: torch.dtype
    coefficients: Coefficients


Outcome = Iterator[Check | Skipped]

PARTS: dict[str, Callable[[Fixture], Outcome]] = {
    "audio_proj": check_audio_projector,
    "clip": check_image_encoder,
    "lora": check_lora,
    "t5": check_text_encoder,
    "teacache": check_teacache,
    "utils": check_utils,
    "vae": check_codec,
    "wav2vec": check_speech_encoder,
}
"""The check for each beginning of a fixture's name."""


def verify(folder: Path, profile: Profile) -> Outcome:
    """Yields every comparison, fixture by fixture. Raises ConfigError if there is no such folder.

    A fixture whose check raises counts as missed, and the others are still checked.
    """
    for fixture in find_fixtures(folder):
        try:
            with torch.no_grad():
                yield from check(fixture, profile)
        except Exception as error:  # noqa: BLE001 - any error concerns this fixture only
            reason = f"{type(error).__name__}: {error}"
            yield Check(fixture.name, "the check raised an error", inf, inf, 0.0, note=" ".join(reason.split())[:300])


def check(fixture: Fixture, profile: Profile) -> Outcome:
    """The comparisons of one fixture; `Skipped` for an unknown kind."""
    if fixture.name.startswith("loop_"):
        yield from check_loop(fixture, profile.coefficients)
    elif fixture.name.startswith("dit_") and fixture.name.endswith(ROUNDED):
        yield from check_rounded_denoiser(fixture)
    elif fixture.name.startswith("dit_"):
        yield from check_denoiser(fixture, profile.parallel, profile.dtype)
    elif part := next((part for kind, part in PARTS.items() if fixture.name.startswith(kind)), None):
        yield from part(fixture)
    else:
        yield Skipped(fixture.name, f"of no known kind: {', '.join(['dit_*', 'loop_*', *PARTS])}")
