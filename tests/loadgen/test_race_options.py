"""Races over gRPC with what --help offers beyond the default: the real command, real processes, a real server."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from swaptier_loadgen.cli import app
from swaptier_loadgen.messages import KERNEL_COUNTERS

SMALL = ("--hosts", "2", "--processes", "1", "--threads", "4", "--pages", "64", "--resident", "16", "--ops", "2000")


def race(tmp_path: Path, *arguments: str) -> tuple[Result, dict[str, Any]]:  # JSON
    """Run a small race; return how the command ended and its document."""
    file = tmp_path / "race.json"
    result = CliRunner().invoke(app, ["race", *SMALL, "--json", str(file), *arguments])
    return result, json.loads(file.read_text())


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
        tmp_path, "--era", "next", "--zeromap", "--readahead", "cluster", "--install-failure", "zapped=0.05"
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
