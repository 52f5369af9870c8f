"""The house stays in order: who may import whom, how large a file may grow, and what the first second of a command may load."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from docs.draw_house import cycles, rooms
from infinitedub.launch.cli import VERBS

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("conf", "stages", "pipeline", "launch", "assets")  # the importable ones
SOURCES = sorted(path.relative_to(ROOT) for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))
WORDS = {
    "stages.records",
    "stages.errors",
    "stages.contract",
    "stages.settings",
}  # what all rooms share, beside the rooms below
SHARED_ROOMS = {"stages.media", "stages.model", "stages.sampling", "stages.engines"}
HEAVY = ("torch", "av", "cv2", "ray", "transformers", "diffusers", "scenedetect", "decord", "moviepy", "scipy", "xfuser")
PRODUCT = [path for path in SOURCES if path.parts[0] in ("stages", "pipeline", "launch")]
SHARED_NAMES = {"__init__.py", "stage.py", "settings.py"}  # each room may have these
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "base", "core", "manager", "handler", "tools", "shared"}


def ours(name: str) -> str:
    """A module of ours by its place in the checkout: without the namespace."""
    return name.removeprefix("infinitedub.")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module a file imports, wherever in it, with the line. `from a import b` counts as a and as a.b: b may be a module."""
    package = ".".join(path.parent.parts)
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Import):
            yield from ((ours(alias.name), node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ours(".".join([*above, *([node.module] if node.module else [])]))
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def breaches(paths: Iterable[Path], forbidden: set[str]) -> list[str]:
    """Where the files import what is forbidden, or anything inside it."""
    found = ((path, line, name) for path in paths for name, line in imports(path))
    return [f"{path}:{line} imports {name}" for path, line, name in found if any(f"{name}.".startswith(f"{bad}.") for bad in forbidden)]


def under(*floors: str) -> list[Path]:
    return [path for path in SOURCES if path.parts[0] in floors]


def outside(*files: str) -> list[Path]:
    return [path for path in SOURCES if path.as_posix() not in files]


def syntax(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_bytes(), str(path))


def test_every_floor_of_the_house_is_looked_at():
    assert {path.parts[0] for path in SOURCES} == set(FLOORS)


def test_stages_know_nothing_of_clusters_configuration_and_buckets():
    assert breaches(under("stages"), {"ray", "hydra", "omegaconf", "fsspec", "s3fs", "pyarrow", "pipeline", "launch", "conf", "assets"}) == []


def test_the_pipeline_does_not_know_how_it_is_launched():
    assert breaches(under("pipeline"), {"hydra", "omegaconf", "launch", "conf", "assets"}) == []


def test_ray_is_known_in_three_files_only():
    assert breaches(outside("pipeline/pools/ray_group.py", "pipeline/pools/ray_nodes.py", "launch/cluster.py"), {"ray"}) == []


def test_xfuser_is_known_in_one_file_only():
    assert breaches(outside("stages/engines/parallel.py"), {"xfuser", "yunchang"}) == []


def test_rooms_do_not_know_each_other():
    """A room knows itself and the shared ground; the shared words know only each other; the shared rooms know no verb."""
    strangers = []
    for path in under("stages"):
        own = ".".join(path.parts[:2]).removesuffix(".py")
        known = {own} | WORDS | (set() if own in WORDS else SHARED_ROOMS)
        of_ours = ((name, line) for name, line in imports(path) if name.startswith("stages."))
        strangers += [f"{path}:{line} imports {name}" for name, line in of_ours if ".".join(name.split(".")[:2]) not in known]
    assert strangers == []


def test_engines_do_not_know_each_other():
    """Only the registry and the settings of stages/engines know the engines' rooms."""
    rooms = {path.parts[2] for path in under("stages") if path.parts[1] == "engines" and len(path.parts) == 4}
    assert {"infinitetalk", "test_pattern"} <= rooms
    for room in rooms:
        inside = [path for path in under("stages") if path.parts[1:3] == ("engines", room)]
        assert breaches(inside, {f"stages.engines.{other}" for other in rooms - {room}}) == []
    outside_rooms = [path for path in under("stages") if path.parts[1] != "engines"]
    assert breaches(outside_rooms, {f"stages.engines.{room}" for room in rooms}) == []


def test_what_the_driver_imports_of_the_stages_is_cheap():
    """A stage.py loads the heavy libraries in open(), which runs in the process that does the work."""
    dear = []
    for path in under("stages"):
        if path.name in ("stage.py", "settings.py", "records.py", "errors.py", "contract.py", "registry.py", "__init__.py"):
            for node in syntax(path).body:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                dear += [f"{path}:{node.lineno} imports {name}" for name in names if name.split(".")[0] in HEAVY]
    assert dear == []


def test_files_hold_one_idea():
    long = {str(path): lines for path in SOURCES if (lines := len((ROOT / path).read_text().splitlines())) > 400}
    assert long == {}


def test_no_two_modules_share_a_file_name():
    found = defaultdict(list)
    for path in PRODUCT:
        if path.parts[0] != "launch" or path.stem not in VERBS:  # a verb's file has the verb's name
            found[path.name].append(str(path))
    repeated = {name: paths for name, paths in found.items() if len(paths) > 1 and name not in SHARED_NAMES}
    assert repeated == {}


def test_no_two_types_share_a_name():
    found = defaultdict(list)
    for path in PRODUCT:
        for node in ast.walk(syntax(path)):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(f"{path}:{node.lineno}")
    repeated = {name: places for name, places in found.items() if len(places) > 1}
    assert repeated == {}


def test_rooms_do_not_import_each_other_in_a_cycle():
    assert set(cycles(rooms())) == set()


@pytest.mark.parametrize("package", FLOORS)
@pytest.mark.parametrize("statement", ["import {0}", "from {0} import anything", "import {0}.anything"])
def test_lint_refuses_an_import_without_the_namespace(package: str, statement: str):
    """`import stages` would load a second copy of each module, or another project's folder of that name."""
    code = statement.format(package) + "\n"
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", "--stdin-filename"]
    for file in ("stages/example.py", "tests/unit/test_example.py"):
        linted = subprocess.run([*command, file, "-"], cwd=ROOT, input=code, capture_output=True, text=True, check=False)
        assert "TID251" in linted.stdout, linted.stdout + linted.stderr


def test_modules_are_named_after_what_they_hold():
    assert [str(path) for path in SOURCES if VAGUE & {part.removesuffix(".py") for part in path.parts}] == []


def test_modules_say_what_they_are_for():
    assert [str(path) for path in SOURCES if not ast.get_docstring(syntax(path))] == []


def test_packages_hide_nothing():
    assert not set(FLOORS) & set(sys.stdlib_module_names)
    assert not list((ROOT / "tests").rglob("__init__.py")), "a package tests/pipeline would hide pipeline"


def loaded_after(code: str) -> set[str]:
    """The top-level modules in memory after `code` has run in a fresh interpreter."""
    report = "\nimport sys; print('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code + report], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize(
    "module", ["infinitedub.launch.cli", "infinitedub.pipeline.flow", "infinitedub.pipeline.run.stage_registry", "infinitedub.pipeline.config"]
)
def test_importing_the_driver_is_cheap(module: str):
    assert loaded_after(f"import {module}") & set(HEAVY) == set()


def test_help_is_cheap():
    loaded = loaded_after("import sys; sys.argv = ['dub', '--help']\nfrom infinitedub.launch.cli import main\nassert main() == 0")
    assert loaded & {*HEAVY, "hydra", "pyarrow", "fsspec", "numpy"} == set()


def test_looking_at_the_configuration_is_cheap():
    loaded = loaded_after("import sys; sys.argv = ['dub', 'run', '--cfg', 'job']\nfrom infinitedub.launch.cli import main\nassert main() == 0")
    assert loaded & set(HEAVY) == set()
