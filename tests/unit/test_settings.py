"""Every setting has a docstring and says whether it changes results; its value is in conf/ only."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

import pytest
from pydantic.fields import FieldInfo

from infinitedub.launch.compose import checked, compose
from infinitedub.pipeline.config import RunConfig
from infinitedub.pipeline.run.stage_registry import stage_specs
from infinitedub.pipeline.storage.weights import _weight_uris as places_of
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.settings import Decides, Neutral, Role, Settings, Weights

ROOT = Path(__file__).resolve().parents[2]


def declares_settings(path: Path) -> bool:
    """Whether a class in the file has a base whose name ends in Settings."""
    classes = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.ClassDef)]
    return any(ast.unparse(base).endswith("Settings") for node in classes for base in node.bases)


MODULES = sorted(
    ".".join(("infinitedub", *path.relative_to(ROOT).with_suffix("").parts))
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
    """The fields of all settings declared in a module, by their dotted names; without those that hold nested settings."""
    for kind in kinds_of(module):
        yield from ((f"{kind.__name__}.{name}", field) for name, field in kind.model_fields.items() if not nested(field.annotation))


def nested(annotation: object) -> bool:
    """Whether a field holds nested settings, or one of several classes of them."""
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


def parts_of(config: RunConfig) -> dict[str, dict[str, object]]:
    """What decides the result of each stage."""
    return {name: spec.stage.config.deciding() for name, spec in stage_specs(config).items()}


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("generate.model.teacache_coefficients=[1.0]", {"generate"}),
        ("generate.model.fps=24", {"ingest", "generate"}),
        ("generate.model.motion_frames=5", {"segment", "generate"}),
        ("generate.model.window_frames=29", {"segment", "condition", "generate"}),
        ("generate.model.buckets={1.0:[64,64]}", {"condition", "generate"}),
        ("generate/precision=bf16", {"condition", "generate"}),
        ("generate.compat=upstream", {"condition", "generate"}),
        ("generate.seam_frames=3", {"generate"}),
        ("generate.model.speech=elsewhere", set()),
    ],
)
def test_a_fact_of_the_model_reaches_the_stages_that_use_it_and_no_other(override: str, changed: set[str]):
    before, after = (parts_of(checked(compose(["catalogue=none", *overrides]))) for overrides in ([], [override]))
    assert {name for name in before if before[name] != after[name]} == changed


def test_the_weights_of_each_stage_are_those_that_it_reads():
    specs = stage_specs(checked(compose(["catalogue=none", "generate.model.weights=/w", "generate.model.speech=s", "generate.model.adapter=a"])))
    named = {name: set(places_of(spec.stage.config)) for name, spec in specs.items()}
    assert {name: places for name, places in named.items() if places} == {
        "listen": {"/w/s"},
        "condition": {"/w"},
        "generate": {"/w", "/w/a", "/w/s"},
    }


@pytest.mark.parametrize(
    "override",
    [
        "segment.overlap_frames=5",
        "segment.window_frames=29",
        "condition.window_frames=29",
        "condition.dtype=bf16",
        "ingest.fps=30",
        "listen.speech=x",
    ],
)
def test_a_stage_cannot_be_given_another_fact_than_the_model(override: str):
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"{key}: there is no '{key.partition('.')[2]}' in {key.partition('.')[0]}"):
        checked(compose(["catalogue=none", override]))


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
