"""Dashboard, variables and rules name metrics that the programs really expose, and leave none out by oversight."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from swaptier_loadgen.race.metrics import LatestReports, RaceCollector
from swaptier_loadgen.race.settings import RaceSettings

ANSWER_SECONDS = 20

NOT_SHOWN = {
    "swaptier_build_info": "what runs, not how it fares",
    "swaptier_tier_areas": "the areas themselves are in every tier panel's legend",
    "swaptier_tier_areas_expired_total": "housekeeping; for an alert, not for a picture",
    "swaptier_tier_pool_accepting": "rejects and limit hits show it with its effect",
    "swaptier_tier_ready": "for an alert",
    "swaptier_tier_written_back_pages_total": "pages on the device are shown; this is how they came there",
    "swaptier_tier_reject_reclaim_fail_total": "for an alert; a device in memory takes every page",
    "swaptier_tier_handed_off_pages": "shown as duplication, cause lease",
    "swaptier_tier_leases_begun_total": "loads by mode show the claims",
    "swaptier_tier_acknowledges_total": "one for each page claimed into a swapcache",
    "swaptier_floods_total": "for an alert; the log names the caller",
    "swaptier_log_lines_left_out_total": "the log says it in its place",
    "swaptier_store_rescued_total": "shown as duplication, cause store_rescued",
    "swaptier_stores_total": "the tier's own count, by outcome, is shown",
    "swaptier_loads_total": "the tier's own count, by mode and outcome, is shown",
    "swaptier_zswpwb_total": "the tier's own figure; a race's pool seldom gets so full",
    "swaptier_swap_ra_total": "a race reads ahead only when asked to",
    "swaptier_swap_ra_hit_total": "a race reads ahead only when asked to",
    "swaptier_swpin_zero_total": "a race has a zeromap only when asked to",
    "swaptier_swpout_zero_total": "a race has a zeromap only when asked to",
    "swaptier_ops_total": "faults are what matters of them",
    "swaptier_pages_checked_total": "in the report",
}
"""Exposed, and left out of the dashboard for a reason."""


def _names(exposition: str) -> set[str]:
    """Every name a query can use: of a histogram its buckets, of a counter its total."""
    names = set()
    for family in text_string_to_metric_families(exposition):
        names |= {"counter": {f"{family.name}_total"}, "histogram": {f"{family.name}_bucket"}}.get(
            family.type, {family.name}
        )
    return names


@pytest.fixture(scope="module")
def server_names() -> Iterator[set[str]]:
    """What a real server exposes, fetched from its port."""
    command = [sys.executable, "-m", "swaptier_server", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            host, _, port = str(json.loads(server.stdout.readline())["metrics"]).rpartition(":")
            with closing(HTTPConnection(host, int(port), timeout=ANSWER_SECONDS)) as connection:
                connection.request("GET", "/metrics")
                exposition = connection.getresponse().read().decode()
            yield _names(exposition)
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def loadgen_names() -> set[str]:
    """What a race exposes before its first fault."""
    settings = RaceSettings(hosts=1)
    registry = CollectorRegistry()
    registry.register(RaceCollector(settings, LatestReports.of(settings)))
    return _names(generate_latest(registry).decode())


def test_every_metric_that_is_named_is_exposed(
    named_metrics: dict[str, str], server_names: set[str], loadgen_names: set[str]
) -> None:
    """A renamed metric would leave an empty panel, or an alert that never fires."""
    exposed = server_names | loadgen_names
    assert {name: where for name, where in named_metrics.items() if name not in exposed} == {}


def test_every_metric_that_is_exposed_is_shown_or_left_out_for_a_reason(
    named_metrics: dict[str, str], server_names: set[str], loadgen_names: set[str]
) -> None:
    """A new metric gets its place on the dashboard, or a line here."""
    exposed = {name for name in server_names | loadgen_names if name.startswith("swaptier_")}
    assert exposed - set(named_metrics) - set(NOT_SHOWN) == set()
    assert set(NOT_SHOWN) <= exposed, "a reason is given for a metric that no longer exists"
    assert not set(NOT_SHOWN) & set(named_metrics), "a reason is given for a metric that is shown"
