"""How settings are declared: every field says whether it changes the result.

A result is found by a content key of the stage's inputs and of the fields that decide it. A wrongly declared field would either reuse stale results
or discard good ones. tests/unit/test_settings.py fails for a field without a declaration.
"""

from enum import Enum
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")


class Role(Enum):
    """Whether two runs that differ in a field make different results."""

    DECIDES = "decides"
    NEUTRAL = "neutral"


class Place(Enum):
    """How a setting that names a location is treated."""

    WEIGHTS = "weights"  # a URI is replaced by a copy on the node before the stage opens


Decides = Annotated[T, Role.DECIDES]
Neutral = Annotated[T, Role.NEUTRAL]
Weights = Annotated[str, Role.NEUTRAL, Place.WEIGHTS]
"""Location of files of a model. Neutral, since the digest of their bytes is part of every key that depends on them."""


class Settings(BaseModel):
    """Base of all settings: frozen, no unknown keys, no defaults (those are in conf/). The docstring under a field gives its meaning and unit."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def from_parts(cls, *parts: "Settings") -> Self:
        """These settings with the value of each field taken from the first of `parts` that declares a field of that name."""
        return cls(**{name: next(getattr(part, name) for part in parts if name in type(part).model_fields) for name in cls.model_fields})

    def deciding(self) -> dict[str, Any]:
        """The part of these settings that changes results, JSON-able; includes that of nested settings."""
        kept: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, Settings):
                kept[name] = value.deciding()
            elif isinstance(value, tuple) and value and isinstance(value[0], Settings):
                kept[name] = [item.deciding() for item in value]
            elif Role.DECIDES in field.metadata:
                kept[name] = self.model_dump(mode="json", include={name})[name]
        return kept
