"""Guidance: which passes of the model a step needs, and how their predictions are combined.

A pass is one forward of the model with some of its conditioning left out. With scales g_text and g_audio and the predictions
c (full conditioning), t (negative prompt in place of the prompt), u (negative prompt and no speech), a (no speech):

    v = c + (g_text - 1) * D(c - t) + (g_audio - 1) * D(t - u)        both guided: 3 passes
    v = c + (g_audio - 1) * D(c - a)                                  the prompt is not guided: 2 passes
    v = c + (g_text - 1) * D(c - t)                                   the speech is not guided: 2 passes
    v = c                                                             neither is guided: 1 pass

D is the identity for classifier-free guidance. The first two formulas are those of MeiGen-AI/InfiniteTalk, wan/multitalk.py; the others are their
limits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from math import isclose
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from infinitedub.stages.settings import Decides, Settings

if TYPE_CHECKING:
    from torch import Tensor


class Pass(StrEnum):
    """The conditioning of one forward."""

    COND = "cond"  # prompt and speech
    DROP_TEXT = "drop_text"  # negative prompt and speech
    UNCOND = "uncond"  # negative prompt, no speech
    DROP_AUDIO = "drop_audio"  # prompt, no speech

    @property
    def uses_prompt(self) -> bool:
        return self in (Pass.COND, Pass.DROP_AUDIO)

    @property
    def uses_speech(self) -> bool:
        return self in (Pass.COND, Pass.DROP_TEXT)


Predictions = Mapping[Pass, "Tensor"]

Combine = Callable[[Predictions, int], "Tensor"]
"""combine(predictions, step): the flow of a step from the predictions of all passes. Made for one window; may keep state from earlier steps."""

Projection = Callable[["Tensor", "Tensor"], "Tensor"]
"""projection(difference, cond): the D of the formulas, applied to the difference of two predictions."""


class GuidanceScales(Settings):
    """How strongly prompt and speech are followed."""

    text_scale: Decides[float] = Field(ge=0)
    """1 follows the prompt as in training; larger values amplify it against the negative prompt and cost a pass."""
    audio_scale: Decides[float] = Field(ge=0)
    """1 follows the speech as in training; larger values amplify it against silence and cost a pass."""

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The forwards of a step, in order."""
        match isclose(self.text_scale, 1), isclose(self.audio_scale, 1):
            case True, True:
                return (Pass.COND,)
            case True, False:
                return (Pass.COND, Pass.DROP_AUDIO)
            case False, True:
                return (Pass.COND, Pass.DROP_TEXT)
            case _:
                return (Pass.COND, Pass.DROP_TEXT, Pass.UNCOND)

    def combine(self, predictions: Predictions, text: Projection, audio: Projection) -> Tensor:
        """The formula at the head of this file; `text` and `audio` are the D of its two terms."""
        cond = flow = predictions[Pass.COND]
        if Pass.DROP_TEXT in predictions:
            flow = flow + (self.text_scale - 1) * text(cond - predictions[Pass.DROP_TEXT], cond)
        if Pass.UNCOND in predictions:
            flow = flow + (self.audio_scale - 1) * audio(predictions[Pass.DROP_TEXT] - predictions[Pass.UNCOND], cond)
        if Pass.DROP_AUDIO in predictions:
            flow = flow + (self.audio_scale - 1) * audio(cond - predictions[Pass.DROP_AUDIO], cond)
        return flow


class Cfg(GuidanceScales):
    """Classifier-free guidance (Ho and Salimans, 2022): D is the identity."""

    name: Decides[Literal["cfg"]]
    """Which guidance."""

    def start(self) -> Combine:
        return lambda predictions, step: self.combine(predictions, unchanged, unchanged)


class Apg(GuidanceScales):
    """Adaptive projected guidance (Sadat et al., 2024): D averages a difference over steps, bounds its norm and keeps its part orthogonal to c."""

    name: Decides[Literal["apg"]]
    """Which guidance."""
    momentum: Decides[float] = Field(gt=-1, lt=1)
    """Weight of the running difference; negative values push away from the direction of earlier steps."""
    norm_threshold: Decides[float] = Field(ge=0)
    """A difference is scaled down to this Euclidean norm; 0 disables the bound."""

    def start(self) -> Combine:
        text, audio = Momentum(self.momentum, self.norm_threshold), Momentum(self.momentum, self.norm_threshold)
        return lambda predictions, step: self.combine(predictions, text.at(step), audio.at(step))


Guidance = Annotated[Cfg | Apg, Field(discriminator="name")]


class Momentum:
    """One running difference of APG, over the steps of one window.

    It is updated once per step, by the first evaluation. Later evaluations within the step start from the same earlier difference.
    """

    def __init__(self, momentum: float, norm_threshold: float) -> None:
        self._momentum = momentum
        self._norm_threshold = norm_threshold
        self._step = -1
        self._before: Tensor | None = None  # the running difference before the current step
        self._after: Tensor | None = None  # the running difference after it

    def at(self, step: int) -> Projection:
        """The projection of `step`."""
        return lambda difference, cond: self(difference, cond, step)

    def __call__(self, difference: Tensor, cond: Tensor, step: int) -> Tensor:
        if step != self._step:
            self._step, self._before, self._after = step, self._after, None
        running = difference if self._before is None else difference + self._momentum * self._before
        if self._after is None:
            self._after = running
        if self._norm_threshold > 0:
            running = running * (self._norm_threshold / running.norm()).clamp(max=1)
        return orthogonal_part(running, cond)


def orthogonal_part(difference: Tensor, cond: Tensor) -> Tensor:
    """`difference` without its component along `cond`, all axes taken as one; in double precision, where the subtraction is exact enough."""
    direction = cond.double()
    direction = direction / direction.norm().clamp_min(1e-12)
    exact = difference.double()
    return (exact - (exact * direction).sum() * direction).type_as(difference)


def unchanged(difference: Tensor, cond: Tensor) -> Tensor:
    """The difference itself."""
    return difference
