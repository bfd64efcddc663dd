"""compose.yaml: valid, hardened, gated on health, and in agreement with the programs and files it starts."""

import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
import yaml
from tests.server.configuration import load_config

Compose = dict[str, dict[str, dict[str, object]]]
OURS = ("server", "loadgen")


def _strings(value: object) -> list[str]:
    assert isinstance(value, list)
    return [str(item) for item in value]


def _flags(service: dict[str, object]) -> dict[str, str]:
    """The flags of a service's command, with their values."""
    words = " ".join(_strings(service["command"])).replace("=", " ").split()
    return {
        word: following if not following.startswith("--") else ""
        for word, following in zip(words, [*words[1:], "--"], strict=True)
        if word.startswith("--")
    }


def _seconds(text: object) -> int:
    match = re.fullmatch(r"(\d+)s", str(text))
    assert match, text
    return int(match[1])


def test_it_satisfies_the_compose_specification(deploy: Path) -> None:
    """An unknown key or a wrong type is found without a container engine."""
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    found = subprocess.run([*check, str(deploy / "compose.yaml")], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_service_is_confined(compose: Compose) -> None:
    """Read-only root, no capabilities, no new privileges, and limits on memory, processors and processes."""
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        for limit in ("mem_limit", "cpus", "pids_limit"):
            assert service.get(limit), f"{name} has no {limit}"


def test_nothing_is_published_beyond_this_machine(compose: Compose) -> None:
    """Every published port is bound to the loopback address."""
    for name, service in compose["services"].items():
        for port in _strings(service["ports"]):
            assert port.startswith("127.0.0.1:"), f"{name} publishes {port}"


def test_public_images_are_pinned(compose: Compose) -> None:
    """A public image carries its registry and an exact version, and a variable can replace it."""
    for name, service in compose["services"].items():
        image = str(service["image"])
        assert re.fullmatch(r"\$\{[A-Z_]+:-[a-z.]+/[a-z/-]+:v?\d+\.\d+\.\d+\}", image), f"{name}: {image}"


def test_nobody_starts_before_what_it_needs_is_healthy(compose: Compose) -> None:
    """A dependency is a healthy service, and every service that is depended on says how to tell."""
    services = compose["services"]
    for name, service in services.items():
        depends_on = service.get("depends_on", {})
        assert isinstance(depends_on, dict), name
        for dependency, how in depends_on.items():
            assert how == {"condition": "service_healthy"}, f"{name} on {dependency}"
            # The server's health check is in its image.
            assert "healthcheck" in services[dependency] or dependency == "server"


def test_the_server_may_finish_draining_before_it_is_killed(compose: Compose) -> None:
    """The engine's patience is longer than the drain."""
    server = compose["services"]["server"]
    assert _seconds(server["stop_grace_period"]) > float(_flags(server)["--drain-seconds"])


@pytest.mark.parametrize(
    ("service", "command"), [("server", ["swaptier_server"]), ("loadgen", ["swaptier_loadgen", "race"])]
)
def test_every_flag_exists(compose: Compose, service: str, command: list[str]) -> None:
    """What compose passes is what the program's --help offers."""
    shown = subprocess.run(
        [sys.executable, "-m", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb", "PATH": "", "PYTHONPATH": ":".join(sys.path)},
    ).stdout
    offered = set(re.findall(r"--[a-z][a-z-]+", shown))
    flags = _flags(compose["services"][service])
    assert flags, "compose passes no flags at all"
    assert set(flags) <= offered


def test_the_server_takes_its_command_with_the_variables_of_its_image(
    compose: Compose, deploy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It listens beyond its container without TLS, so it has to be told that this is known; see the comment there."""
    dockerfile = (deploy.parent / "server/Dockerfile").read_text()
    for name, text in re.findall(
        r"(SWAPTIER_[A-Z_]+)=(\S+)", dockerfile.partition("\nENTRYPOINT")[0].rpartition("ENV ")[2]
    ):
        monkeypatch.setenv(name, text)
    config = load_config(_strings(compose["services"]["server"]["command"]))
    assert not config.listen.is_local
    assert config.insecure


def test_every_mounted_file_exists(compose: Compose, deploy: Path) -> None:
    """A bind mount of a missing folder would be made, empty, by the engine."""
    for name, service in compose["services"].items():
        for volume in _strings(service.get("volumes", [])):
            source, _, rest = volume.partition(":")
            if source.startswith("."):
                assert (deploy / source).is_dir(), f"{name}: {source}"
                assert rest.partition(":")[2].split(",")[0] == "ro", f"{name} can write {source}"
            else:
                assert source in compose["volumes"], f"{name}: {source}"


def _inside(compose: Compose, service: str, path: str, deploy: Path) -> Path:
    """The file of ours that *service* sees at *path*."""
    for volume in _strings(compose["services"][service]["volumes"]):
        source, target, *_ = volume.split(":")
        if PurePosixPath(path).is_relative_to(target) and source.startswith("."):
            return deploy / source / PurePosixPath(path).relative_to(target)
    raise AssertionError(f"{service} mounts nothing at {path}")


def test_prometheus_finds_its_configuration(compose: Compose, deploy: Path) -> None:
    """The file named by the command is one of ours, and its rule files are there."""
    config = _inside(compose, "prometheus", _flags(compose["services"]["prometheus"])["--config.file"], deploy)
    for pattern in yaml.safe_load(config.read_text())["rule_files"]:
        assert list(config.parent.glob(pattern)), pattern


def test_prometheus_scrapes_where_the_services_serve_metrics(compose: Compose, deploy: Path) -> None:
    """Each target is a service of compose at the port of its --metrics."""
    config = yaml.safe_load((deploy / "prometheus/prometheus.yml").read_text())
    targets = {
        target for job in config["scrape_configs"] for group in job["static_configs"] for target in group["targets"]
    }
    loadgen = _flags(compose["services"]["loadgen"])["--metrics"].rpartition(":")[2]
    dockerfile = (deploy.parent / "server/Dockerfile").read_text()
    server = re.search(r"SWAPTIER_METRICS=0\.0\.0\.0:(\d+)", dockerfile)
    assert server, "the server's image does not say where it serves metrics"
    assert targets == {f"server:{server[1]}", f"loadgen:{loadgen}"}


def test_grafana_finds_datasource_and_dashboards(compose: Compose, deploy: Path) -> None:
    """The provider's folder is mounted and holds the dashboard; the data source is the prometheus service."""
    provider = yaml.safe_load((deploy / "grafana/provisioning/dashboards/swaptier.yml").read_text())
    folder = _inside(compose, "grafana", provider["providers"][0]["options"]["path"], deploy)
    assert (folder / "swaptier.json").is_file()
    environment = compose["services"]["grafana"]["environment"]
    assert isinstance(environment, dict)
    home = _inside(compose, "grafana", environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"], deploy)
    assert home == folder / "swaptier.json"
    for kind in ("datasources", "dashboards"):
        assert _inside(compose, "grafana", f"/etc/grafana/provisioning/{kind}", deploy).is_dir()
    source = yaml.safe_load((deploy / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    host, port = re.fullmatch(r"http://([a-z]+):(\d+)", source["url"]).groups()  # type: ignore[union-attr]  # fails loudly
    assert any(mapping.endswith(f":{port}") for mapping in _strings(compose["services"][host]["ports"]))


def test_the_rate_interval_rests_on_the_scrape_interval(deploy: Path) -> None:
    """Grafana computes $__rate_interval from what the data source says Prometheus scrapes at."""
    source = yaml.safe_load((deploy / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    config = yaml.safe_load((deploy / "prometheus/prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
