"""The product's modules have the namespace `infinitedub`, so no folder in a user's working directory takes their place."""

import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from infinitedub.stages.records import Artifact, Span
from tests.shadowing import NAMES, shadow

ROOT = Path(__file__).resolve().parents[2]
CONSOLE_SCRIPT = [str(Path(sys.executable).with_name("dub"))]
MODULE = [sys.executable, "-m", "infinitedub.launch.cli"]


@pytest.mark.parametrize("command", [MODULE, CONSOLE_SCRIPT], ids=["module", "console_script"])
def test_packages_of_the_user_do_not_shadow_the_command(command: list[str], tmp_path: Path):
    shadow(tmp_path)
    done = subprocess.run([*command, "run", "--cfg", "job"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "generate:" in done.stdout


def test_the_packages_of_the_user_fail_when_they_are_imported(tmp_path: Path):
    shadow(tmp_path)
    for name in NAMES:
        done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert "a package of the user was imported" in done.stderr


@pytest.mark.parametrize("record", [Span(0, 1), Artifact("file:///a", "00", 1, "sound/flac")])
def test_a_pickled_record_names_its_module_with_the_namespace(record: object):
    pickled = pickle.dumps(record)
    assert type(record).__module__.startswith("infinitedub.")
    assert b"infinitedub.stages.records" in pickled
    assert pickle.loads(pickled) == record


def test_every_class_has_a_module_in_the_namespace():
    """Ray pickles classes by module and name, and a worker imports the module by that name."""
    strangers = []
    for path in sorted(path for floor in ("stages", "pipeline", "launch") for path in (ROOT / floor).rglob("*.py")):
        name = ".".join(["infinitedub", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
        module = import_module(name)
        if Path(module.__file__ or "").name != path.name:
            strangers.append(f"{name} is {module.__file__}")
        types = [value for value in vars(module).values() if isinstance(value, type)]
        strangers += [f"{name}.{kind.__name__} is of {kind.__module__}" for kind in types if kind.__module__.split(".")[0] in NAMES]
    assert strangers == []
    assert not set(NAMES) & {name.split(".")[0] for name in sys.modules}
