"""The dashboard, proved without Grafana: a real race, a real Prometheus, every panel's expression asked of it.

Skipped where no Prometheus is installed. Grafana's part is done here: the variables are substituted as it would, and
each expression goes through /api/v1/query_range, or /api/v1/query where the panel asks for one moment.
"""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = shutil.which("prometheus")
pytestmark = pytest.mark.skipif(
    PROMETHEUS is None, reason="prometheus is not installed: the panels' expressions are not run against real series"
)

POLICIES = ("exclusive", "exclusive-if-swapcache", "shared")
"""The bug, its fix, and the one that keeps pages twice."""
RACE_SECONDS = 3
"""Of each policy."""
START_SECONDS = 30
POLL_SECONDS = 0.2
SUBSTITUTES = {"$policy": ".*", "$area": ".*", "$__rate_interval": "4s", "$__range": "60s"}
"""What Grafana puts for "All", at the test's scrape interval of one second."""
EMPTY = {
    # Failed RPCs only: a healthy race has none, and a line of zeros for each status code would hide the first one.
    'sum by (grpc_code) (rate(grpc_server_handled_total{grpc_code!="OK"}[$__rate_interval])) > 0',
}
"""Expressions that find nothing in a healthy race."""

Json = Any  # what a foreign program answers


class Asked(NamedTuple):
    """One target of one panel."""

    title: str
    expr: str
    legend: str
    is_instant: bool


class Prometheus(NamedTuple):
    """A Prometheus that has seen a whole race."""

    port: int
    start: float
    """Seconds since the epoch, before the race."""
    end: float
    """After it."""

    def get(self, path: str, **parameters: str) -> Json:
        """Return the data of an API call that succeeded."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)) as connection:
            connection.request("GET", f"{path}?{urlencode(parameters)}")
            answer = connection.getresponse()
            text = answer.read().decode()
        assert answer.status == HTTPStatus.OK, f"{parameters}: {text}"
        return json.loads(text)["data"]

    @property
    def is_ready(self) -> bool:
        """It answers queries."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)) as connection:
            try:
                connection.request("GET", "/-/ready")
                return connection.getresponse().status == HTTPStatus.OK
            except ConnectionError:
                return False

    def ask(self, asked: Asked) -> list[Json]:
        """Return the series a panel would draw."""
        expr = asked.expr
        for variable, value in SUBSTITUTES.items():
            expr = expr.replace(variable, value)
        assert "$" not in expr, expr
        if asked.is_instant:
            found = self.get("/api/v1/query", query=expr, time=str(self.end))
        else:
            times = {"start": str(self.start), "end": str(self.end), "step": "1"}
            found = self.get("/api/v1/query_range", query=expr, **times)
        series: list[Json] = found["result"]
        return series


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait(process: subprocess.Popen[str], seconds: float) -> bool:
    """Let time pass, and tell whether *process* has ended meanwhile."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _configuration(folder: Path, targets: dict[str, str]) -> Path:
    """Write the deployed configuration, with these targets and a scrape a second."""
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(ROOT / "deploy/prometheus" / pattern) for pattern in config["rule_files"]]
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Run a server, a Prometheus and one race against them; Prometheus is still up when the race is over."""
    folder = tmp_path_factory.mktemp("prometheus")
    with (folder / "log").open("w") as log, _server(log) as server:
        assert server.stdout is not None
        ready = json.loads(server.stdout.readline())
        race_metrics, port = f"127.0.0.1:{_free_port()}", _free_port()
        targets = {"swaptier-server": ready["metrics"], "swaptier-loadgen": race_metrics}
        command = [
            str(PROMETHEUS),
            f"--config.file={_configuration(folder, targets)}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with subprocess.Popen(command, stdout=log, stderr=log, text=True) as watcher:
            try:
                _until_up(watcher, port, folder / "log")
                start = time.time()
                _race(ready["listening"], race_metrics, folder)
                _until_noticed(watcher, Prometheus(port, start, time.time()))
                yield Prometheus(port, start, time.time())
            finally:
                watcher.terminate()
                server.send_signal(signal.SIGTERM)


def _server(log: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "swaptier_server", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)


def _until_up(watcher: subprocess.Popen[str], port: int, log: Path) -> None:
    """Return when Prometheus has scraped the server."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert not _wait(watcher, POLL_SECONDS), log.read_text()
        asked = Prometheus(port, 0, 0)
        if asked.is_ready and asked.get("/api/v1/query", query='up{job="swaptier-server"} == 1')["result"]:
            return
    pytest.fail(f"Prometheus is not up after {START_SECONDS} s\n{log.read_text()}")


def _race(target: str, metrics: str, folder: Path) -> None:
    """Race the policies with failures injected, to the end."""
    flags = {
        "--target": target,
        "--policy": ",".join(POLICIES),
        "--hosts": "1",
        "--duration": str(RACE_SECONDS),
        "--seed": "1",
        "--install-failure-rate": "0.05",
        "--metrics": metrics,
        "--json": str(folder / "race.json"),
    }
    command = [sys.executable, "-m", "swaptier_loadgen", "race", *(word for flag in flags.items() for word in flag)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _until_noticed(watcher: subprocess.Popen[str], prometheus: Prometheus) -> None:
    """Return when Prometheus knows that the race is over: it has then seen all there was to see."""
    deadline = time.monotonic() + START_SECONDS
    while not prometheus.get("/api/v1/query", query='up{job="swaptier-loadgen"} == 0')["result"]:
        assert time.monotonic() < deadline, "the load generator's metrics are served after its end"
        assert not _wait(watcher, POLL_SECONDS)


@pytest.fixture(scope="module")
def asked(dashboard: dict[str, Any]) -> list[Asked]:
    """Every target of every panel."""
    return [
        Asked(panel["title"], target["expr"], target["legendFormat"], bool(target.get("instant")))
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]


def test_every_panel_shows_something(prometheus: Prometheus, asked: list[Asked]) -> None:
    """Each expression succeeds and finds a series, and every series has the labels its legend names."""
    empty = set()
    for one in asked:
        series = prometheus.ask(one)
        if not series:
            empty.add(one.expr)
        for label in re.findall(r"\{\{(\w+)\}\}", one.legend):
            assert all(found["metric"].get(label) for found in series), f"{one.title}: no {label} in {one.expr}"
    assert empty <= EMPTY


def test_every_variable_has_values(prometheus: Prometheus, dashboard: dict[str, Any]) -> None:
    """The policies and the areas of the race can be chosen."""
    values = {}
    for variable in dashboard["templating"]["list"]:
        if match := re.fullmatch(r"label_values\((\w+), (\w+)\)", variable.get("definition", "")):
            values[variable["name"]] = prometheus.get(
                f"/api/v1/label/{match[2]}/values", **{"match[]": match[1], "start": str(prometheus.start)}
            )
    assert set(values["policy"]) == set(POLICIES)
    assert set(values["area"]) == {f"{policy}-0" for policy in POLICIES}


def _by_policy(prometheus: Prometheus, asked: list[Asked], title: str) -> dict[str, float]:
    """The value of each bar of the panel called *title*."""
    panel = next(one for one in asked if one.title == title)
    return {series["metric"]["policy"]: float(series["value"][1]) for series in prometheus.ask(panel)}


def test_the_first_panels_tell_the_bug_from_its_fix(prometheus: Prometheus, asked: list[Asked]) -> None:
    """Wrong pages in red for the bug of March 2024 and none for the others; shared pays in pages kept twice."""
    wrong = _by_policy(prometheus, asked, "Pages that came back wrong")
    assert wrong["exclusive"] > 0
    assert wrong["exclusive-if-swapcache"] == wrong["shared"] == 0
    twice = _by_policy(prometheus, asked, "Time spent with pages kept twice")
    assert twice["shared"] > 0
    assert all(faults > 0 for faults in _by_policy(prometheus, asked, "Swap faults done").values())


def test_the_alerts_tell_the_demonstration_from_the_emergency(prometheus: Prometheus) -> None:
    """The bug's losses inform; nothing critical fires, not even now that the race is over."""
    firing = {
        (alert["labels"]["alertname"], alert["labels"]["policy"])
        for alert in prometheus.get("/api/v1/alerts")["alerts"]
    }
    assert firing == {("SwaptierUnsafePolicyCorruptedPage", "exclusive")}
