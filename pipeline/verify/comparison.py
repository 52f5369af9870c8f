"""The comparison of a quantity with its golden value."""

from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Check:
    """The error of a quantity of a fixture, and its tolerance."""

    fixture: str
    quantity: str
    max_error: float
    mean_error: float
    max_tolerance: float
    mean_tolerance: float = inf
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.max_error <= self.max_tolerance and self.mean_error <= self.mean_tolerance  # False for NaN


@dataclass(frozen=True, slots=True)
class Skipped:
    """A quantity or fixture that was not checked, and the reason."""

    fixture: str
    reason: str


def compare(fixture: str, quantity: str, ours: Tensor, expected: Tensor, max_tolerance: float, mean_tolerance: float = inf) -> Check:
    """The absolute errors of `ours`; infinite if the shapes differ."""
    if ours.shape != expected.shape:
        note = f"shape {tuple(ours.shape)}, wanted {tuple(expected.shape)}"
        return Check(fixture, quantity, inf, inf, max_tolerance, mean_tolerance, note)
    errors = (ours.double() - expected.double()).abs()
    return Check(fixture, quantity, errors.max().item(), errors.mean().item(), max_tolerance, mean_tolerance)


def compare_exactly(fixture: str, quantity: str, ours: Any, expected: Any) -> Check:
    """Error 0 if both are equal, else infinite; for values without a distance."""
    equal = torch.equal(ours, expected) if isinstance(ours, Tensor) else ours == expected
    error = 0.0 if equal else inf
    return Check(fixture, quantity, error, error, 0.0)
