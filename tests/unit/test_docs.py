"""The documents name files, tests and modules that exist."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md"), *(ROOT / "assets").rglob("*.md")])
TESTS = {name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)}
FOLDERS = "conf|stages|pipeline|launch|tests|docs|assets|benchmarks|infinitedub"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_names_exists(page: Path):
    text = page.read_text()
    missing = [name for name in re.findall(r"`(test_\w+)`", text) if name not in TESTS]
    paths = re.findall(rf"`((?:{FOLDERS})/[\w./-]+)`", text)
    missing += [path for path in paths if not (ROOT / path).exists()]
    links = [link.partition("#")[0] for link in re.findall(r"\]\(((?!https?:|#)[^)]+)\)", text)]
    missing += [link for link in links if not (page.parent / link).exists()]
    modules = re.findall(r"`(infinitedub(?:\.\w+)+)`", text)
    missing += [module for module in modules if not resolves(module)]
    assert missing == []


def resolves(dotted: str) -> bool:
    """Whether this is a module, or a name in one."""
    module, _, name = dotted.rpartition(".")
    if find_spec(module) is None:
        return False
    return find_spec(dotted) is not None if _is_package(module) else f"def {name}(" in Path(find_spec(module).origin or "").read_text()


def _is_package(module: str) -> bool:
    spec = find_spec(module)
    return spec is not None and spec.submodule_search_locations is not None
