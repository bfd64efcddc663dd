"""swapoff: every page comes back, whatever else runs, and the tier is left with nothing."""

import pytest
from tests.client.mm.stage import Stage, TierFault, at_preempt, at_wait

from swaptier_client.mm.effects import Batch, Effect, Invalidate, Load
from swaptier_client.mm.errors import OutOfMemory, PageLost
from swaptier_client.mm.folio import PresentPte, Process
from swaptier_client.mm.policy import POLICIES
from swaptier_client.mm.process import exit_process, fork, zap
from swaptier_client.mm.reclaim import swap_out
from swaptier_client.mm.swapoff import swapoff
from swaptier_loadgen.measure.specification import page_version, swap_out_everything, write_all
from swaptier_wire.errors import TierUnreachable
from swaptier_wire.types import ZERO_PAGE

SAFE = [name for name, policy in POLICIES.items() if policy.is_safe]
PAGES = 4


def swapped_out(stage: Stage) -> Process:
    """Return a process of *stage* with PAGES pages, all in the tier."""
    process = stage.host.spawn()
    stage.do(write_all(stage.host, process, PAGES, version=1))
    stage.do(swap_out_everything(stage.host))
    return process


def at_invalidate(effect: Effect) -> bool:
    """The task tells the tier that slots are free."""
    return isinstance(effect, Batch) and isinstance(effect.requests[0], Invalidate)


def assert_all_back(stage: Stage, *processes: Process) -> None:
    device = stage.host.devices[0]
    assert device.slots_in_use == 0
    assert stage.areas[0].stored_pages == 0, "the leak check: nothing may be left in the tier"
    for process in processes:
        for address in range(PAGES):
            pte = process.page_table[address]
            assert isinstance(pte, PresentPte) and pte.folio.content == page_version(address, 1)
    stage.check()


@pytest.mark.parametrize("policy", POLICIES)
def test_swapoff_brings_every_page_back_and_leaves_the_tier_empty(policy: str) -> None:
    """Two processes share the pages of one slot each; afterwards both map them and the area holds nothing."""
    stage = Stage(POLICIES[policy])
    parent = swapped_out(stage)
    child = stage.do(fork(stage.host, parent))
    stage.do(swapoff(stage.host, stage.host.devices[0]))
    assert_all_back(stage, parent, child)


@pytest.mark.parametrize("policy", SAFE)
def test_swapoff_waits_for_a_fault_that_pins_a_slot(policy: str) -> None:
    """T1 has read its page and not mapped it; swapoff reads the others, waits for T1, and ends after it."""
    stage = Stage(POLICIES[policy])
    process = swapped_out(stage)
    reader = stage.spawn("T1", stage.read(process, 1))
    stage.lockstep.run_until(reader, at_preempt("swap_in.read"))
    off = stage.spawn("swapoff", swapoff(stage.host, stage.host.devices[0]))
    if stage.slot(0).is_pinned or any(slot.is_pinned for slot in stage.host.devices[0].slots):
        stage.lockstep.run_until(off, at_wait)
    stage.lockstep.run()
    assert_all_back(stage, process)


def test_swapoff_waits_for_slots_that_are_being_freed_and_frees_none_twice() -> None:
    """A process exits with two pages: one of zeros that was never sent, and one in the tier.

    Its slots are freed together, and the tier is asked about the second only. swapoff comes in between.
    """
    stage = Stage(POLICIES["shared"], has_zeromap=True)
    process = stage.host.spawn()
    stage.do(stage.write(process, 0, ZERO_PAGE))
    stage.do(stage.write(process, 1, page_version(1, 1)))
    stage.do(swap_out_everything(stage.host))
    leaving = stage.spawn("exit", exit_process(stage.host, process))
    stage.lockstep.run_until(leaving, at_invalidate)
    stage.check()
    off = stage.spawn("swapoff", swapoff(stage.host, stage.host.devices[0]))
    stage.lockstep.run_until(off, at_wait)
    stage.lockstep.run()
    assert_all_back(stage)


def test_swapoff_frees_what_the_tier_could_not_be_told_before() -> None:
    """A zap could not reach the tier: the slot stayed pinned, its page an orphan, until swapoff told the tier again."""
    stage = Stage(POLICIES["shared"])
    process = swapped_out(stage)
    stage.fault = lambda request: TierFault.REFUSED if isinstance(request, Invalidate) else None
    with pytest.raises(TierUnreachable):
        stage.do(zap(stage.host, process, range(PAGES)))
    assert len(stage.host.orphans) == PAGES
    stage.check()
    stage.fault = lambda request: None
    stage.do(swapoff(stage.host, stage.host.devices[0]))
    assert len(stage.host.orphans) == 0
    assert_all_back(stage)


def test_swapoff_gives_out_no_slot_of_the_device_while_it_runs() -> None:
    """Reclaim during swapoff finds no slot, and keeps its pages in memory."""
    stage = Stage(POLICIES["shared"])
    process = swapped_out(stage)
    off = stage.spawn("swapoff", swapoff(stage.host, stage.host.devices[0]))
    stage.lockstep.run_until(off, lambda effect: isinstance(effect, Batch))
    other = stage.host.spawn()
    stage.do(stage.write(other, 0, page_version(0, 1)))
    assert stage.do(swap_out(stage.host)) == 0
    stage.lockstep.run()
    assert_all_back(stage, process)


def test_swapoff_that_does_not_fit_leaves_the_device_in_use() -> None:
    """OutOfMemory: what came back is mapped, the rest is still in the tier, and the device gives out slots again."""
    stage = Stage(POLICIES["shared"], resident_pages_max=2)
    process = swapped_out(stage)
    with pytest.raises(OutOfMemory):
        stage.do(swapoff(stage.host, stage.host.devices[0]))
    stage.check()
    for address in range(PAGES):
        assert stage.do(stage.read(process, address)) == page_version(address, 1)
    stage.check()


def test_swapoff_says_that_a_page_is_lost() -> None:
    """The tier's entry is damaged: PageLost, the device stays; once the page is discarded it can go."""
    stage = Stage(POLICIES["shared"])
    process = swapped_out(stage)
    entry = stage.areas[0].known_slots[0].entry
    assert entry is not None
    stage.areas[0].known_slots[0].entry = entry._replace(checksum=entry.checksum ^ 1)
    with pytest.raises(PageLost):
        stage.do(swapoff(stage.host, stage.host.devices[0]))
    stage.check()
    stage.do(zap(stage.host, process, [0]))
    stage.do(swapoff(stage.host, stage.host.devices[0]))
    assert stage.areas[0].stored_pages == 0
    stage.check()


def test_swapoff_keeps_its_place_when_the_tier_fails() -> None:
    """A load fails in the middle: the error comes out, nothing is held, and the next swapoff finishes the work."""
    stage = Stage(POLICIES["exclusive-if-swapcache"])
    process = swapped_out(stage)
    failed = False

    def once(request: object) -> TierFault | None:
        nonlocal failed
        if isinstance(request, Load) and request.entry.offset == 2 and not failed:
            failed = True
            return TierFault.REFUSED
        return None

    stage.fault = once
    with pytest.raises(TierUnreachable):
        stage.do(swapoff(stage.host, stage.host.devices[0]))
    stage.check()
    stage.do(swapoff(stage.host, stage.host.devices[0]))
    assert_all_back(stage, process)


def test_swapoff_of_shared_pages_that_do_not_fit_ends_too() -> None:
    """Each page comes back for one process and is reclaimed, to the slot it still has, before the other one gets it."""
    stage = Stage(POLICIES["shared"], resident_pages_max=2)
    parent = swapped_out(stage)
    child = stage.do(fork(stage.host, parent))
    stage.do(stage.write(parent, PAGES, page_version(PAGES, 1)))
    with pytest.raises(OutOfMemory):
        stage.do(swapoff(stage.host, stage.host.devices[0]))
    stage.check()
    for process in (parent, child):
        for address in range(PAGES):
            assert stage.do(stage.read(process, address)) == page_version(address, 1)
    stage.check()
