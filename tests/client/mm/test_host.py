"""Memory, swap devices and repeated faults of one host."""

import pytest
from tests.client.mm.stage import Stage, TierFault, at_preempt, at_wait

from swaptier_client.mm.access import access_page, write_page
from swaptier_client.mm.backing import tier_restarted
from swaptier_client.mm.errors import NotMapped, OutOfMemory, PageLost
from swaptier_client.mm.folio import PresentPte
from swaptier_client.mm.host import alloc_slot
from swaptier_client.mm.policy import POLICIES
from swaptier_client.mm.process import exit_process, fork
from swaptier_client.mm.reclaim import swap_out
from swaptier_client.mm.swap_map import SwapDevice
from swaptier_loadgen.measure.specification import page_version, swap_out_everything, write_all
from swaptier_server.tier.swap_file import Client
from swaptier_wire.errors import TierUnreachable
from swaptier_wire.types import ZERO_PAGE, AreaOptions

SAFE = [name for name, policy in POLICIES.items() if policy.is_safe]


@pytest.mark.parametrize("policy", SAFE)
def test_more_pages_than_memory_are_all_there(policy: str) -> None:
    """Eight times as many pages as fit, written, read backwards and written again."""
    stage = Stage(POLICIES[policy], slots=40, resident_pages_max=4)
    process = stage.host.spawn()
    stage.do(write_all(stage.host, process, 32, version=1))
    for address in reversed(range(32)):
        assert stage.do(stage.read(process, address)) == page_version(address, 1)
        assert stage.host.resident_pages <= 4
    stage.do(write_all(stage.host, process, 32, version=2))
    for address in range(32):
        assert stage.do(stage.read(process, address)) == page_version(address, 2)
    stage.check()


def test_one_path_reclaims_and_the_others_wait_for_it() -> None:
    """T1 reclaims for its own charge; T2 sleeps until that has freed something, and then takes what it needs."""
    stage = Stage(POLICIES["shared"], resident_pages_max=2)
    process = stage.host.spawn()
    stage.do(write_all(stage.host, process, 2, version=1))
    first = stage.spawn("T1", stage.read(process, 7))
    stage.lockstep.run_until(first, at_preempt("swap_out.isolated"))
    second = stage.spawn("T2", stage.read(process, 8))
    stage.lockstep.run_until(second, at_wait)
    stage.check()
    stage.lockstep.run()
    assert first.result == second.result == ZERO_PAGE
    stage.check()


def test_memory_that_is_on_its_way_is_waited_for() -> None:
    """T1's private folio is all there is: T2 finds nothing to reclaim, waits for T1 to map, and takes that."""
    stage = Stage(POLICIES["shared"], resident_pages_max=1)
    process = stage.host.spawn()
    stage.do(write_all(stage.host, process, 1, version=1))
    stage.do(swap_out_everything(stage.host))
    for point in ("swap_in.allocated", "swap_in.read"):
        first = stage.spawn("T1", stage.read(process, 0))
        stage.lockstep.run_until(first, at_preempt(point))
        second = stage.spawn("T2", stage.read(process, 7))
        stage.lockstep.run_until(second, at_wait)
        stage.check()
        stage.lockstep.run()
        assert first.result == page_version(0, 1)
        stage.do(swap_out_everything(stage.host))
        stage.check()


def test_no_memory_and_no_swap_is_told_and_can_be_helped() -> None:
    """OutOfMemory: nothing was lost, and after somebody exits the same access succeeds."""
    stage = Stage(POLICIES["shared"], slots=1, resident_pages_max=2)
    process, other = stage.host.spawn(), stage.host.spawn()
    stage.do(write_all(stage.host, process, 2, version=1))
    stage.do(stage.write(other, 0, page_version(0, 9)))
    with pytest.raises(OutOfMemory, match="nothing was lost"):
        stage.do(stage.write(other, 1, page_version(1, 9)))
    stage.check()
    stage.do(exit_process(stage.host, process))
    stage.do(stage.write(other, 1, page_version(1, 9)))
    assert stage.do(stage.read(other, 0)) == page_version(0, 9)
    stage.check()


def test_a_reclaim_that_fails_fails_the_access_that_needed_it() -> None:
    """The tier cannot be reached: the error comes out, nothing is charged, and the others may try."""
    stage = Stage(POLICIES["shared"], resident_pages_max=2)
    process = stage.host.spawn()
    stage.do(write_all(stage.host, process, 2, version=1))
    stage.fault = lambda _request: TierFault.REFUSED
    with pytest.raises(TierUnreachable):
        stage.do(stage.read(process, 7))
    assert not stage.host.is_reclaiming
    stage.check()
    for address in range(2):
        assert stage.do(stage.read(process, address)) == page_version(address, 1)
    stage.fault = lambda _request: None
    assert stage.do(stage.read(process, 7)) == ZERO_PAGE, "a tier that answers again is used again"
    stage.check()


def test_slots_come_from_the_best_device_and_from_equals_in_turn() -> None:
    """Two devices of equal priority share the pages; the third is used when they are full."""
    devices = [SwapDevice(0, 8, priority=1), SwapDevice(1, 2, priority=5), SwapDevice(2, 2, priority=5)]
    stage = Stage(POLICIES["shared"], devices=devices)
    process = stage.host.spawn()
    stage.do(write_all(stage.host, process, 6, version=1))
    taken = [slot.entry.type for slot in (alloc_slot(stage.host) for _ in range(6)) if slot is not None]
    assert taken == [1, 2, 1, 2, 0, 0]


def test_a_dead_process_has_no_pages() -> None:
    """Touching one after its process ended is an error of the caller."""
    stage = Stage(POLICIES["shared"])
    process = stage.host.spawn()
    stage.do(stage.write(process, 0, page_version(0, 1)))
    stage.do(exit_process(stage.host, process))
    with pytest.raises(NotMapped):
        stage.do(stage.read(process, 0))


def test_a_page_stays_accessible_until_the_caller_yields() -> None:
    """access() returned: the page is mapped and writable, so the write that follows is seen by the next read."""
    stage = Stage(POLICIES["exclusive-if-swapcache"])
    process = stage.host.spawn()
    stage.do(stage.write(process, 0, page_version(0, 1)))
    child = stage.do(fork(stage.host, process))
    stage.do(swap_out(stage.host))
    stage.do(access_page(stage.host, process, 0, write=True))
    pte = process.page_table[0]
    assert isinstance(pte, PresentPte) and pte.writable and pte.exclusive
    write_page(stage.host, process, 0, page_version(0, 2))
    assert stage.do(stage.read(process, 0)) == page_version(0, 2)
    assert stage.do(stage.read(child, 0)) == page_version(0, 1)
    stage.check()


def restarted(stage: Stage) -> None:
    """Let the tier forget everything, as a server does that is started anew, and tell the host."""
    stage.tier.drop_area("swap-0")
    area, _ = stage.tier.swapon(Client("host", 2), "swap-0", len(stage.host.devices[0].slots), AreaOptions())
    stage.lockstep.tiers.areas = (area,)
    stage.areas[0] = area
    tier_restarted(stage.host, 0)


@pytest.mark.parametrize("policy", SAFE)
def test_a_page_that_died_with_its_tier_is_known_to_be_lost(policy: str) -> None:
    """Zeros from a device that never heard of the page would be a lie; PageLost, for good."""
    stage = Stage(POLICIES[policy])
    process = stage.host.spawn()
    stage.do(stage.write(process, 0, page_version(0, 1)))
    stage.do(swap_out_everything(stage.host))
    restarted(stage)
    for _ in range(2):
        with pytest.raises(PageLost):
            stage.do(stage.read(process, 0))
    stage.check()


@pytest.mark.parametrize("policy", SAFE)
def test_a_page_in_memory_outlives_its_tier(policy: str) -> None:
    """A shared load left it clean, with a copy in a tier that is gone: reclaim must store it again, not drop it."""
    stage = Stage(POLICIES[policy])
    process = stage.host.spawn()
    stage.do(stage.write(process, 0, page_version(0, 1)))
    stage.do(swap_out_everything(stage.host))
    stage.do(fork(stage.host, process))
    stage.do(stage.read(process, 0))
    restarted(stage)
    stage.do(swap_out_everything(stage.host))
    assert stage.host.resident_pages == 0
    assert stage.do(stage.read(process, 0)) == page_version(0, 1)
    stage.check()


def test_a_page_on_its_way_out_when_its_tier_dies_is_stored_again() -> None:
    """Its store was answered by the tier that is gone; reclaim has not dropped it yet, and must not."""
    stage = Stage(POLICIES["exclusive-if-swapcache"])
    process = stage.host.spawn()
    stage.do(stage.write(process, 0, page_version(0, 1)))
    reclaim = stage.spawn("reclaim", swap_out(stage.host))
    stage.lockstep.run_until(reclaim, at_preempt("swap_out.written"))
    restarted(stage)
    assert stage.lockstep.finish(reclaim) == 0
    stage.do(swap_out_everything(stage.host))
    assert stage.do(stage.read(process, 0)) == page_version(0, 1)
    stage.check()
