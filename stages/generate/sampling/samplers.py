"""From noise to a sample along the model's flow."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from infinitedub.stages.settings import Decides, Settings

if TYPE_CHECKING:
    from torch import Tensor

Flow = Callable[["Tensor", "Tensor"], "Tensor"]
"""flow(latents, sigma) = d latents / d sigma: what the model says of latents at noise level sigma (a scalar tensor in [0, 1])."""

Sampler = Callable[[Flow, "Tensor", "Tensor"], "Tensor"]
"""sampler(flow, latents, sigmas): the latents at the last of the falling `sigmas` [steps + 1], from those at the first."""


def euler(flow: Flow, latents: Tensor, sigmas: Tensor) -> Tensor:
    """x' = x + flow(x, s) * (s' - s): first order, one evaluation per step."""
    for sigma, following in pairwise(sigmas):
        latents = latents + flow(latents, sigma) * (following - sigma)
    return latents


SAMPLERS: dict[str, Sampler] = {"euler": euler}


class SamplerSettings(Settings):
    """How the flow is followed from noise to latents."""

    name: Decides[str]
    """Which rule; one of `SAMPLERS`."""
    steps: Decides[int] = Field(ge=1)
    """Points of the schedule at which the model is asked."""
    shift: Decides[float] = Field(gt=0)
    """Where the steps lie: 1 spaces them evenly, more puts more of them at high noise, as large frames need."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SAMPLERS:
            raise ValueError(f"there is no sampler {name!r}; known: {', '.join(sorted(SAMPLERS))}")
        return name
