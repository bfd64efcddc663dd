"""The rules: valid, unit-tested by promtool, and explained to whoever is woken by them."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed (it comes with Prometheus): the rules are not run"
)


def _promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    return subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)


@needs_promtool
def test_promtool_accepts_configuration_and_rules(deploy: Path) -> None:
    """Prometheus would start with these files."""
    found = _promtool("check", "config", deploy / "prometheus/prometheus.yml")
    assert found.returncode == 0, found.stdout + found.stderr


@needs_promtool
def test_alerts_fire_when_their_tests_say_and_not_before(deploy: Path) -> None:
    """Each rule has a unit test with made-up series; a page lost a minute ago fires, a quiet counter does not."""
    tests = sorted((deploy / "prometheus/tests").glob("*.yml"))
    assert tests
    found = _promtool("test", "rules", *tests)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_alert_is_unit_tested_and_explained(deploy: Path) -> None:
    """An alert says how bad it is, what happened and what to do."""
    tested = "".join(path.read_text() for path in (deploy / "prometheus/tests").glob("*.yml"))
    for path in (deploy / "prometheus/rules").glob("*.yml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                if "record" in rule:
                    continue
                assert f"alertname: {rule['alert']}\n" in tested
                assert rule["labels"]["severity"] in {"critical", "warning", "info"}
                assert rule["annotations"]["summary"]
                assert rule["annotations"]["description"]
