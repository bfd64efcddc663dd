"""The results of a policy: sums over its hosts, what follows from them, and the verdict."""

import pytest
from tests.loadgen.summaries import run

from swaptier_loadgen.host.latency import LatencyRecorder
from swaptier_loadgen.host.report import Ended, HostReport
from swaptier_loadgen.host.report_field import UNPUBLISHED, Metric, declarations
from swaptier_loadgen.host.workload import WorkloadKind
from swaptier_loadgen.race.metrics import SERIES
from swaptier_loadgen.race.results import document_of, summarise
from swaptier_loadgen.race.verdict import Verdict, judge


def test_a_field_that_is_declared_is_in_the_document_and_a_metric_that_is_declared_is_served() -> None:
    """A new count costs one declaration: nothing else lists the fields of a report."""
    declared = declarations(HostReport)
    published = {name for name, said in declared.items() if UNPUBLISHED not in said}
    assert published <= set(document_of(run("shared")))
    assert not set(document_of(run("shared"))) & (set(declared) - published)
    metrics = {part.name or name for name, said in declared.items() for part in said if isinstance(part, Metric)}
    assert metrics <= {series.metric.name for series in SERIES}


def test_hosts_are_added_up() -> None:
    """Counts are sums, latencies are merged, rates are over the longest host."""
    recorder = LatencyRecorder()
    recorder.record(2_000_000)
    report = HostReport(
        ended=Ended.FINISHED,
        race_seconds=2.0,
        race_faults=100,
        counters={"faults": 120, "install_failures.pte_changed": 3, "install_failures.read_error": 1},
        corruptions_by_kind={"device_zero": 2, "lost_update": 1},
        owed_fates={"read_wrong": 2},
        duplicate_page_seconds_by_cause={"load_shared": 1.5},
        duplicate_pages_peak=4,
        latency_histograms=[recorder.encode()],
    )
    summary = summarise("exclusive", [report, report])
    assert (summary.faults, summary.install_failures) == (240, 8)
    assert (summary.silent_stale_reads, summary.lost_updates) == (4, 2)
    assert summary.faults_per_second == 100
    assert (summary.duplicate_pages_peak, summary.duplicate_page_seconds) == (8, 3.0)
    assert summary.latency_us.p50 == pytest.approx(2000, rel=0.001)


def test_what_was_found_counts_before_how_it_ended() -> None:
    """A policy that corrupted is not excused by a stop."""
    assert judge(is_safe=True, ended=Ended.STOPPED, corrupted=1, lost=0, leaked=0) is Verdict.CORRUPTED
    assert judge(is_safe=False, ended=Ended.STOPPED, corrupted=1, lost=0, leaked=0) is Verdict.AS_SPECIFIED


@pytest.mark.parametrize(
    ("reason", "ended", "verdict"),
    [
        ("unreachable", Ended.UNREACHABLE, Verdict.UNREACHABLE),
        ("unreachable", Ended.STOPPED, Verdict.STOPPED),
        ("unreachable", Ended.FINISHED, Verdict.LOST),
        ("epoch", Ended.STOPPED, Verdict.LOST),
        ("epoch", Ended.UNREACHABLE, Verdict.LOST),
    ],
)
def test_a_durable_tier_that_is_gone_is_no_policys_fault_and_one_that_came_back_without_a_page_is(
    reason: str, ended: Ended, verdict: Verdict
) -> None:
    """Who stops a race, or loses its tier for good, has not found a defect; a restart takes no page from a disk."""
    report = HostReport(ended=ended, detected_losses_by_reason={reason: 2}, tiers_are_durable=True)
    assert summarise("claim", [report]).verdict is verdict


def test_one_of_several_durable_tiers_that_died_took_its_pages_and_one_that_lives_did_not() -> None:
    """The race goes on with the others to its end; what was on the dead one is out of reach."""
    lost = {"ended": Ended.FINISHED, "detected_losses_by_reason": {"unreachable": 2}, "tiers_are_durable": True}
    for dead, verdict in ((1, Verdict.TELLS), (0, Verdict.LOST)):
        report = HostReport(**lost | {"tiers_dead": dead})
        assert summarise("claim", [report]).verdict is verdict


def test_a_host_that_never_got_to_its_tier_says_nothing_of_what_that_keeps() -> None:
    """Else a page that a durable tier lost would be excused because another host was refused."""
    lost = HostReport(
        ended=Ended.FINISHED, detected_losses_by_reason={"epoch": 1}, lost_with_tier=1, tiers_are_durable=True
    )
    refused = HostReport(ended=Ended.REFUSED)
    assert summarise("claim", [lost, refused]).verdict is Verdict.LOST


@pytest.mark.parametrize(
    ("told", "verdict"),
    [({"miss_must_exist": 5}, Verdict.TELLS), ({"miss_must_exist": 5, "crc": 1}, Verdict.LOST), ({}, Verdict.SAFE)],
)
def test_what_another_host_took_is_told_and_what_is_damaged_is_a_defect(told: dict[str, int], verdict: Verdict) -> None:
    """Two hosts on one area: claim must tell one of them. A page that cannot be read is lost for another reason."""
    report = HostReport(ended=Ended.FINISHED, detected_losses_by_reason=told)
    assert summarise("claim", [report], workload=WorkloadKind.TWO_HOSTS).verdict is verdict
