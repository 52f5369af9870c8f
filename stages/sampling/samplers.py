"""Samplers: integrate the model's flow from noise to latents."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from infinitedub.stages.settings import Decides, Settings

if TYPE_CHECKING:
    from torch import Tensor

Flow = Callable[["Tensor", "Tensor", int], "Tensor"]
"""flow(latents, sigma, step) = d latents / d sigma: the model's prediction for latents at noise level sigma (a scalar tensor in [0, 1]).

`step` counts the intervals of the schedule from 0. A sampler that evaluates the flow several times within an interval passes the same number each
time: step caches and the momentum of guidance count steps, not calls.
"""

Sampler = Callable[[Flow, "Tensor", "Tensor"], "Tensor"]
"""sampler(flow, latents, sigmas): the latents at the last of the decreasing `sigmas` [steps + 1], given those at the first."""


def euler(flow: Flow, latents: Tensor, sigmas: Tensor) -> Tensor:
    """x' = x + flow(x, s) * (s' - s): first order, one evaluation per step."""
    for step, (sigma, following) in enumerate(pairwise(sigmas)):
        latents = latents + flow(latents, sigma, step) * (following - sigma)
    return latents


SAMPLERS: dict[str, Sampler] = {"euler": euler}


class SamplerSettings(Settings):
    """How the flow is integrated from noise to latents."""

    name: Decides[str]
    """Integration rule; one of `SAMPLERS`."""
    steps: Decides[int] = Field(ge=1)
    """Intervals of the noise schedule."""
    shift: Decides[float] = Field(gt=0)
    """Distribution of the steps: 1 spaces them evenly, larger values put more of them at high noise, which large frames need."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SAMPLERS:
            raise ValueError(f"there is no sampler {name!r}; known: {', '.join(sorted(SAMPLERS))}")
        return name
