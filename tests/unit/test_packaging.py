"""What a user installs is whole: the wheel, built by way of the source archive, carries code, values, the tiny model and the demo."""

import re
import subprocess
import sys
import tomllib
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("assets", "conf", "launch", "pipeline", "stages")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    """The wheel as `make wheel` builds it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return ZipFile(next(folder.glob("*.whl")))


def metadata(wheel: ZipFile, name: str) -> bytes:
    return wheel.read(next(entry for entry in wheel.namelist() if re.fullmatch(rf"infinitedub-[^/]+\.dist-info/{name}", entry)))


def test_the_wheel_carries_every_file_of_its_packages(wheel: ZipFile):
    on_disk = {f"infinitedub/{path.relative_to(ROOT).as_posix()}" for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    on_disk = {name for name in on_disk if "__pycache__" not in name}
    assert {"infinitedub/conf/run.yaml", "infinitedub/pipeline/flow.py", "infinitedub/assets/demo/catalogue.jsonl"} <= on_disk
    assert on_disk - set(wheel.namelist()) == set()


def test_the_wheel_carries_nothing_else(wheel: ZipFile):
    assert {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name} == {"infinitedub"}


def test_every_package_says_so(wheel: ZipFile):
    """Folders with code have an __init__.py, so that they are found from a zip and by type checkers alike."""
    names = set(wheel.namelist())
    folders = {name.rpartition("/")[0] for name in names if name.endswith(".py") and ".dist-info" not in name}
    assert {folder for folder in folders if f"{folder}/__init__.py" not in names} == set()


def test_the_wheel_brings_the_command_and_the_licence(wheel: ZipFile):
    assert "dub = infinitedub.launch.cli:main" in metadata(wheel, r"entry_points\.txt").decode()
    about = message_from_bytes(metadata(wheel, "METADATA"))
    assert (about["Name"], about["License-Expression"], about["Requires-Python"]) == ("infinitedub", "Apache-2.0", ">=3.11")
    assert b"Apache License" in metadata(wheel, "licenses/LICENSE")


def test_the_constraints_satisfy_every_requirement():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    extras = PROJECT["project"]["optional-dependencies"].values()
    wanted = [Requirement(text) for text in [*PROJECT["project"]["dependencies"], *(text for extra in extras for text in extra)]]
    missed = [str(want) for want in wanted if not want.specifier.contains(pinned.get(canonicalize_name(want.name), "0"))]
    assert missed == []


def test_no_pin_names_a_build():
    """`torch==2.13.0+cpu` could not be installed from an index that has the CUDA build alone."""
    assert "+" not in re.sub(r"#.*", "", (ROOT / "constraints.txt").read_text())
