"""One number of ours against one of theirs."""

from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Check:
    """How far a quantity of a fixture is off, and how far it may be."""

    fixture: str
    quantity: str
    max_error: float
    mean_error: float
    max_tolerance: float
    mean_tolerance: float = inf
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.max_error <= self.max_tolerance and self.mean_error <= self.mean_tolerance  # a NaN passes nothing


@dataclass(frozen=True, slots=True)
class Skipped:
    """What was not checked, and why."""

    fixture: str
    reason: str


def compare(fixture: str, quantity: str, ours: Tensor, theirs: Tensor, max_tolerance: float, mean_tolerance: float = inf) -> Check:
    """The absolute errors of `ours`; infinite where the shape is another."""
    if ours.shape != theirs.shape:
        note = f"shape {tuple(ours.shape)}, wanted {tuple(theirs.shape)}"
        return Check(fixture, quantity, inf, inf, max_tolerance, mean_tolerance, note)
    errors = (ours.double() - theirs.double()).abs()
    return Check(fixture, quantity, errors.max().item(), errors.mean().item(), max_tolerance, mean_tolerance)


def compare_exactly(fixture: str, quantity: str, ours: Any, theirs: Any) -> Check:
    """No error where both are equal; for what has no distance."""
    equal = torch.equal(ours, theirs) if isinstance(ours, Tensor) else ours == theirs
    error = 0.0 if equal else inf
    return Check(fixture, quantity, error, error, 0.0)
