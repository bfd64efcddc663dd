"""/metrics of the load generator: every series exists from the start, and follows the reports."""

import http.client
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tests.loadgen.builders import race_settings

from swaptier_loadgen.host.report import HostReport
from swaptier_loadgen.race.metrics import LatestReports, MetricsPortTaken, RaceCollector, serve

SETTINGS = race_settings(
    policies=("shared", "exclusive"), processes=1, threads=1, pages=8, resident=4, seed=5, install_failure_rate=0
)


@pytest.fixture
def latest() -> LatestReports:
    return LatestReports.of(SETTINGS)


@pytest.fixture
def registry(latest: LatestReports) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(RaceCollector(SETTINGS, latest))
    return registry


def test_every_series_of_every_policy_exists_at_zero(registry: CollectorRegistry) -> None:
    """increase() sees the first event: no series appears only when something happens."""
    series = {
        "swaptier_faults_total": {},
        "swaptier_fault_retries_total": {},
        "swaptier_minor_faults_total": {},
        "swaptier_install_failures_total": {"cause": "lock_contended"},
        "swaptier_install_failures_owed_total": {},
        "swaptier_lost_updates_total": {},
        "swaptier_detected_loss_total": {"reason": "crc"},
        "swaptier_discarded_total": {},
        "swaptier_dup_pages": {"cause": "store_rescued"},
        "swaptier_dup_bytes": {},
        "swaptier_dup_waste_bytes": {},
        "swaptier_dup_page_seconds_total": {"cause": "load_inflight"},
        "swaptier_dup_pages_peak": {},
        "swaptier_double_loads_total": {},
        "swaptier_wasted_recompress_total": {},
        "swaptier_tier_miss_must_exist_total": {},
        "swaptier_storeback_total": {"result": "rejected"},
        "swaptier_pin_waits_total": {},
        "swaptier_pin_enoent_total": {},
        "swaptier_orphan_entries": {},
        "swaptier_resident_pages": {},
        "swaptier_swapcache_pages": {},
        "swaptier_stores_total": {},
        "swaptier_store_rescued_total": {},
        "swaptier_zswpin_total": {},
        "swaptier_zswpout_total": {},
        "swaptier_pswpin_total": {},
        "swaptier_pswpout_total": {},
    }
    for name, label in series.items():
        for policy in SETTINGS.policies:
            for host in range(SETTINGS.hosts):
                labels = {"policy": policy, "area": f"{policy}-{host}", **label}
                assert registry.get_sample_value(name, labels) == 0, (name, labels)
    for source in ("device_zero", "device_old", "device_foreign", "tier_old"):
        labels = {"policy": "shared", "area": "shared-0", "source": source}
        assert registry.get_sample_value("swaptier_silent_stale_reads_total", labels) == 0
    assert registry.get_sample_value("swaptier_fault_seconds_count", {"policy": "shared"}) == 0


def test_metrics_follow_the_reports(latest: LatestReports, registry: CollectorRegistry) -> None:
    """A report put is what the next scrape shows, and only in its own area."""
    report = HostReport(
        corruptions_by_kind={"device_old": 2, "lost_update": 3},
        counters={"faults": 10, "install_failures.pte_changed": 4},
        duplicate_pages={"lease": 6},
        duplicate_page_seconds_by_cause={"lease": 1.5},
        latency_buckets=HostReport().latency_buckets | {"5e-05": 1, "0.0001": 2},
        latency_seconds_sum=0.5,
    )
    latest.put("shared", 1, report)
    area = {"policy": "shared", "area": "shared-1"}
    expected = {
        ("swaptier_silent_stale_reads_total", "source", "device_old"): 2,
        ("swaptier_lost_updates_total", "", ""): 3,
        ("swaptier_faults_total", "", ""): 10,
        ("swaptier_install_failures_total", "cause", "pte_changed"): 4,
        ("swaptier_dup_pages", "cause", "lease"): 6,
        ("swaptier_dup_page_seconds_total", "cause", "lease"): 1.5,
    }
    for (name, label, cause), value in expected.items():
        labels = {**area, **({label: cause} if label else {})}
        assert registry.get_sample_value(name, labels) == value, name
    assert registry.get_sample_value("swaptier_faults_total", {"policy": "shared", "area": "shared-0"}) == 0
    buckets = {
        bound: registry.get_sample_value("swaptier_fault_seconds_bucket", {"policy": "shared", "le": bound})
        for bound in ("5e-05", "0.0001", "+Inf")
    }
    assert buckets == {"5e-05": 1, "0.0001": 3, "+Inf": 3}


def test_what_is_raced_is_told() -> None:
    """One info series a policy, with its safety, the seed and the version; areas carry the race's name."""
    named = SETTINGS.model_copy(update={"name": "mine"})
    registry = CollectorRegistry()
    registry.register(RaceCollector(named, LatestReports.of(named)))
    info = {
        sample.labels["policy"]: sample.labels
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "swaptier_race_info"
    }
    assert info["shared"]["safe"] == "true"
    assert info["exclusive"]["safe"] == "false"
    assert info["shared"]["seed"] == "5"
    labels = {"policy": "shared", "area": "mine-shared-0"}
    assert registry.get_sample_value("swaptier_faults_total", labels) == 0


def test_a_scrape_over_http_works_and_a_taken_port_is_refused(latest: LatestReports) -> None:
    """On port 0; the second bind of the same port says so."""
    address = serve("127.0.0.1:0", RaceCollector(SETTINGS, latest))
    with urllib.request.urlopen(f"http://{address}/metrics") as response:  # our own port
        assert b"swaptier_fault_seconds_bucket" in response.read()
    with pytest.raises(MetricsPortTaken, match=address):
        serve(address, RaceCollector(SETTINGS, latest))


def test_metrics_are_for_who_has_the_token(latest: LatestReports, tmp_path: Path) -> None:
    """Where the tiers ask who calls, other machines need it; a file that cannot be used is refused."""
    token = "t" * 32
    (tmp_path / "token").write_text(f"{token}\n")
    address = serve("127.0.0.1:0", RaceCollector(SETTINGS, latest), tmp_path / "token", is_secured=True)
    for headers, status in (({"Authorization": f"Bearer {token}"}, 200), ({}, 401)):
        connection = http.client.HTTPConnection(address)
        connection.request("GET", "/metrics", headers=headers)
        with connection.getresponse() as response:
            assert (response.status, b"swaptier_fault_seconds_bucket" in response.read()) == (status, status == 200)
        connection.close()
    with pytest.raises(MetricsPortTaken, match="can be reached from other machines"):
        serve("0.0.0.0:0", RaceCollector(SETTINGS, latest), is_secured=True)
    (tmp_path / "token").write_text("short")
    with pytest.raises(MetricsPortTaken, match=r"--metrics-token: .* 32 or more"):
        serve("127.0.0.1:0", RaceCollector(SETTINGS, latest), tmp_path / "token")
