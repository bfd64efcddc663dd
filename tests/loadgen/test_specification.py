"""The table of KERNEL.md 6.4, every policy, exactly: on the pure tier in one process, and over gRPC on a server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import pytest

from swaptier_client.area_calls import HostArea
from swaptier_client.driver import Driver
from swaptier_client.mm.counters import InstallFailure
from swaptier_client.mm.host import Host
from swaptier_client.mm.policy import POLICIES, Policy
from swaptier_client.mm.swap_map import SwapDevice
from swaptier_client.transport import TierStream
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
from swaptier_server.config import load_config
from swaptier_server.lifecycle import TierServer
from swaptier_server.tier.area import Client
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.types import AreaOptions

M, F, K, N = 12, 5, 7, 7
SLOTS = 64

Build: TypeAlias = Callable[[Host, ArmedFailures], Workload]
Run: TypeAlias = Callable[[Policy, Build], Awaitable[Measures]]


SECOND_NS = 1_000_000_000


class SlowFaults(ArmedFailures):
    """A clock that stands still, but for one second between each fault's load and its install."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 0

    def __call__(self, pid: int, address: int) -> InstallFailure | None:
        """Let the second pass, then answer as armed."""
        self.now_ns += SECOND_NS
        return super().__call__(pid, address)


def begin(policy: Policy, build: Build) -> Workload:
    failures = SlowFaults()
    host = Host(
        policy,
        [SwapDevice(0, SLOTS)],
        resident_pages_max=SLOTS,
        now_ns=lambda: failures.now_ns,
        install_failure=failures,
    )
    return build(host, failures)


async def run_in_process(policy: Policy, build: Build) -> Measures:
    tier = Tier(TierLimits(pool_bytes_max=1 << 20), epoch=1)
    options = AreaOptions(device_free_on_read=policy.device_free_on_read)
    area, _ = tier.swapon(Client("host", 1), "swap", SLOTS, options)
    workload = begin(policy, build)
    lockstep = Lockstep(InProcessTiers([area]))
    for name, path in workload.paths.items():
        lockstep.spawn(name, path)
    lockstep.run()
    tier.check_invariants()
    return workload.measure()


@pytest.fixture(params=["in process", "over gRPC"])
async def run(request: pytest.FixtureRequest) -> AsyncIterator[Run]:
    """What runs a workload to its end, both ways."""
    if request.param == "in process":
        yield run_in_process
        return
    server = await TierServer.start(load_config(["--listen", "127.0.0.1:0", "--metrics", "off"]), epoch=1)

    async def run_over_grpc(policy: Policy, build: Build) -> Measures:
        area = HostArea("host", 1, policy.name, SLOTS, AreaOptions(device_free_on_read=policy.device_free_on_read))
        workload = begin(policy, build)
        async with TierStream(str(server.listening), area) as stream:
            driver = Driver([stream], seed=1)
            await asyncio.gather(*(driver.run(path) for path in workload.paths.values()))
        return workload.measure()

    yield run_over_grpc
    await server.drain()


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
async def test_w1_a_failed_first_install_costs_what_the_specification_says(name: str, run: Run) -> None:
    """W1, all rows of the table: M pages, F of them with one failed install."""
    measures = await run(POLICIES[name], lambda host, failures: first_install_fails(host, failures, M, F))
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
async def test_w2_only_shared_loads_keep_forked_pages_twice_at_rest(name: str, run: Run) -> None:
    """W2: K pages with two users, read by the first: K duplicates under shared loads, none under exclusive ones."""
    measures = await run(POLICIES[name], lambda host, _: first_sharer_reads(host, K))
    assert measures.duplicates_at_rest == (K if name in TIER_KEEPS_ITS_COPY_IN_THE_SWAPCACHE else 0)
    assert measures.silent_stale_reads == 0
    assert measures.decompressions == K


@pytest.mark.parametrize("name", POLICIES)
async def test_w3_only_shared_loads_reclaim_unmodified_pages_for_free(name: str, run: Run) -> None:
    """W3: the N pages of W2 reclaimed unmodified: N recompressions wasted under exclusive loads, none under shared."""
    measures = await run(POLICIES[name], lambda host, _: first_sharer_reads_then_reclaim(host, N))
    assert measures.wasted_recompressions == (0 if name in TIER_KEEPS_ITS_COPY_IN_THE_SWAPCACHE else N)
    assert measures.duplicates_at_rest == 0


@pytest.mark.parametrize("name", POLICIES)
async def test_w4_slot_reuse_under_a_fault_corrupts_exactly_the_unpinned_policies(name: str, run: Run) -> None:
    """W4: T1 reads the slot and is held; T2 faults, writes, swaps out into the same slot; T1 goes on."""
    policy = POLICIES[name]
    measures = await run(policy, lambda host, _: slot_reused_under_a_fault(host))
    corruptions = measures.lost_updates + measures.silent_stale_reads
    if policy.pins:
        assert corruptions == 0
    else:
        assert corruptions > 0


async def test_w4_shared_unpinned_loses_the_update_without_reading_anything_stale(run: Run) -> None:
    """The pure ABA: every read was right when it was made, and the newer page is gone all the same."""
    measures = await run(POLICIES["shared-unpinned"], lambda host, _: slot_reused_under_a_fault(host))
    assert measures.lost_updates == 1
    assert measures.silent_stale_reads == 0


LETTERS = {
    "a": "exclusive",
    "b": "cache-on-hit",
    "c": "store-back",
    "d": "shared",
    "e": "exclusive-if-swapcache",
    "f": "no-bypass",
}
"""The columns of the table that have a pin, or need none."""


async def measures_by_letter(run: Run, build: Build) -> dict[str, Measures]:
    return {letter: await run(POLICIES[name], build) for letter, name in LETTERS.items()}


async def test_only_optimistic_reads_are_held_twice_while_a_fault_is_delayed(run: Run) -> None:
    """Delayed after the load: duplicate page-seconds d = e > a, b, c, f."""
    seconds = {
        letter: measures.duplicate_page_seconds
        for letter, measures in (await measures_by_letter(run, lambda h, f: first_install_fails(h, f, M, F))).items()
    }
    assert seconds["d"] == seconds["e"] == M + F
    assert {seconds[letter] for letter in "abcf"} == {0}


async def test_shared_loads_are_held_twice_longer_than_the_merged_fix_where_pages_are_forked(run: Run) -> None:
    """On W2: duplicate page-seconds d > e, strictly."""
    measures = await measures_by_letter(run, lambda host, _: first_sharer_reads(host, K))
    assert measures["d"].duplicate_page_seconds > measures["e"].duplicate_page_seconds


async def test_only_shared_loads_spare_the_recompression(run: Run) -> None:
    """On W3: wasted recompressions d < e = a = b = c = f."""
    measures = await measures_by_letter(run, lambda host, _: first_sharer_reads_then_reclaim(host, N))
    wasted = {letter: each.wasted_recompressions for letter, each in measures.items()}
    assert wasted["d"] < wasted["e"]
    assert {wasted[letter] for letter in "abcef"} == {wasted["e"]}


async def test_only_exclusive_corrupts_and_only_store_back_compresses_again(run: Run) -> None:
    """On W1: corruption a > 0 = b = c = d = e = f; stores beyond the first of each page: c > others."""
    measures = await measures_by_letter(run, lambda host, failures: first_install_fails(host, failures, M, F))
    assert measures["a"].silent_stale_reads > 0
    assert {measures[letter].silent_stale_reads for letter in "bcdef"} == {0}
    assert measures["c"].storebacks > max(measures[letter].storebacks for letter in "abdef")
