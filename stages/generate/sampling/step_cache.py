"""Not asking the blocks where the answer is foreseeable."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from infinitedub.stages.settings import Decides, Settings

if TYPE_CHECKING:
    from torch import Tensor


class Residual:
    """The step cache of one pass in one window: what the blocks added when they were last asked. Implements `StepCache`."""

    def __init__(self, computed: Iterable[bool]) -> None:
        self._computed = iter(computed)
        self._residual: Tensor | None = None

    def reuse(self) -> Tensor | None:
        return None if next(self._computed) else self._residual

    def keep(self, residual: Tensor) -> None:
        self._residual = residual


class NoCache(Settings):
    """The blocks are asked at every step."""

    name: Decides[Literal["none"]]
    """Which cache."""


class TeaCache(Settings):
    """The blocks' last answer is used again while the embedded timestep has changed little (Liu et al., 2024).

    The change of step i is f(mean|m_i - m_(i-1)| / mean|m_(i-1)|), m the timestep's embedding and f a polynomial fitted to the model. Changes add up
    over the steps that are left out; once the sum reaches the threshold the blocks are asked and it starts anew.
    """

    name: Decides[Literal["teacache"]]
    """Which cache."""
    threshold: Decides[float] = Field(gt=0)
    """Sum of foreseen changes that is tolerated. 0.2 leaves out about half of 40 steps."""
    coefficients: Decides[tuple[float, ...]] = Field(min_length=1)
    """The polynomial, highest power first."""
    warmup_steps: Decides[int] = Field(ge=1)
    """Steps at the beginning that are never left out."""
    final_steps: Decides[int] = Field(ge=0)
    """Steps at the end that are never left out."""

    def computed(self, modulations: Tensor) -> tuple[bool, ...]:
        """At which steps the blocks are asked; `modulations` [steps, ...] are the embedded timesteps.

        They are the same in all passes, so all decide alike, and are known before the first step: the device is waited for once per window.
        """
        flat = modulations.flatten(1)
        before, after = flat[:-1], flat[1:]
        relative = ((after - before).abs().mean(1) / before.abs().mean(1)).tolist()
        first_final = len(modulations) - self.final_steps
        computed, total = [True], 0.0
        for step, change in enumerate(relative, start=1):
            total += self._foreseen(change)
            asked = step < self.warmup_steps or step >= first_final or total >= self.threshold
            if asked:
                total = 0.0
            computed.append(asked)
        return tuple(computed)

    def _foreseen(self, change: float) -> float:
        value = 0.0
        for coefficient in self.coefficients:
            value = value * change + coefficient
        return value


Cache = Annotated[NoCache | TeaCache, Field(discriminator="name")]
