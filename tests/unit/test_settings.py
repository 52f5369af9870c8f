"""Every setting says what it means and whether it changes results; its value lives in conf/ alone."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

import pytest
from pydantic.fields import FieldInfo

from infinitedub.stages.settings import Decides, Neutral, Role, Settings, Weights

ROOT = Path(__file__).resolve().parents[2]


def declares_settings(path: Path) -> bool:
    """Whether a class in the file is built on something called ...Settings."""
    classes = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.ClassDef)]
    return any(ast.unparse(base).endswith("Settings") for node in classes for base in node.bases)


MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for floor in ("stages", "pipeline")
    for path in (ROOT / floor).rglob("*.py")
    if declares_settings(path)
)
every_module = pytest.mark.parametrize("module", MODULES)


def kinds_of(module: str) -> list[type[Settings]]:
    """The settings declared in a module."""
    values = vars(importlib.import_module(module)).values()
    return [kind for kind in values if isinstance(kind, type) and issubclass(kind, Settings) and kind.__module__ == module]


def fields_of(module: str) -> Iterator[tuple[str, FieldInfo]]:
    """The fields of all settings declared in a module, by their dotted names; not those that hold further settings, which are asked in turn."""
    for kind in kinds_of(module):
        yield from ((f"{kind.__name__}.{name}", field) for name, field in kind.model_fields.items() if not nested(field.annotation))


def nested(annotation: object) -> bool:
    """Whether a field holds further settings, or one of several kinds of them."""
    if get_origin(annotation) is Annotated:
        return nested(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return all(nested(member) for member in get_args(annotation))
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def roles(field: FieldInfo) -> list[Role]:
    return [mark for mark in field.metadata if isinstance(mark, Role)]


def test_the_settings_of_the_stages_are_found():
    assert {"infinitedub.stages.segment.settings", "infinitedub.stages.listen.settings", "infinitedub.pipeline.pools.settings"} <= set(MODULES)


@every_module
def test_fields_say_whether_they_change_results(module: str):
    assert [name for name, field in fields_of(module) if len(roles(field)) != 1] == []


@every_module
def test_settings_say_what_they_mean(module: str):
    """A field by the docstring under it, a class by its own."""
    assert [name for name, field in fields_of(module) if not (field.description or "").strip()] == []
    assert [kind.__name__ for kind in kinds_of(module) if not (kind.__doc__ or "").strip()] == []


@every_module
def test_no_value_is_given_in_python(module: str):
    """Values live in conf/ alone, those of whole groups too."""
    given = [f"{kind.__name__}.{name}" for kind in kinds_of(module) for name, field in kind.model_fields.items() if not field.is_required()]
    assert given == []


def test_only_deciding_fields_reach_the_content_key():
    class Inner(Settings):
        steps: Decides[int]
        """Denoising steps."""
        threads: Neutral[int]
        """Threads to work with."""

    class Outer(Settings):
        inner: Inner
        """What lies below."""
        shift: Decides[float]
        """Of the schedule."""
        verbose: Neutral[bool]
        """Whether to talk."""

    given = Outer(inner=Inner(steps=4, threads=2), shift=3.0, verbose=True)
    assert given.deciding() == {"inner": {"steps": 4}, "shift": 3.0}


def test_where_weights_lie_does_not_reach_the_content_key():
    """Their digest does: see pipeline/storage/weights.py."""

    class Model(Settings):
        path: Weights
        """A folder."""
        scale: Decides[float]
        """A strength."""

    assert roles(Model.model_fields["path"]) == [Role.NEUTRAL]
    assert Model(path="a", scale=1.0).deciding() == Model(path="b", scale=1.0).deciding() == {"scale": 1.0}
