"""What the model is asked at each step, and how its answers become one.

A pass is one forward of the model with some of what it could be told left out. With scales g_text and g_audio and the answers
c (everything told), t (the prompt left out), u (prompt and speech left out), a (the speech left out):

    v = c + (g_text - 1) * D(c - t) + (g_audio - 1) * D(t - u)        both guided: 3 passes
    v = c + (g_audio - 1) * D(c - a)                                  the prompt is not guided: 2 passes
    v = c + (g_text - 1) * D(c - t)                                   the speech is not guided: 2 passes
    v = c                                                             neither is: 1 pass

D is the identity for classifier-free guidance. The first two are MeiGen-AI/InfiniteTalk's, wan/multitalk.py; the others are their limits.
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
    """What the model is told in a forward."""

    COND = "cond"  # prompt and speech
    DROP_TEXT = "drop_text"  # negative prompt and speech
    UNCOND = "uncond"  # negative prompt, no speech
    DROP_AUDIO = "drop_audio"  # prompt, no speech

    @property
    def hears_prompt(self) -> bool:
        return self in (Pass.COND, Pass.DROP_AUDIO)

    @property
    def hears_speech(self) -> bool:
        return self in (Pass.COND, Pass.DROP_TEXT)


Answers = Mapping[Pass, "Tensor"]

Combine = Callable[[Answers], "Tensor"]
"""The one flow of the answers of all passes. Made for one window; may remember earlier steps."""

Change = Callable[["Tensor", "Tensor"], "Tensor"]
"""change(difference, cond): what guidance makes of the difference of two answers."""


class Scales(Settings):
    """How strongly prompt and speech are followed."""

    text_scale: Decides[float] = Field(ge=0)
    """1 follows the prompt as the model learnt to; more exaggerates it against the negative prompt and costs a pass."""
    audio_scale: Decides[float] = Field(ge=0)
    """1 follows the speech as the model learnt to; more exaggerates it against silence and costs a pass."""

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

    def combine(self, answers: Answers, text: Change, audio: Change) -> Tensor:
        """The sum at the head of this file; `text` and `audio` are the D of its two terms."""
        cond = flow = answers[Pass.COND]
        if Pass.DROP_TEXT in answers:
            flow = flow + (self.text_scale - 1) * text(cond - answers[Pass.DROP_TEXT], cond)
        if Pass.UNCOND in answers:
            flow = flow + (self.audio_scale - 1) * audio(answers[Pass.DROP_TEXT] - answers[Pass.UNCOND], cond)
        if Pass.DROP_AUDIO in answers:
            flow = flow + (self.audio_scale - 1) * audio(cond - answers[Pass.DROP_AUDIO], cond)
        return flow


class Cfg(Scales):
    """Classifier-free guidance (Ho and Salimans, 2022): differences are taken as they are."""

    name: Decides[Literal["cfg"]]
    """Which guidance."""

    def start(self) -> Combine:
        return lambda answers: self.combine(answers, unchanged, unchanged)


class Apg(Scales):
    """Adaptive projected guidance (Sadat et al., 2024): differences are averaged over steps, bounded, and only their part across c counts."""

    name: Decides[Literal["apg"]]
    """Which guidance."""
    momentum: Decides[float] = Field(gt=-1, lt=1)
    """Weight of the running difference; negative values push away from what earlier steps agreed on."""
    norm_threshold: Decides[float] = Field(ge=0)
    """A difference is shortened to this Euclidean norm; 0 leaves it."""

    def start(self) -> Combine:
        text, audio = Momentum(self.momentum, self.norm_threshold), Momentum(self.momentum, self.norm_threshold)
        return lambda answers: self.combine(answers, text, audio)


Guidance = Annotated[Cfg | Apg, Field(discriminator="name")]


class Momentum:
    """One running difference of APG, over the steps of one window."""

    def __init__(self, momentum: float, norm_threshold: float) -> None:
        self._momentum = momentum
        self._norm_threshold = norm_threshold
        self._running: Tensor | None = None

    def __call__(self, difference: Tensor, cond: Tensor) -> Tensor:
        running = difference if self._running is None else difference + self._momentum * self._running
        self._running = running
        if self._norm_threshold > 0:
            running = running * (self._norm_threshold / running.norm()).clamp(max=1)
        return across(running, cond)


def across(difference: Tensor, cond: Tensor) -> Tensor:
    """`difference` without its component along `cond`, all axes taken as one; in double precision, where the subtraction is exact enough."""
    direction = cond.double()
    direction = direction / direction.norm().clamp_min(1e-12)
    exact = difference.double()
    return (exact - (exact * direction).sum() * direction).type_as(difference)


def unchanged(difference: Tensor, cond: Tensor) -> Tensor:
    return difference
