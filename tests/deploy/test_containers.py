"""The images and compose.yaml, really built and brought up. Run by `make test-containers`.

Needs a container engine with compose: `docker compose` with a daemon that answers, or podman with podman-compose. Base
images come from `PYTHON_IMAGE`, `PROMETHEUS_IMAGE` and `GRAFANA_IMAGE`, else from the stand-ins that
deploy/testing/standin-images.sh makes where they are present, else from the registries that compose.yaml names.
What cannot be had is skipped, and the reason says what to do.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import pytest
import yaml

pytestmark = pytest.mark.container

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_FILE = ROOT / "deploy/compose.yaml"
PROJECT = "swaptier-test"
"""Not the name in compose.yaml: a stack that somebody is using stays as it is."""
BUILD_SECONDS = 900
UP_SECONDS = 180
HEALTHY_SECONDS = 90
SERIES_SECONDS = 120
POLL_SECONDS = 0.5
STANDIN_SCRIPT = ROOT / "deploy/testing/standin-images.sh"
STANDINS = dict(re.findall(r"\$\{([A-Z]+_IMAGE):-(localhost/[^}]+)\}", STANDIN_SCRIPT.read_text()))
"""What that script makes, by the variable it stands for."""
PORTS = {
    "server": ("SERVER_METRICS_PORT", "/metrics"),
    "loadgen": ("LOADGEN_METRICS_PORT", "/metrics"),
    "prometheus": ("PROMETHEUS_PORT", "/-/ready"),
    "grafana": ("GRAFANA_PORT", "/api/health"),
}

Json = Any  # what a foreign program answers
Found = TypeVar("Found")


class Engine(NamedTuple):
    """A container engine and its compose."""

    cli: str
    compose: tuple[str, ...]

    @property
    def is_podman(self) -> bool:
        """Podman runs health checks by systemd timers; where there is no systemd, somebody else has to."""
        return self.cli == "podman"


class Stack(NamedTuple):
    """The composed services, up."""

    engine: Engine
    environ: dict[str, str]
    services: tuple[str, ...]
    containers: dict[str, str]
    """Container id by service."""

    def port(self, service: str) -> int:
        """The loopback port that *service* is published on."""
        return int(self.environ[PORTS[service][0]])


def _run(command: list[str], *, seconds: float = 60, environ: dict[str, str] | None = None) -> str:
    """Return the command's output, or fail with all it said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environ, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _succeeds(*command: str, seconds: float = 60) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=seconds, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def engine() -> Engine:
    """The engine of this machine, docker first."""
    if _succeeds("docker", "compose", "version") and _succeeds("docker", "info"):
        return Engine("docker", ("docker", "compose"))
    # Beside the running interpreter, when it is installed in the same environment.
    beside = shutil.which(
        "podman-compose", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    if shutil.which("podman") is None:
        pytest.skip("no container engine: neither a docker daemon with `docker compose` nor podman is here")
    if beside is None:
        pytest.skip("podman is here, podman-compose is not: pip install podman-compose")
    if not Path("/run/systemd/system").is_dir():  # as sd_booted(3) tells
        os.environ.setdefault("CONTAINERS_CONF", str(ROOT / "deploy/testing/containers.conf"))
    os.environ.setdefault("BUILDAH_FORMAT", "docker")  # the OCI format has no health check
    return Engine("podman", (beside,))


@pytest.fixture(scope="module")
def images(engine: Engine) -> dict[str, str]:
    """Which image stands for each base, Grafana left out where it cannot be had."""
    written = COMPOSE_FILE.read_text()
    chosen = {}
    for variable in ("PYTHON_IMAGE", "PROMETHEUS_IMAGE", "GRAFANA_IMAGE"):
        match = re.search(rf"\$\{{{variable}:-([^}}]+)\}}", written)
        assert match, variable
        standin = STANDINS.get(variable)
        image = os.environ.get(variable, "")
        if not image:
            image = standin if standin and _succeeds(engine.cli, "image", "inspect", standin) else match[1]
        is_here = _succeeds(engine.cli, "image", "inspect", image) or _succeeds(engine.cli, "pull", image, seconds=300)
        if is_here:
            chosen[variable] = image
        elif standin:
            pytest.skip(f"{image} is not here and cannot be pulled: deploy/testing/standin-images.sh makes a stand-in")
    return chosen


@pytest.fixture(scope="module")
def stack(engine: Engine, images: dict[str, str]) -> Iterator[Stack]:
    """Build both images, bring everything up, and take it all away again."""
    services = ("server", "loadgen", "prometheus", *(["grafana"] if "GRAFANA_IMAGE" in images else []))
    environ = {
        **os.environ,
        **images,
        "SWAPTIER_SERVER_IMAGE": "localhost/swaptier-server:test",
        "SWAPTIER_LOADGEN_IMAGE": "localhost/swaptier-loadgen:test",
        "SERVER_PORT": str(_free_port()),
        **{variable: str(_free_port()) for variable, _ in PORTS.values()},
    }
    compose = [*engine.compose, "--file", str(COMPOSE_FILE), "--project-name", PROJECT]
    _run([*compose, "build", "server", "loadgen"], seconds=BUILD_SECONDS, environ=environ)
    try:
        _run([*compose, "up", "--detach", *services], seconds=UP_SECONDS, environ=environ)
        containers = {service: _container(engine, service) for service in services}
        yield Stack(engine, environ, services, containers)
    finally:
        _run([*compose, "down", "--volumes"], seconds=UP_SECONDS, environ=environ)


def _container(engine: Engine, service: str) -> str:
    labels = (f"com.docker.compose.project={PROJECT}", f"com.docker.compose.service={service}")
    filters = [word for label in labels for word in ("--filter", f"label={label}")]
    found = _run([engine.cli, "ps", "--quiet", "--no-trunc", *filters]).split()
    assert len(found) == 1, f"{service}: {found}"
    return found[0]


def _until(stack: Stack, service: str, seconds: float, ask: Callable[[], Found | None]) -> Found:
    """Return what *ask* finds, asking until it finds something; fail when the service's container ends first."""
    container = stack.containers[service]
    deadline = time.monotonic() + seconds
    with subprocess.Popen([stack.engine.cli, "wait", container], stdout=subprocess.DEVNULL) as end:
        try:
            while (found := ask()) is None:
                assert time.monotonic() < deadline, f"{service}: nothing in {seconds} s\n{_logs(stack, service)}"
                try:
                    end.wait(POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
                pytest.fail(f"{service} ended\n{_logs(stack, service)}")
        finally:
            end.kill()
    return found


def _logs(stack: Stack, service: str) -> str:
    done = subprocess.run(
        [stack.engine.cli, "logs", "--tail", "40", stack.containers[service]],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def _get(port: int, path: str) -> str | None:
    """Return the answer, None while there is none."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.read().decode() if answer.status == 200 else None
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def _series(stack: Stack, expr: str) -> list[Json] | None:
    """Return what Prometheus has for *expr* now, None while it has nothing."""
    answer = _get(stack.port("prometheus"), f"/api/v1/query?query={quote(expr)}")
    return (json.loads(answer)["data"]["result"] or None) if answer else None


def _health(stack: Stack, service: str) -> str:
    """Return the container's health, checked now where nothing else checks it."""
    container = stack.containers[service]
    if stack.engine.is_podman:
        subprocess.run(["podman", "healthcheck", "run", container], capture_output=True, check=False)
    return _run([stack.engine.cli, "inspect", "--format", "{{.State.Health.Status}}", container]).strip()


def test_everything_with_a_health_check_becomes_healthy(stack: Stack) -> None:
    """The server says it serves, over grpc.health.v1, from inside its own container; so do the others in their way."""
    composed = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
    for service in stack.services:
        if service == "server" or "healthcheck" in composed[service]:
            _until(
                stack,
                service,
                HEALTHY_SECONDS,
                lambda service=service: _health(stack, service) == "healthy" or None,
            )


@pytest.mark.parametrize("service", ["server", "loadgen"])
def test_our_containers_have_no_power(stack: Stack, service: str) -> None:
    """No capability, no new privilege, no root, and not one byte to write on the root file system."""
    probe = (
        "import os, pathlib, json\n"
        "status = dict(l.split(':', 1) for l in pathlib.Path('/proc/1/status').read_text().splitlines())\n"
        "try:\n"
        "    open('/opt/swaptier/probe', 'w')\n"
        "except OSError as e:\n"
        "    status['write'] = type(e).__name__ + ' ' + os.strerror(e.errno)\n"
        "print(json.dumps({name: value.strip() for name, value in status.items()}))\n"
    )
    seen = json.loads(_run([stack.engine.cli, "exec", stack.containers[service], "python", "-c", probe]))
    assert int(seen["CapEff"], 16) == 0
    assert seen["NoNewPrivs"] == "1"
    assert seen["Seccomp"] == "2"
    assert seen["Uid"].split() == ["10001"] * 4
    assert seen["write"] == "OSError Read-only file system"


@pytest.mark.parametrize("service", list(PORTS))
def test_every_service_answers_on_its_loopback_port(stack: Stack, service: str) -> None:
    """What compose publishes can be reached from this machine."""
    if service not in stack.services:
        pytest.skip(f"{service} is not up: its image is not here and cannot be pulled")
    answer = _until(stack, service, HEALTHY_SECONDS, lambda: _get(stack.port(service), PORTS[service][1]))
    if PORTS[service][1] == "/metrics":
        assert "\nswaptier_" in answer


def test_prometheus_scrapes_both_sides(stack: Stack) -> None:
    """Both targets are up, as Prometheus sees them from inside the network."""
    for job in ("swaptier-server", "swaptier-loadgen"):
        _until(stack, "prometheus", SERIES_SECONDS, lambda job=job: _series(stack, f'up{{job="{job}"}} == 1'))


def test_faults_and_duplication_reach_prometheus_while_the_race_runs(stack: Stack) -> None:
    """Swap faults happen, pages are kept twice and counted by policy and cause, and the tier holds pages."""
    expressions = (
        "sum by (policy) (rate(swaptier_faults_total[30s])) > 0",
        "sum by (policy, cause) (increase(swaptier_dup_page_seconds_total[30s])) > 0",
        "sum by (area) (swaptier_tier_stored_pages) > 0",
        'sum by (mode, outcome) (rate(swaptier_tier_loads_total{outcome="hit"}[30s])) > 0',
    )
    for expr in expressions:
        found = _until(stack, "prometheus", SERIES_SECONDS, lambda expr=expr: _series(stack, expr))
        assert found, expr
        print(expr, *(f"  {one['metric']} {one['value'][1]}" for one in found), sep="\n")  # noqa: T201 - shown by -s


def test_grafana_has_the_dashboard(stack: Stack) -> None:
    """Provisioned, and found by its fixed uid without a password."""
    if "grafana" not in stack.services:
        pytest.skip("grafana is not up: its image is not here and cannot be pulled; set GRAFANA_IMAGE")
    answer = _until(
        stack, "grafana", HEALTHY_SECONDS, lambda: _get(stack.port("grafana"), "/api/dashboards/uid/swaptier")
    )
    assert json.loads(answer)["meta"]["provisioned"] is True


def test_stopping_the_server_lets_it_drain(stack: Stack) -> None:
    """SIGTERM reaches process 1, which ends by itself with status 0, long before the engine's patience does."""
    container = stack.containers["server"]
    _run([stack.engine.cli, "stop", "--time", "30", container], seconds=60)
    state = json.loads(_run([stack.engine.cli, "inspect", container]))[0]["State"]
    assert state["ExitCode"] == 0, _logs(stack, "server")
