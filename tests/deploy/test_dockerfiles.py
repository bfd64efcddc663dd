"""The Dockerfiles: lint, the conventions of a small safe image, and requirements that agree with everyone else's."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

DOCKERFILES = ("server/Dockerfile", "loadgen/Dockerfile", "deploy/testing/prometheus.Dockerfile")
IMAGES = ("server", "loadgen")


def _pins(requirements: Path) -> dict[str, str]:
    """Package and version of each line of a compiled requirements file."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", requirements.read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", DOCKERFILES)
def test_hadolint_finds_nothing(root: Path, path: str) -> None:
    """Every exception is on its line in the file."""
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([hadolint, root / path], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("side", IMAGES)
def test_the_image_runs_as_a_number_and_takes_signals(root: Path, side: str) -> None:
    """Kubernetes can check that a numeric user is not root; a shell as process 1 would swallow SIGTERM."""
    lines = (root / side / "Dockerfile").read_text().splitlines()
    assert re.fullmatch(r"USER [1-9]\d+:[1-9]\d+", next(line for line in lines if line.startswith("USER ")))
    assert f'ENTRYPOINT ["swaptier-{side}"]' in lines
    assert "STOPSIGNAL SIGTERM" in lines
    assert any(line.startswith("HEALTHCHECK ") for line in lines)


@pytest.mark.parametrize("side", IMAGES)
def test_only_the_environment_reaches_the_image(root: Path, side: str) -> None:
    """The last stage copies one folder from the build, and nothing from the repository."""
    last = (root / side / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert re.findall(r"^COPY .*$", last, re.MULTILINE) == ["COPY --from=build /opt/swaptier /opt/swaptier"]


@pytest.mark.parametrize("side", IMAGES)
def test_the_image_is_labelled_with_this_version(root: Path, side: str) -> None:
    """The label, compose's tag and the package carry one version."""
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert f"ARG VERSION={version}\n" in (root / side / "Dockerfile").read_text()
    assert f"swaptier-{side}:{version}}}" in (root / "deploy/compose.yaml").read_text()


@pytest.mark.parametrize("path", ["server/requirements.txt", "loadgen/requirements.txt"])
def test_images_and_developers_run_the_same_versions(root: Path, path: str) -> None:
    """Every pin of an image is the pin `make test` has passed with."""
    tested = _pins(root / "requirements.txt")
    assert {name: (pin, tested.get(name)) for name, pin in _pins(root / path).items() if pin != tested.get(name)} == {}


@pytest.mark.parametrize(
    "path", ["server/requirements.txt", "loadgen/requirements.txt", "deploy/requirements-build.txt"]
)
def test_every_requirement_is_hashed_and_names_no_index(root: Path, path: str) -> None:
    """A build takes these bytes or fails, from wherever the builder's pip looks."""
    text = (root / path).read_text()
    assert _pins(root / path)
    for block in re.split(r"\n(?=[a-z])", text):
        if "==" in block:
            assert "--hash=sha256:" in block, block
    assert "://" not in text


@pytest.mark.parametrize(("side", "extra"), [("server", "server"), ("loadgen", "loadgen")])
def test_what_the_package_asks_for_is_in_its_image(root: Path, side: str, extra: str) -> None:
    """A dependency added to pyproject.toml and forgotten here would be missing at run time: images resolve nothing."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"][extra]]
    names = {match[0] for line in wanted if (match := re.match(r"[A-Za-z0-9-]+", line))} - {"swaptier"}
    assert names <= set(_pins(root / side / "requirements.txt"))
