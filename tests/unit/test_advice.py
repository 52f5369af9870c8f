"""Commands that the product's messages advise can be given as they are written: every verb exists and every override composes."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from infinitedub.launch.cli import VERBS
from infinitedub.launch.compose import checked, compose

ROOT = Path(__file__).resolve().parents[2]
GAP = "\0"  # where an f-string inserts a value
GROUPS = sorted({path.parent.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*.yaml")} - {"."})
TOP = "|".join(sorted({group.split("/")[0] for group in GROUPS} | {"rows", "on_bad_row"}))
OVERRIDE = re.compile(rf"(?<![\w./{{-])((?:{TOP})(?:[./][a-z_0-9]+)*)=([^\s,;:)'\"`\]]+)")
VERB = re.compile(r"(?<![\w./-])dub ([a-z]+)\b(?! *=)")
PROSE = {"a", "again", "footage", "on", "the"}  # after "dub" as a word of a sentence
PLACEHOLDER = re.compile(r"^[A-Z]+$|_[A-Z]+$|\.\.\.|…")


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Every text of a file that is no docstring, with its line. GAP stands for the inserted values of an f-string."""
    tree = ast.parse(path.read_bytes())
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings of modules, functions and fields
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.lineno, node.value


def overrides_in(text: str) -> list[str]:
    """The advised overrides; those with a placeholder or an inserted value are left out."""
    found = [(key, value.rstrip(".")) for key, value in OVERRIDE.findall(text)]
    return [f"{key}={value}" for key, value in found if value and GAP not in value and not PLACEHOLDER.search(value)]


PRODUCT = [path for floor in ("stages", "pipeline", "launch") for path in sorted((ROOT / floor).rglob("*.py"))]
MESSAGES = [(f"{path.relative_to(ROOT)}:{line}", text) for path in PRODUCT for line, text in texts(path)]
ADVICE = sorted({(override, place) for place, text in MESSAGES for override in overrides_in(text)})
ADVISED_VERBS = sorted({(verb, place) for place, text in MESSAGES for verb in VERB.findall(text) if verb not in PROSE})


def test_the_search_finds_advice():
    assert overrides_in("set segment.pad=loop, or generate/precision=fp32; storage.root=URI or condition.device={GAP}") == [
        "segment.pad=loop",
        "generate/precision=fp32",
        "condition.device={GAP}",
    ]
    assert overrides_in(f"generate.parallel.degree={GAP} generate/parallel=ulysses_N") == []
    assert len(ADVICE) >= 8
    assert len(ADVISED_VERBS) >= 8


@pytest.mark.parametrize(("override", "place"), ADVICE, ids=[f"{place} {override}" for override, place in ADVICE])
def test_an_advised_override_composes(override: str, place: str):
    composed = compose(["catalogue=none", *shlex.split(override)])
    if override.partition("=")[0] not in GROUPS:  # a choice of a group may need others beside it
        checked(composed)  # a value of that type is accepted, too


@pytest.mark.parametrize(("verb", "place"), ADVISED_VERBS, ids=[f"{place} {verb}" for verb, place in ADVISED_VERBS])
def test_an_advised_verb_exists(verb: str, place: str):
    assert verb in VERBS
