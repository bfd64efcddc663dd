"""Races over gRPC with what --help offers beyond the default: the real command, real processes, a real server."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.loadgen.command_line import Result, invoke

from swaptier_loadgen.host.report import KERNEL_COUNTERS
from swaptier_loadgen.race.server_process import own_server

SMALL = ("--hosts", "2", "--processes", "1", "--threads", "4", "--pages", "64", "--resident", "16", "--ops", "2000")


def race(tmp_path: Path, *arguments: str) -> tuple[Result, dict[str, Any]]:  # JSON
    """Run a small race; return how the command ended and its document."""
    file = tmp_path / "race.json"
    result = invoke("race", *SMALL, "--json", str(file), *arguments)
    return result, json.loads(file.read_text())


@pytest.mark.slow_race
def test_a_race_that_ends_with_swapoff_leaves_nothing_in_the_tier(tmp_path: Path) -> None:
    """Over gRPC: mm's swapoff drains both areas, and closing them drops no page."""
    result, document = race(tmp_path, "--swapoff", "--policy", "exclusive-if-swapcache,shared", "--readahead", "vma")
    assert result.exit_code == 0, result.output
    for run in document["runs"]:
        assert run["verdict"] == "safe"
        assert run["leaked_pages"] == 0


def test_the_kernels_counters_stand_under_the_kernels_names_for_each_host(tmp_path: Path) -> None:
    """What each host's /proc/vmstat would say; zeros are restored and read-ahead pages hit, when both are asked for."""
    result, document = race(
        tmp_path,
        *("--era", "next", "--zeromap", "--readahead", "cluster", "--swapoff"),
        *("--install-failure", "zapped=0.05"),
    )
    assert result.exit_code == 0, result.output
    (run,) = document["runs"]
    assert run["policy"] == "no-bypass"
    assert len(run["kernel_counters"]) == 2
    for host in run["kernel_counters"]:
        assert set(host) == set(KERNEL_COUNTERS)
        assert host["zswpin"] > 0
        assert host["zswpout"] > 0
        assert host["swap_ra"] >= host["swap_ra_hit"] > 0
    assert sum(host["zswpin"] for host in run["kernel_counters"]) == run["counters"]["zswpin"]


@pytest.mark.slow_race
def test_what_a_race_on_the_host_took_is_called_so_where_the_policy_is_specified_to_lose_it(tmp_path: Path) -> None:
    """In document and report: unpinned policies by slot reuse, any policy with two hosts by the other host."""
    arguments = ("--install-failure-rate", "0", "--pages", "24", "--resident", "9")
    result, document = race(tmp_path, *arguments, "--policy", "exclusive-unpinned,exclusive-if-swapcache")
    assert result.exit_code == 0, result.output
    unpinned, pinned = (run["lost_to"] for run in document["runs"])
    assert unpinned["slot_reuse"] == sum(unpinned.values()) - unpinned["install_failed"] > 0
    assert sum(pinned.values()) == 0
    assert f"{unpinned['slot_reuse']} slot_reuse" in result.output
    result, document = race(tmp_path, *arguments, "--policy", "claim", "--workload", "two-hosts")
    assert result.exit_code == 0, result.output
    lost_to = document["runs"][0]["lost_to"]
    assert lost_to["other_host"] == sum(lost_to.values()) > 0


@pytest.mark.slow_race
def test_the_swap_race_stress_over_grpc_tells_the_seeds_bug_from_its_fix(tmp_path: Path) -> None:
    """The time to the first corruption is in the document; null where there was none."""
    result, document = race(tmp_path, "--workload", "stress-race", "--policy", "exclusive,exclusive-if-swapcache")
    assert result.exit_code == 0, result.output
    bug, fix = document["runs"]
    assert bug["first_corruption_seconds"] > 0
    assert bug["counters_wrong"] > 0
    assert fix["first_corruption_seconds"] is None
    assert fix["counters_wrong"] == fix["index_words_wrong"] == 0
    assert "(data loss)" in result.stdout


@pytest.mark.slow_race
def test_a_host_has_a_quota_of_the_pool_and_its_pages_go_to_the_device_or_not(tmp_path: Path) -> None:
    """memory.zswap.max and memory.zswap.writeback: with the switch off, what the quota refuses stays on the host."""
    arguments = ["--policy", "exclusive-if-swapcache", "--zswap-max", "20KB"]
    result, document = race(tmp_path, *arguments)
    assert result.exit_code == 0, result.output
    (run,) = document["runs"]
    assert run["verdict"] == "safe"
    assert run["counters"]["pswpout"] + sum(host["zswpwb"] for host in run["kernel_counters"]) > 0
    result, document = race(tmp_path, *arguments, "--no-zswap-writeback")
    (run,) = document["runs"]
    assert run["silent_stale_reads"] == run["detected_losses"] == 0
    assert run["counters"]["pswpout"] == sum(host["zswpwb"] for host in run["kernel_counters"]) == 0
    assert run["ended"] == "out_of_memory", "nothing is lost: it has nowhere to go"
    assert "none could be reclaimed" in result.stdout
    assert "--zswap-max 20000 (raise it), --no-zswap-writeback (leave it out" in result.stdout


def race_killing(tmp_path: Path, pids: list[int], *arguments: str) -> tuple[int, dict[str, Any]]:  # JSON
    """Run a race, kill *pids* as soon as it accesses pages, and return status and document."""
    file = tmp_path / "race.json"
    command = [sys.executable, "-m", "swaptier_loadgen", "race", *SMALL, *arguments, "--json", str(file)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as racing:
        assert racing.stderr is not None
        for line in racing.stderr:
            if "policy begins" in line:
                break
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        racing.communicate()
    return racing.returncode, json.loads(file.read_text())


@pytest.mark.slow_race
async def test_a_killed_server_harms_only_its_own_pages(tmp_path: Path) -> None:
    """One of two tiers is killed in the middle: its pages are told lost, the others are right, the race goes on."""
    async with own_server() as stays, own_server() as dies:
        target = f"{stays.target},{dies.target}"
        arguments = ("--target", target, "--policy", "exclusive-if-swapcache", "--ops", "4000", "--hosts", "1")
        status, document = race_killing(tmp_path, [dies.pid], *arguments)
    (run,) = document["runs"]
    assert status == 0, run
    assert run["ops"] == 4000
    assert run["verdict"] == "tells (none silent)"
    assert set(run["detected_losses_by_reason"]) == {"unreachable"}
    # A page can be lost once, and again after it was discarded and written anew on its way to the tier that dies.
    assert 0 < run["detected_losses"] <= 2 * 64


@pytest.mark.slow_race
async def test_the_race_ends_when_no_tier_is_left(tmp_path: Path) -> None:
    """Status 3, and no corruption: what could not be read was not mapped."""
    async with own_server() as one, own_server() as other:
        target = f"{one.target},{other.target}@5"
        arguments = ("--target", target, "--policy", "shared,no-bypass", "--ops", "10000000", "--hosts", "1")
        status, document = race_killing(tmp_path, [one.pid, other.pid], *arguments)
    (run,) = document["runs"]
    assert status == 3, run
    assert run["verdict"] == "unreachable"
    assert run["silent_stale_reads"] == run["lost_updates"] == 0


@pytest.mark.slow_race
def test_own_servers_are_used_in_turn_and_left_empty(tmp_path: Path) -> None:
    """Three of them, equal priorities; all areas are drained by swapoff."""
    result, document = race(tmp_path, "--servers", "3", "--policy", "no-bypass", "--swapoff")
    assert result.exit_code == 0, result.output
    assert document["workload"]["servers"] == 3
    assert document["runs"][0]["leaked_pages"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "127.0.0.1:1,nowhere"], ["--target", "'nowhere'"]),
        (["--target", "127.0.0.1:1,"], ["--target", "''"]),
        (["--target", "127.0.0.1:1", "--servers", "2"], ["--servers", "--target"]),
        (["--servers", "0"], ["--servers"]),
        (["--era", "5.0"], ["'5.0'", "6.9"]),
        (["--era", "6.9", "--policy", "shared"], ["exclude"]),
        (["--workload", "stress"], ["'stress'", "did you mean stress-race?", "two-hosts"]),
        (["--readahead", "clustr"], ["'clustr'", "did you mean cluster?"]),
        (["--policy", "xyzzy"], ["'xyzzy'. Choose from"]),
        (["--install-failure", "move=0.1"], ["'move'", "did you mean moved?"]),
        (["--install-failure", "read_error=0.1"], ["'read_error'"]),
        (["--install-failure", "moved"], ["CAUSE=RATE"]),
        (["--install-failure", "moved=1"], ["moved=1"]),
        (["--install-failure", "moved=nan"], ["moved=nan"]),
        (["--install-failure", "moved=0.1", "--install-failure", "moved=0.2"], ["twice"]),
        (["--install-failure", "moved=0.6", "--install-failure", "zapped=0.6"], ["1.2"]),
        (["--install-failure", "lock_contended=0.1", "--install-failure-rate", "0.1"], ["--install-failure-rate"]),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(arguments: list[str], words: list[str]) -> None:
    """Status 2, nothing is started."""
    result = invoke("race", *arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr
