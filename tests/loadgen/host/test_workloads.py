"""What threads can be asked to do, and installs made to fail for: safe policies lose nothing in any of it."""

from collections.abc import Awaitable, Callable

import pytest

from swaptier_client.mm.counters import INJECTABLE
from swaptier_client.mm.policy import POLICIES
from swaptier_client.mm.readahead import ReadaheadMode
from swaptier_loadgen.host.workload import WorkloadKind
from swaptier_loadgen.race.results import RunSummary
from swaptier_loadgen.race.verdict import Verdict

SAFE = [name for name, policy in POLICIES.items() if policy.is_safe]
UNPINNED = [name for name, policy in POLICIES.items() if not policy.pins]
EVERY_CAUSE = tuple(f"{cause}=0.02" for cause in INJECTABLE)

RunHost = Callable[..., Awaitable[RunSummary]]


@pytest.mark.parametrize("policy", SAFE)
@pytest.mark.parametrize("workload", [kind for kind in WorkloadKind if kind is not WorkloadKind.TWO_HOSTS])
async def test_a_safe_policy_survives_every_cause_of_failure_in_every_workload(
    run_host: RunHost, workload: WorkloadKind, policy: str
) -> None:
    """Pages are zapped and moved under faults, processes fork and exit: every byte is right, and nothing is left."""
    run = await run_host(policy, workload=workload, install_failure_rate=0, install_failures=EVERY_CAUSE)
    assert run.verdict is Verdict.SAFE, run.examples
    assert run.first_corruption_seconds is None
    assert run.counters_wrong == run.index_words_wrong == 0
    assert all(run.counters[f"install_failures.{cause}"] > 0 for cause in INJECTABLE)
    assert run.leaked_pages == 0


@pytest.mark.parametrize("cause", [cause for cause in INJECTABLE if cause != "zapped"])
async def test_the_seeds_bug_loses_a_page_whatever_the_cause_as_long_as_the_page_is_owed(
    run_host: RunHost, cause: str
) -> None:
    """A moved page is owed at its new address: it is read back wrong there."""
    run = await run_host("exclusive", install_failure_rate=0, install_failures=(f"{cause}=0.05",))
    assert run.verdict is Verdict.AS_SPECIFIED
    assert run.corrupted_pages > 0
    assert run.corruptions_without_install_failure == 0
    assert sum(run.owed_fates.values()) == run.install_failures_owed
    assert run.first_corruption_seconds is not None


async def test_a_page_that_its_owner_zaps_under_a_fault_is_no_corruption(run_host: RunHost) -> None:
    """The bug of March 2024 does no harm where nobody needs the page any more: it reads zeros, as it must."""
    # One thread: no lock is contended, so that no other install fails.
    failures = ("zapped=0.05",)
    run = await run_host("exclusive", processes=1, threads=1, install_failure_rate=0, install_failures=failures)
    assert run.corrupted_pages == 0
    assert run.install_failures > 0
    assert run.install_failures_owed == 0
    assert run.discarded > 0


async def test_forks_exits_and_moves_happen_and_pages_are_copied(run_host: RunHost) -> None:
    """The workload does what it is there for, and the bug of March 2024 is still found in it."""
    run = await run_host("exclusive", workload=WorkloadKind.FORKS)
    without = await run_host("exclusive")
    assert run.pages_checked > without.pages_checked + 200, "children access pages besides the accesses asked for"
    assert run.counters["minor_faults"] > without.counters["minor_faults"], "what was moved away reads zeros"
    assert run.verdict is Verdict.AS_SPECIFIED
    assert run.corruptions_without_install_failure == 0


@pytest.mark.parametrize("policy", ["exclusive", *UNPINNED])
async def test_an_unsafe_policy_fails_the_swap_race_stress(run_host: RunHost, policy: str) -> None:
    """Counters do not come to the number of additions: data loss."""
    run = await run_host(
        policy, workload=WorkloadKind.STRESS_RACE, ops=4_000, threads=8, pages=48, processes=1, preemption_rate=0.3
    )
    assert run.verdict is Verdict.AS_SPECIFIED
    assert run.counters_wrong > 0
    assert run.first_corruption_seconds is not None
    assert run.first_corruption_seconds > 0


@pytest.mark.parametrize("mode", [ReadaheadMode.CLUSTER, ReadaheadMode.VMA])
async def test_readahead_reads_ahead_and_loses_nothing(run_host: RunHost, mode: ReadaheadMode) -> None:
    """A page that fork shares is loaded through the swapcache, with its neighbours, and so is every one by swapoff."""
    run = await run_host("claim", readahead=mode, workload="forks", swapoff=True, install_failures=("moved=0.02",))
    assert run.verdict is Verdict.SAFE, run.examples
    assert run.counters["swap_ra"] > run.counters["swap_ra_hit"] > 0


async def test_no_bypass_reads_nothing_ahead_since_every_device_of_a_race_is_synchronous(run_host: RunHost) -> None:
    """As f1879e8a0c60, whatever the slot's count."""
    run = await run_host("no-bypass", readahead="cluster", workload="forks")
    assert run.verdict is Verdict.SAFE, run.examples
    assert run.counters["swap_ra"] == 0


async def test_pages_of_zeros_are_never_sent_with_a_zeromap(run_host: RunHost) -> None:
    """Discarded pages that were read, and not written again, go out as zeros."""
    run = await run_host("shared", zeromap=True, install_failures=("zapped=0.05",))
    assert run.verdict is Verdict.SAFE, run.examples
    assert run.counters["swpin_zero"] <= run.counters["swpout_zero"]


@pytest.mark.parametrize("policy", POLICIES)
async def test_swapoff_brings_every_page_back_and_leaves_nothing_in_the_tier(run_host: RunHost, policy: str) -> None:
    """All processes live on, every page is in memory and is read once more, and the area is empty."""
    run = await run_host(policy, swapoff=True, install_failures=("moved=0.02",))
    assert run.leaked_pages == 0
    if POLICIES[policy].is_safe:
        assert run.verdict is Verdict.SAFE, run.examples
    assert run.pages_checked > 2000 + 64 + 64


@pytest.mark.parametrize("policy", [name for name, policy in POLICIES.items() if not policy.requires_generation])
async def test_a_pin_of_one_host_keeps_no_other_host_off_its_page(run_host: RunHost, policy: str) -> None:
    """Two hosts with one memory image on one area: even policies that are safe on their own lose pages, silently."""
    run = await run_host(policy, workload=WorkloadKind.TWO_HOSTS)
    assert run.verdict is Verdict.AS_SPECIFIED
    assert run.corrupted_pages > 0
    assert not run.is_safe_by_specification


async def test_a_claim_keeps_losses_between_two_hosts_from_being_silent(run_host: RunHost) -> None:
    """Each load asks for its own generation: what the twin took or replaced is told lost, and never mapped."""
    run = await run_host("claim", workload=WorkloadKind.TWO_HOSTS)
    assert run.verdict is Verdict.TELLS, run.examples
    assert run.corrupted_pages == 0
    assert run.detected_losses > 0
