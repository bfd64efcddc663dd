"""One wheel with five uniquely named packages, from pins that satisfy what pyproject.toml asks for."""

import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [
    Requirement(line)
    for lines in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for line in lines
    if not line.startswith("swaptier[")
]
PACKAGES = {"swaptier", "swaptier_wire", "swaptier_server", "swaptier_client", "swaptier_loadgen"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel, built from this tree."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    built = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    [path] = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_installs_our_five_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """A module called `proto` would silently overwrite proto-plus, `server` and `client` half the world's scripts."""
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES


def test_the_wheel_holds_types_contract_and_license(wheel: zipfile.ZipFile) -> None:
    """Users of the packages get their types, other languages the contract."""
    names = set(wheel.namelist())
    assert {f"{package}/py.typed" for package in PACKAGES - {"swaptier"}} <= names
    assert {"swaptier/v1/swaptier.proto", "swaptier/v1/swaptier_pb2.pyi"} <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_holds_no_tests_and_no_leftovers(wheel: zipfile.ZipFile) -> None:
    """Only what runs."""
    suffixes = {Path(name).suffix for name in wheel.namelist() if ".dist-info/" not in name}
    assert suffixes <= {".py", ".pyi", ".proto", ".typed"}, suffixes
    assert not [name for name in wheel.namelist() if "test" in name]


@pytest.mark.parametrize(("script", "target"), sorted(PROJECT["scripts"].items()))
def test_every_command_exists(script: str, target: str) -> None:
    """A console script that points nowhere fails only when somebody types it."""
    module, function = target.split(":")
    code = f"import {module}; assert callable({module}.{function})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{script}: {run.stderr}"


def gencode_floor(pattern: str, name: str) -> Version:
    """Return the version that the checked-in gencode *name* says it needs, by *pattern*."""
    found = re.search(pattern, (ROOT / "proto/swaptier/v1" / name).read_text())
    assert found, name
    return Version(found[1])


def test_the_floors_are_what_the_gencode_asks_for() -> None:
    """Gencode refuses an older runtime when it is imported; a resolver has to know that before."""
    floors = {"grpcio": gencode_floor(r"GRPC_GENERATED_VERSION = '(.*)'", "swaptier_pb2_grpc.py")}
    floors["protobuf"] = gencode_floor(r"# Protobuf Python Version: (.*)", "swaptier_pb2.py")
    asked = {Requirement(line).name: Requirement(line) for line in PROJECT["dependencies"]}
    for name, floor in floors.items():
        [least] = [Version(part.version) for part in asked[name].specifier if part.operator == ">="]
        assert least == floor, f"{name}: pyproject.toml says {least}, the gencode {floor}"
    assert f"grpcio-tools=={floors['grpcio']}" in PROJECT["optional-dependencies"]["dev"]


def test_every_dependency_is_pinned_to_a_version_it_allows() -> None:
    """`make lock` follows every change of a dependency in pyproject.toml."""
    pins = dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    for requirement in REQUIREMENTS:
        name = requirement.name.lower().replace("_", "-")
        assert name in pins, f"{name} is not pinned: run `make lock`"
        assert pins[name] in requirement.specifier, f"{requirement} but {pins[name]} is pinned: run `make lock`"


def test_every_dependency_has_an_upper_bound() -> None:
    """A release that breaks what we call comes in when somebody raises the bound, and by no fresh install before."""
    for requirement in REQUIREMENTS:
        operators = {part.operator for part in requirement.specifier}
        assert operators & {"<", "=="}, f"{requirement} has no upper bound"


def test_every_pin_is_hashed() -> None:
    """An install takes exactly the bytes that were tested, wherever pip finds them."""
    for block in re.split(r"\n(?=[a-z])", (ROOT / "requirements.txt").read_text()):
        if "==" in block:
            assert "--hash=sha256:" in block, block


def test_help_lists_every_target_of_the_makefile() -> None:
    """A target nobody can find is not there."""
    makefile = (ROOT / "Makefile").read_text()
    [phony] = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    listed = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.findall(r"^  make ([a-z-]+) ", listed.stdout, re.MULTILINE) == [t for t in phony.split() if t[0] != "."]
