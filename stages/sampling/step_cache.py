"""Skips the transformer blocks at steps where their output is predictable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from infinitedub.stages.settings import Decides, Settings

if TYPE_CHECKING:
    from torch import Tensor


class ResidualCache:
    """The step cache of one pass in one window: the residual that the blocks added when they were last computed."""

    def __init__(self, computed: Sequence[bool]) -> None:
        """`computed[step]`: whether the blocks are computed at that step."""
        self.computed = tuple(computed)
        self.residual: Tensor | None = None

    def at(self, step: int) -> StepResidual:
        """The cache as the transformer uses it at `step`. All evaluations within a step follow the same decision."""
        return StepResidual(self, step)


@dataclass(frozen=True, slots=True)
class StepResidual:
    """A `ResidualCache` at one step. Implements `StepCache` of stages/model/dit.py."""

    cache: ResidualCache
    step: int

    def reuse(self) -> Tensor | None:
        return None if self.cache.computed[self.step] else self.cache.residual

    def keep(self, residual: Tensor) -> None:
        self.cache.residual = residual


class NoCache(Settings):
    """The blocks are computed at every step."""

    name: Decides[Literal["none"]]
    """Which cache."""


class TeaCache(Settings):
    """The blocks' last residual is reused while the embedded timestep has changed little (Liu et al., 2024).

    The predicted change of step i is f(mean|m_i - m_(i-1)| / mean|m_(i-1)|), m the timestep's embedding and f a polynomial fitted to the model.
    Predicted changes are summed over skipped steps. When the sum reaches the threshold, the blocks are computed and the sum restarts at 0.
    """

    name: Decides[Literal["teacache"]]
    """Which cache."""
    threshold: Decides[float] = Field(gt=0)
    """Sum of predicted changes at which the blocks are computed again. 0.2 skips about half of 40 steps."""
    coefficients: Decides[tuple[float, ...]] = Field(min_length=1)
    """The polynomial, highest power first."""
    warmup_steps: Decides[int] = Field(ge=1)
    """Steps at the beginning that are never skipped."""
    final_steps: Decides[int] = Field(ge=0)
    """Steps at the end that are never skipped."""

    def computed(self, modulations: Tensor) -> tuple[bool, ...]:
        """For each step whether the blocks are computed; `modulations` [steps, ...] are the embedded timesteps.

        They are the same in all passes, so all passes share the decisions. They are known before the first step, so the host waits for the device
        once per window.
        """
        flat = modulations.flatten(1)
        before, after = flat[:-1], flat[1:]
        relative = ((after - before).abs().mean(1) / before.abs().mean(1)).tolist()
        first_final = len(modulations) - self.final_steps
        computed, total = [True], 0.0
        for step, change in enumerate(relative, start=1):
            total += self._predicted_change(change)
            compute = step < self.warmup_steps or step >= first_final or total >= self.threshold
            if compute:
                total = 0.0
            computed.append(compute)
        return tuple(computed)

    def _predicted_change(self, change: float) -> float:
        value = 0.0
        for coefficient in self.coefficients:
            value = value * change + coefficient
        return value


Cache = Annotated[NoCache | TeaCache, Field(discriminator="name")]
