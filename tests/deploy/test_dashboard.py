"""The dashboard's file: what Grafana would trip over, and what a reader would miss."""

import re
from itertools import combinations
from typing import Any

import pytest

GRID_COLUMNS = 24
DESCRIPTION_LENGTH_MIN = 60
"""A description that teaches is longer than a title."""
SILENT = ("row", "text")
"""Panel types without a query."""

Panel = dict[str, Any]  # JSON


@pytest.fixture
def panels(dashboard: dict[str, Any]) -> list[Panel]:
    """All of them, rows included."""
    assert all(not panel.get("panels") for panel in dashboard["panels"]), (
        "a collapsed row hides panels from these tests"
    )
    return list(dashboard["panels"])


@pytest.fixture
def graphs(panels: list[Panel]) -> list[Panel]:
    """Those that query something."""
    return [panel for panel in panels if panel["type"] not in SILENT]


def test_it_can_be_provisioned_again_and_again(dashboard: dict[str, Any]) -> None:
    """A fixed uid keeps links alive; an id would belong to one database."""
    assert dashboard["uid"] == "swaptier"
    assert dashboard["id"] is None


def test_panel_ids_are_unique(panels: list[Panel]) -> None:
    """Grafana drops one of two panels with the same id."""
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids))


def test_panels_lie_in_the_grid_and_do_not_overlap(panels: list[Panel]) -> None:
    """Grafana moves what overlaps, and the picture is no longer the one that was drawn."""
    places = [(panel["title"], panel["gridPos"]) for panel in panels]
    for title, place in places:
        assert place["w"] > 0, title
        assert place["h"] > 0, title
        assert place["x"] >= 0, title
        assert place["x"] + place["w"] <= GRID_COLUMNS, title
    for (one, a), (other, b) in combinations(places, 2):
        is_apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert is_apart, f"{one} overlaps {other}"


def test_every_graph_says_what_it_shows_and_in_what_unit(graphs: list[Panel]) -> None:
    """Title, unit, and a description a newcomer learns from."""
    for panel in graphs:
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert len(panel["description"]) >= DESCRIPTION_LENGTH_MIN, panel["title"]
    titles = [panel["title"] for panel in graphs]
    assert len(titles) == len(set(titles))


def test_every_query_uses_the_chosen_data_source(graphs: list[Panel]) -> None:
    """A uid of one installation would be a broken panel in the next."""
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in graphs:
        assert panel["datasource"] == chosen, panel["title"]
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == chosen, panel["title"]
            assert target["legendFormat"], panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs)), panel["title"]


def test_rates_fit_every_zoom(graphs: list[Panel]) -> None:
    """A rate uses $__rate_interval, a sum over the picture $__range; a fixed window is wrong at some zoom."""
    for panel in graphs:
        for target in panel["targets"]:
            windows = set(re.findall(r"\[([^\]]*)\]", target["expr"]))
            expected = {"$__range"} if target.get("instant") else {"$__rate_interval"}
            assert windows <= expected, f"{panel['title']}: {target['expr']}"


def test_the_variables_reach_every_query_that_has_their_label(dashboard: dict[str, Any], graphs: list[Panel]) -> None:
    """Choosing a policy or an area narrows all panels, not some of them."""
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert variables == {"datasource", "policy", "area"}
    for panel in graphs:
        for target in panel["targets"]:
            expr = target["expr"]
            used = set(re.findall(r"\$(?!__)\{?(\w+)", expr))
            assert used <= variables, expr
            for label in ("policy", "area"):
                if re.search(rf"by \([^)]*\b{label}\b", expr):
                    assert f'{label}=~"${label}"' in expr, expr


def test_a_legend_names_labels_that_the_query_keeps(graphs: list[Panel]) -> None:
    """A label summed away would leave a hole in the legend."""
    for panel in graphs:
        for target in panel["targets"]:
            kept = {
                label.strip() for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in group.split(",")
            }
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept, target["expr"]
