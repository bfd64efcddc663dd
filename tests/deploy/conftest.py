"""What the tests of deploy/ read: the files themselves, parsed once."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


class Query(NamedTuple):
    """One PromQL expression, and where it stands."""

    where: str
    expr: str
    legend: str
    """Its legendFormat; empty for a rule."""


def _queries_of(dashboard: dict[str, object]) -> Iterator[Query]:
    panels = dashboard["panels"]
    assert isinstance(panels, list)
    for panel in panels:
        for target in panel.get("targets", []):
            yield Query(f"panel {panel['title']!r}", target["expr"], target["legendFormat"])


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def deploy() -> Path:
    """The folder under test."""
    return ROOT / "deploy"


@pytest.fixture(scope="session")
def compose() -> dict[str, dict[str, dict[str, object]]]:
    """compose.yaml, anchors resolved, variables not."""
    parsed = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    assert isinstance(parsed, dict)
    return parsed


@pytest.fixture(scope="session")
def dashboard() -> dict[str, object]:
    """The one dashboard."""
    parsed = json.loads((ROOT / "deploy/grafana/dashboards/swaptier.json").read_text())
    assert isinstance(parsed, dict)
    return parsed


@pytest.fixture(scope="session")
def panel_queries(dashboard: dict[str, object]) -> list[Query]:
    """Every expression of every panel, variables not substituted."""
    return list(_queries_of(dashboard))


@pytest.fixture(scope="session")
def rule_queries() -> list[Query]:
    """Every expression of every rule file."""
    return [
        Query(f"rule {rule.get('alert', rule.get('record'))!r}", rule["expr"], "")
        for path in sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


@pytest.fixture(scope="session")
def named_metrics(
    panel_queries: list[Query], rule_queries: list[Query], dashboard: dict[str, object]
) -> dict[str, str]:
    """Every metric that a panel, a variable or a rule names, and where."""
    templating = dashboard["templating"]
    assert isinstance(templating, dict)
    variables = [
        Query(f"variable {variable['name']!r}", variable["definition"], "")
        for variable in templating["list"]
        if variable["type"] == "query"
    ]
    named = {}
    for query in (*panel_queries, *rule_queries, *variables):
        # Quoted text is label values and regular expressions; a name with a colon is recorded by a rule of ours.
        bare = re.sub(r'"[^"]*"', '""', query.expr)
        for name in re.findall(r"(?<![\w:])(?:swaptier|grpc_server)_\w+", bare):
            named[name] = query.where
    return named
