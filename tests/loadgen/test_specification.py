"""The table of KERNEL.md 6.4, every policy, exactly: in one process against the real tier."""

from collections.abc import Callable

import pytest

from swaptier_client.mm.host import Host
from swaptier_client.mm.policy import POLICIES, Policy
from swaptier_client.mm.swap_map import SwapDevice
from swaptier_loadgen.explore.in_process import InProcessTiers
from swaptier_loadgen.explore.lockstep import Lockstep
from swaptier_loadgen.specification import (
    ArmedFailures,
    Measures,
    Workload,
    first_install_fails,
    first_sharer_reads,
    first_sharer_reads_then_reclaim,
    slot_reused_under_a_fault,
)
from swaptier_server.tier.area import Client
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.types import AreaOptions

M, F, K, N = 12, 5, 7, 7
SLOTS = 64


def run_in_process(policy: Policy, build: Callable[[Host, ArmedFailures], Workload]) -> Measures:
    tier = Tier(TierLimits(pool_bytes_max=1 << 20), epoch=1)
    area, _ = tier.swapon(
        Client("host", 1), "swap", SLOTS, AreaOptions(device_free_on_read=policy.device_free_on_read)
    )
    failures = ArmedFailures()
    host = Host(
        policy, [SwapDevice(0, SLOTS)], resident_pages_max=SLOTS, now_ns=lambda: 0, install_failure=failures
    )
    workload = build(host, failures)
    lockstep = Lockstep(InProcessTiers([area]))
    for name, path in workload.paths.items():
        lockstep.spawn(name, path)
    lockstep.run()
    tier.check_invariants()
    return workload.measure()


W1 = {
    #                              stale storebacks decompr double misses in-flight
    "free-on-read":                    (F, 0, M, 0, F, 0),
    "shared-unpinned":                 (0, 0, M + F, F, 0, 0),
    "exclusive-unpinned":              (F, 0, M, 0, F, 0),
    "exclusive":                       (F, 0, M, 0, F, 0),
    "cache-on-hit-early":              (0, 0, M, 0, 0, 0),
    "cache-on-hit":                    (0, 0, M, 0, 0, 0),
    "store-back":                      (0, F, M + F, F, 0, 0),
    "shared":                          (0, 0, M + F, F, 0, 1),
    "exclusive-if-swapcache-unpinned": (0, 0, M + F, F, 0, 0),
    "exclusive-if-swapcache":          (0, 0, M + F, F, 0, 1),
    "no-bypass":                       (0, 0, M, 0, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", POLICIES)
def test_w1_a_failed_first_install_costs_what_the_specification_says(name: str) -> None:
    """W1, all rows of the table: M pages, F of them with one failed install."""
    measures = run_in_process(POLICIES[name], lambda host, failures: first_install_fails(host, failures, M, F))
    assert (
        measures.silent_stale_reads,
        measures.storebacks,
        measures.decompressions,
        measures.double_loads,
        measures.misses_read_from_device,
        measures.duplicates_in_flight,
    ) == W1[name]
    assert measures.duplicates_at_rest == 0


TIER_KEEPS_ITS_COPY_IN_THE_SWAPCACHE = {"shared", "shared-unpinned"}


@pytest.mark.parametrize("name", POLICIES)
def test_w2_only_shared_loads_keep_forked_pages_twice_at_rest(name: str) -> None:
    """W2: K pages with two users, read by the first: K duplicates under shared loads, none under exclusive ones."""
    measures = run_in_process(POLICIES[name], lambda host, _: first_sharer_reads(host, K))
    assert measures.duplicates_at_rest == (K if name in TIER_KEEPS_ITS_COPY_IN_THE_SWAPCACHE else 0)
    assert measures.silent_stale_reads == 0
    assert measures.decompressions == K


@pytest.mark.parametrize("name", POLICIES)
def test_w3_only_shared_loads_reclaim_unmodified_pages_for_free(name: str) -> None:
    """W3: the N pages of W2 reclaimed unmodified: N recompressions wasted under exclusive loads, none under shared."""
    measures = run_in_process(POLICIES[name], lambda host, _: first_sharer_reads_then_reclaim(host, N))
    assert measures.wasted_recompressions == (0 if name in TIER_KEEPS_ITS_COPY_IN_THE_SWAPCACHE else N)
    assert measures.duplicates_at_rest == 0


@pytest.mark.parametrize("name", POLICIES)
def test_w4_slot_reuse_under_a_fault_corrupts_exactly_the_unpinned_policies(name: str) -> None:
    """W4: T1 reads the slot and is held; T2 faults, writes, swaps out into the same slot; T1 goes on."""
    policy = POLICIES[name]
    measures = run_in_process(policy, lambda host, _: slot_reused_under_a_fault(host))
    corruptions = measures.lost_updates + measures.silent_stale_reads
    if policy.pins:
        assert corruptions == 0
    else:
        assert corruptions > 0


def test_w4_shared_unpinned_loses_the_update_without_reading_anything_stale() -> None:
    """The pure ABA: every read was right when it was made, and the newer page is gone all the same."""
    measures = run_in_process(POLICIES["shared-unpinned"], lambda host, _: slot_reused_under_a_fault(host))
    assert measures.lost_updates == 1
    assert measures.silent_stale_reads == 0
