"""Verdicts, exit statuses and the JSON document."""

import json
from dataclasses import replace

import pytest
from tests.loadgen.builders import race_settings
from tests.loadgen.summaries import run

from swaptier_loadgen.cli.statuses import exit_status
from swaptier_loadgen.host.report import Ended
from swaptier_loadgen.race.report import document, never_came, why_out_of_memory
from swaptier_loadgen.race.server_flags import ServerFlags
from swaptier_loadgen.race.verdict import Verdict

SETTINGS = race_settings(seed=42)


def test_a_fault_that_never_came_is_named() -> None:
    """A race that was over before its server was to be killed has shown nothing about that."""
    settings = race_settings(fault="drop-reply=0.01,kill-server=every:5s")
    short = [replace(run("claim"), injected={"drop-reply": 3})]
    assert never_came(settings, short) == "kill-server: never came, the race ended before"
    assert not never_came(settings, [*short, replace(run("shared"), injected={"kill-server": 1})])
    assert not never_came(SETTINGS, short)


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
    settings = race_settings(policies=("shared", "exclusive", "claim"))
    assert document(settings, [run("shared")])["not_raced"] == ["exclusive", "claim"]
    assert document(settings, [run("shared"), run("exclusive"), run("claim")])["not_raced"] == []


def test_whoever_runs_out_of_memory_is_told_why_and_which_of_the_given_flags_to_change() -> None:
    """Flags that were not given are not named, and other ends say nothing."""
    full = run("shared", Ended.OUT_OF_MEMORY, message="none could be reclaimed")
    assert why_out_of_memory(SETTINGS, full) == "shared: out of memory: none could be reclaimed"
    settings = race_settings(zswap_max=20_000, zswap_writeback=False, server_flags=ServerFlags(pool_limit="1MiB"))
    for flag in ("--pool-limit 1MiB", "--zswap-max 20000", "--no-zswap-writeback"):
        assert flag in why_out_of_memory(settings, full)
    assert why_out_of_memory(settings, run("shared")) == ""
    assert "--target tier:1 (its log and " in why_out_of_memory(race_settings(target="tier:1"), full)
