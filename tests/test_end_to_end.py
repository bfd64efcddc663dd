"""The whole program, as a user runs it: every policy does what its specification says, and the table says so."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.cli.table import ALL_COLUMNS
from swaptier_loadgen.race.server_process import own_server

PATIENCE_SECONDS = 120
"""A race of these sizes takes some ten seconds; only a failing test waits so long."""

RACE = ["race", "--hosts", "1", "--pages", "256", "--resident", "64", "--seed", "7"]
"""One host: each policy starts its own, and where they are two is the subject of other tests."""

Run = dict[str, Any]
"""One run of the JSON document."""


class Raced(NamedTuple):
    """What a race said."""

    status: int
    stdout: str
    stderr: str
    document: dict[str, Any]

    def run(self, policy: str) -> Run:
        """Return the run of *policy*."""
        return next(run for run in self.document["runs"] if run["policy"] == policy)


def race(folder: Path, *arguments: str) -> Raced:
    """Run a race to its end."""
    file = folder / "result.json"
    done = subprocess.run(
        [sys.executable, "-m", "swaptier_loadgen", *RACE, "--json", str(file), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return Raced(done.returncode, done.stdout, done.stderr, json.loads(file.read_text()))


@pytest.fixture(scope="module")
def with_failures(tmp_path_factory: pytest.TempPathFactory) -> Raced:
    """All policies on one seed, with installs made to fail, against the race's own server."""
    return race(tmp_path_factory.mktemp("race"), "--ops", "1500", "--install-failure-rate", "0.05")


@pytest.fixture(scope="module")
def without_failures(tmp_path_factory: pytest.TempPathFactory) -> Raced:
    """The unpinned policies and the fix, with no failure injected at all: real concurrency only."""
    policies = "shared-unpinned,exclusive-unpinned,exclusive-if-swapcache"
    return race(tmp_path_factory.mktemp("race"), "--policy", policies, "--ops", "8000", "--install-failure-rate", "0")


def is_clean(run: Run) -> bool:
    return not (run["silent_stale_reads"] or run["lost_updates"] or run["detected_losses"] or run["leaked_pages"])


def test_every_policy_does_what_its_specification_says(with_failures: Raced) -> None:
    """Status 0, one run and one table row a policy."""
    assert with_failures.status == 0, with_failures.stderr
    assert [run["policy"] for run in with_failures.document["runs"]] == list(POLICIES)
    for run in with_failures.document["runs"]:
        assert run["ended"] == "finished"
        assert run["faults"] > 500
        assert run["install_failures_owed"] > 0
        assert 0 < run["latency_us"]["p50"] <= run["latency_us"]["p99"] <= run["latency_us"]["max"]


@pytest.mark.parametrize("policy", [name for name, policy in POLICIES.items() if policy.is_safe])
def test_a_safe_policy_shows_nothing_bad(with_failures: Raced, policy: str) -> None:
    """Zero stale reads, lost updates, detected losses and leaks, though installs failed and the data was owed."""
    run = with_failures.run(policy)
    assert run["verdict"] == "safe"
    assert is_clean(run)


def test_in_exclusive_every_owed_install_failure_is_one_wrong_page(with_failures: Raced) -> None:
    """Stale reads equal the owed install failures, less those discarded or never read again, which are told apart."""
    run = with_failures.run("exclusive")
    fates = run["owed_fates"]
    assert run["verdict"] == "corrupts (as specified)"
    assert run["silent_stale_reads"] > 0
    assert run["silent_stale_reads"] == run["install_failures_owed"] - fates["discarded"] - run["never_read_again"]
    assert run["lost_updates"] == 0
    assert run["corruptions_without_install_failure"] == 0
    assert run["never_read_again"] == 0, "the final sweep reads every page"


@pytest.mark.parametrize("policy", ["shared-unpinned", "exclusive-unpinned"])
def test_an_unpinned_policy_corrupts_under_real_concurrency(without_failures: Raced, policy: str) -> None:
    """With no failure injected: the races of slot reuse are enough."""
    run = without_failures.run(policy)
    assert run["verdict"] == "corrupts (as specified)"
    assert run["silent_stale_reads"] + run["lost_updates"] > 0


def test_the_fix_stands_where_the_unpinned_policies_fall(without_failures: Raced) -> None:
    """The same accesses, the same preemptions, nothing bad."""
    assert is_clean(without_failures.run("exclusive-if-swapcache"))
    assert without_failures.status == 0


def test_the_result_is_a_table_and_one_sentence_on_stdout(with_failures: Raced) -> None:
    """With the seed, a row a policy, no escape codes and no progress bar; logs are JSON lines on standard error."""
    lines = with_failures.stdout.splitlines()
    assert lines[0].startswith("seed 7: ")
    rows = [line.split()[0] for line in lines if line.split()]
    assert [name for name in POLICIES if name in rows] == [name for name in POLICIES if len(name) <= 22]
    assert "not one did under" in lines[-1]
    assert "\x1b" not in with_failures.stdout + with_failures.stderr
    assert max(map(len, (line for line in lines[1:-1] if "took the only copy" not in line))) <= ALL_COLUMNS
    for line in with_failures.stderr.splitlines():
        json.loads(line)


async def test_two_commands_give_the_same_verdicts_as_one(with_failures: Raced, tmp_path: Path) -> None:
    """Server and load generator started apart; afterwards the tier holds nothing."""
    async with own_server() as server:
        target = ["--target", server.target, "--hosts", "2", "--ops", "1500", "--install-failure-rate", "0.05"]
        apart = race(tmp_path, *target, "--policy", "exclusive,exclusive-if-swapcache,shared,no-bypass")
    assert apart.status == 0, apart.stderr
    for run in apart.document["runs"]:
        assert run["verdict"] == with_failures.run(run["policy"])["verdict"]
        assert run["leaked_pages"] == 0


async def test_a_unix_socket_serves_as_well(tmp_path: Path) -> None:
    """The server listens on a path, the load generator finds it there."""
    async with own_server("--listen", f"unix:{tmp_path / 'tier'}") as server:
        raced = race(tmp_path, "--target", server.target, "--ops", "500", "--policy", "shared")
    assert raced.status == 0, raced.stderr
    assert raced.document["workload"]["target"] == f"unix:{tmp_path / 'tier'}"


def test_a_duration_ends_each_policy_and_a_corpus_of_ones_own_is_used(tmp_path: Path) -> None:
    """Instead of a number of accesses; contents come from this file."""
    raced = race(tmp_path, "--duration", "0.3", "--policy", "shared", "--corpus", __file__, "--hosts", "1")
    assert raced.status == 0, raced.stderr
    assert raced.document["workload"]["duration_seconds"] == 0.3
    assert raced.run("shared")["pages_checked"] > 256
