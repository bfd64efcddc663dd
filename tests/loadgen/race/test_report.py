"""Verdicts, exit statuses, the JSON document and the table."""

import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.cli.table import ALL_COLUMNS, WIDE_COLUMNS, tables
from swaptier_loadgen.host.latency import LatencyRecorder
from swaptier_loadgen.host.report import Ended, HostReport
from swaptier_loadgen.host.workload import WorkloadKind
from swaptier_loadgen.race.closing_sentence import closing_sentence
from swaptier_loadgen.race.report import document, exit_status, why_out_of_memory
from swaptier_loadgen.race.results import RunSummary, summarise
from swaptier_loadgen.race.server_flags import ServerFlags
from swaptier_loadgen.race.settings import RaceSettings
from swaptier_loadgen.race.verdict import Verdict, judge
from swaptier_wire.types import AreaOptions

SETTINGS = RaceSettings(
    policies=tuple(POLICIES),
    target=None,
    name="race",
    hosts=2,
    processes=2,
    threads=8,
    pages=512,
    resident=96,
    ops=1000,
    duration_seconds=None,
    seed=42,
    install_failure_rate=0.02,
    preemption_rate=0.1,
    corpus=Path("somewhere"),
)


def run(policy: str, ended: Ended = Ended.FINISHED, **facts: object) -> RunSummary:
    report = HostReport(ended=ended, **{"race_seconds": 2.0, **facts})  # type: ignore[arg-type]  # each test has its own
    return summarise(policy, [report])


@pytest.mark.parametrize(
    ("policy", "facts", "ended", "verdict", "status"),
    [
        ("shared", {}, Ended.FINISHED, Verdict.SAFE, 0),
        ("exclusive", {}, Ended.FINISHED, Verdict.NOT_SEEN, 0),
        ("exclusive", {"corruptions_by_kind": {"device_zero": 3}}, Ended.FINISHED, Verdict.AS_SPECIFIED, 0),
        ("exclusive", {"detected_losses_by_reason": {"crc": 1}}, Ended.FINISHED, Verdict.LOSES, 0),
        ("shared", {"detected_losses_by_reason": {"epoch": 1}, "lost_with_tier": 1}, Ended.FINISHED, Verdict.TELLS, 0),
        (
            "shared",
            {"detected_losses_by_reason": {"epoch": 2}, "lost_with_tier": 1, "tier_restarts": 1},
            Ended.FINISHED,
            Verdict.LOST,
            1,
        ),
        ("shared", {"corruptions_by_kind": {"lost_update": 1}}, Ended.FINISHED, Verdict.CORRUPTED, 1),
        ("shared", {"detected_losses_by_reason": {"crc": 1}}, Ended.FINISHED, Verdict.LOST, 1),
        ("shared", {"leaked_pages": 1}, Ended.FINISHED, Verdict.LEAKED, 1),
        ("shared", {"leaked_pages": 1, "tier_restarts": 1}, Ended.FINISHED, Verdict.SAFE, 0),
        ("no-bypass", {"detected_losses_by_reason": {"miss_must_exist": 1}}, Ended.FINISHED, Verdict.LOST, 1),
        (
            "no-bypass",
            {"detected_losses_by_reason": {"miss_must_exist": 1}, "reconnects": 1},
            Ended.FINISHED,
            Verdict.LOSES,
            0,
        ),
        (
            "claim",
            {"detected_losses_by_reason": {"miss_must_exist": 1}, "reconnects": 1},
            Ended.FINISHED,
            Verdict.LOST,
            1,
        ),
        ("store-back", {"detected_losses_by_reason": {"storeback_rejected": 1}}, Ended.FINISHED, Verdict.TELLS, 0),
        ("shared", {}, Ended.UNREACHABLE, Verdict.UNREACHABLE, 3),
        (
            "shared",
            {"detected_losses_by_reason": {"epoch": 5, "unreachable": 1}, "lost_with_tier": 5},
            Ended.UNREACHABLE,
            Verdict.UNREACHABLE,
            3,
        ),
        ("shared", {"corruptions_by_kind": {"device_old": 1}}, Ended.UNREACHABLE, Verdict.CORRUPTED, 1),
        ("exclusive", {"corruptions_by_kind": {"device_old": 1}}, Ended.UNREACHABLE, Verdict.AS_SPECIFIED, 3),
        ("shared", {}, Ended.REFUSED, Verdict.REFUSED, 3),
        ("exclusive", {"corruptions_by_kind": {"device_old": 1}}, Ended.REFUSED, Verdict.AS_SPECIFIED, 3),
        ("shared", {}, Ended.OUT_OF_MEMORY, Verdict.OUT_OF_MEMORY, 2),
        ("shared", {}, Ended.STOPPED, Verdict.STOPPED, 0),
    ],
)
def test_verdict_and_status_follow_the_specification(
    policy: str, facts: dict[str, object], ended: Ended, verdict: Verdict, status: int
) -> None:
    """Unsafe policies may corrupt, safe ones never; a tier that is gone is no verdict on a policy."""
    summary = run(policy, ended, **facts)
    assert summary.verdict is verdict
    assert exit_status([summary]) == status


def test_the_worst_policy_decides_the_status() -> None:
    """A corrupted safe policy outweighs an unreachable tier, which outweighs nothing."""
    corrupted = run("shared", corruptions_by_kind={"device_zero": 1})
    gone = run("no-bypass", Ended.UNREACHABLE)
    assert exit_status([gone, corrupted]) == 1
    assert exit_status([run("shared"), gone]) == 3
    assert exit_status([]) == 0


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


def test_the_document_has_the_fields_its_readers_rely_on() -> None:
    """Seed, workload and one run a policy, each with the fields promised; it survives JSON."""
    found = json.loads(json.dumps(document(SETTINGS, [run("shared"), run("exclusive")])))
    assert found["seed"] == 42
    assert found["workload"]["pages"] == 512
    assert [one["policy"] for one in found["runs"]] == ["shared", "exclusive"]
    promised = {
        *("policy", "verdict", "faults", "install_failures", "install_failures_owed", "silent_stale_reads"),
        *("lost_updates", "detected_losses", "discarded", "duplicate_pages_peak", "duplicate_page_seconds"),
        *("double_loads", "wasted_recompressions", "stores", "loads", "faults_per_second", "latency_us"),
    }
    assert promised <= set(found["runs"][0])
    assert set(found["runs"][0]["latency_us"]) == {"p50", "p99", "p999", "max"}


def test_the_document_names_the_policies_without_a_result() -> None:
    """A race that ended early does not pass them over in silence."""
    settings = dataclasses.replace(SETTINGS, policies=("shared", "exclusive", "claim"))
    assert document(settings, [run("shared")])["not_raced"] == ["exclusive", "claim"]
    assert document(settings, [run("shared"), run("exclusive"), run("claim")])["not_raced"] == []


def test_whoever_runs_out_of_memory_is_told_why_and_which_of_the_given_flags_to_change() -> None:
    """Flags that were not given are not named, and other ends say nothing."""
    full = run("shared", Ended.OUT_OF_MEMORY, message="none could be reclaimed")
    assert why_out_of_memory(SETTINGS, full) == "shared: out of memory: none could be reclaimed"
    settings = dataclasses.replace(
        SETTINGS,
        area_options=AreaOptions(pool_bytes_max=20_000, writeback=False),
        server_flags=ServerFlags(pool_limit="1MiB"),
    )
    for flag in ("--pool-limit 1MiB", "--zswap-max 20000", "--no-zswap-writeback"):
        assert flag in why_out_of_memory(settings, full)
    assert why_out_of_memory(settings, run("shared")) == ""


def render(summaries: list[RunSummary], width: int) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False, markup=False)
    for table in tables(summaries, width):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, WIDE_COLUMNS, ALL_COLUMNS, 200])
def test_the_table_fits_the_terminal_and_cuts_nothing_off(width: int) -> None:
    """With large numbers in every column, every name, number and verdict stands there whole."""
    recorder = LatencyRecorder()
    for milliseconds in (12, 12, 12, 123):
        recorder.record(milliseconds * 1_000_000)
    counters = {
        "faults": 123_456_789,
        "install_failures.zapped": 99_999,
        "double_loads": 99_999,
        "wasted_recompress": 999_999,
        "stores": 12_345_678,
        "loads": 12_345_678,
    }
    big = [
        run(
            policy,
            corruptions_by_kind={} if POLICIES[policy].is_safe else {"device_zero": 99_999},
            counters=counters,
            duplicate_pages_peak=4096,
            duplicate_page_seconds_by_cause={"lease": 1234.5},
            race_faults=24_691,
            first_corruption_seconds=86_400.0,
            latency_histograms=[recorder.encode()],
        )
        for policy in POLICIES
    ]
    drawn = render(big, width)
    assert max(map(len, drawn.splitlines())) <= width
    assert "…" not in drawn
    words = drawn.split()
    for expected in ("no-bypass", "exclusive-if-swapcache", "123.5M", "99999", "1234.5", "1000.0k", "12346", "12/123"):
        assert expected in words, expected
    assert drawn.count("safe") == sum(policy.is_safe for policy in POLICIES.values())


def test_a_narrow_terminal_gets_two_tables_with_the_same_columns() -> None:
    """Nothing is left out at 80 columns: the costs come in a table of their own."""
    wide, narrow = tables([run("shared")], ALL_COLUMNS), tables([run("shared")], 80)
    headings = [column.header for table in narrow for column in table.columns]
    assert sorted(headings) == sorted([*(column.header for column in wide[0].columns), "policy"])


def test_the_closing_sentence_names_both_sides() -> None:
    """Who handed out wrong bytes, how many pages, and who never did."""
    text = closing_sentence(
        [run("exclusive", corruptions_by_kind={"device_zero": 2}), run("shared", pages_checked=7), run("no-bypass")]
    )
    assert text == (
        "2 pages came back to programs with wrong bytes and no error under exclusive; not one did under shared and "
        "no-bypass: every byte of 7 pages read was compared with what was written."
    )


@pytest.mark.parametrize(
    ("summaries", "words"),
    [
        ([run("shared", corruptions_by_kind={"device_old": 1})], "defect"),
        ([run("shared", Ended.UNREACHABLE, message="no server there")], "no server there"),
        ([run("exclusive", corruptions_by_kind={"device_old": 1})], "1 page came back"),
        ([run("shared")], "Not one page"),
        ([run("exclusive")], "no policy that promises so"),
        ([], "no policy that promises so"),
    ],
)
def test_there_is_always_a_closing_sentence(summaries: list[RunSummary], words: str) -> None:
    """Whatever came of the race."""
    assert words in closing_sentence(summaries)


def test_a_failure_is_told_with_the_command_that_repeats_it() -> None:
    """Whoever reports the defect need not ask how it came about."""
    command = "swaptier-loadgen race --policy shared --seed 7"
    assert command in closing_sentence([run("shared", corruptions_by_kind={"device_zero": 1})], command)


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


def test_what_a_corrupting_policy_told_is_in_the_closing_sentence_too() -> None:
    """Silent and told losses are both losses."""
    words = closing_sentence(
        [run("exclusive", corruptions_by_kind={"device_zero": 3}, detected_losses_by_reason={"miss_must_exist": 5})]
    )
    assert "3 pages came back" in words
    assert "5 pages were lost under exclusive" in words


@pytest.mark.parametrize(
    ("told", "verdict"),
    [({"miss_must_exist": 5}, Verdict.TELLS), ({"miss_must_exist": 5, "crc": 1}, Verdict.LOST), ({}, Verdict.SAFE)],
)
def test_what_another_host_took_is_told_and_what_is_damaged_is_a_defect(told: dict[str, int], verdict: Verdict) -> None:
    """Two hosts on one area: claim must tell one of them. A page that cannot be read is lost for another reason."""
    report = HostReport(ended=Ended.FINISHED, detected_losses_by_reason=told)
    assert summarise("claim", [report], workload=WorkloadKind.TWO_HOSTS).verdict is verdict
