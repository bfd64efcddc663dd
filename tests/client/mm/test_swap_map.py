"""Slots: who may use one, who waits for it, when it is free, and what its generation is good for."""

import pytest
from tests.client.mm.stage import Stage, TierFault, at_preempt, at_wait

from swaptier_client.mm.counters import InstallFailure
from swaptier_client.mm.effects import Batch, Invalidate, Load, Store
from swaptier_client.mm.folio import Process
from swaptier_client.mm.host import alloc_slot
from swaptier_client.mm.policy import POLICIES
from swaptier_client.mm.process import zap
from swaptier_client.mm.swap_map import PrepareResult, SwapDevice
from swaptier_loadgen.lockstep.driver import Task
from swaptier_loadgen.measure.specification import page_version, swap_out_everything
from swaptier_wire.errors import TierUnreachable
from swaptier_wire.types import ZERO_PAGE

OLD, NEW = page_version(0, 1), page_version(0, 2)


def swapped_out(policy: str, **settings: int) -> tuple[Stage, Process]:
    """Return a stage whose process 1 has page 0, OLD, in slot 0."""
    stage = Stage(POLICIES[policy], **settings)
    process = stage.host.spawn()
    stage.do(stage.write(process, 0, OLD))
    stage.do(swap_out_everything(stage.host))
    assert stage.slot().count == 1 and not stage.slot().has_cache
    return stage, process


def pinned_and_waited_for(stage: Stage, process: Process, pin_at: str) -> tuple[Task, Task]:
    """T2 is about to pin; T1 pins and stops at *pin_at*; T2 finds -EEXIST and sleeps."""
    waiter = stage.spawn("T2", stage.read(process, 0))
    stage.lockstep.run_until(waiter, at_preempt("swap_in.allocated"))
    owner = stage.spawn("T1", stage.read(process, 0))
    stage.lockstep.run_until(owner, at_preempt(pin_at))
    assert stage.slot().is_pinned
    stage.lockstep.run_until(waiter, at_wait)
    assert stage.host.counters.pin_waits == 1
    stage.check()
    return owner, waiter


def test_a_new_slot_is_pinned_by_nobody_and_free_at_the_end() -> None:
    """prepare() on a free slot says -ENOENT, on one in use OK, on a pinned one -EEXIST."""
    device = SwapDevice(0, 2)
    slot = device.slots[0]
    assert device.prepare(slot) is PrepareResult.FREE
    allocated = device.alloc()
    assert allocated is slot
    assert device.prepare(slot) is PrepareResult.EXISTS, "allocated for the swapcache"
    device.duplicate(slot)
    assert not device.unpin(slot)
    assert device.prepare(slot) is PrepareResult.OK
    assert device.prepare(slot) is PrepareResult.EXISTS
    assert not device.put(slot), "pinned: it stays although nobody names it"
    assert device.unpin(slot)
    device.release(slot)
    assert device.prepare(slot) is PrepareResult.FREE


def test_slots_are_reused_last_in_first_out() -> None:
    """The slot freed last is given out next: reuse soon is what the races of slot reuse need."""
    device = SwapDevice(0, 4)
    slots = [device.alloc() for _ in range(3)]
    assert [slot.entry.offset for slot in slots if slot] == [0, 1, 2]
    for slot in (slots[0], slots[2]):
        assert slot is not None and device.unpin(slot)
    for slot in (slots[0], slots[2]):
        assert slot is not None
        slot.has_cache = True
        device.release(slot)
    assert device.alloc() is slots[2]
    assert device.alloc() is slots[0]


def test_generation_rises_at_allocation_and_at_every_store() -> None:
    """One slot carries several versions between allocation and free, and no two of them look the same on the wire."""
    stage, process = swapped_out("shared")
    slot = stage.slot()
    after_first_store = slot.generation
    assert after_first_store == 2, "one for the allocation, one for the store"
    stage.host.devices[0].is_synchronous = False  # so that the page keeps its slot while it is mapped
    stage.do(stage.write(process, 0, NEW))
    assert slot.folio is None, "a write by the sole user gives the slot up"
    stage.do(swap_out_everything(stage.host))
    assert stage.slot().generation == after_first_store + 2
    generations = [request.generation for request in stage.requests if isinstance(request, Store)]
    assert generations == sorted(set(generations))


def test_a_rewritten_page_is_stored_again_to_the_slot_it_has() -> None:
    """Read-faulted through the cache, written in place, reclaimed: same slot, higher generation, one entry."""
    stage, process = swapped_out("shared")
    stage.host.devices[0].is_synchronous = False
    stage.do(stage.read(process, 0))
    slot = stage.slot()
    generation = slot.generation
    assert slot.folio is not None and slot.count == 0
    stage.do(stage.write(process, 0, NEW))
    assert slot.generation == generation, "written through the mapping: no fault, no store yet"
    stage.do(swap_out_everything(stage.host))
    assert (slot.generation, slot.count) == (generation + 1, 1)
    assert stage.do(stage.read(process, 0)) == NEW
    stage.check()


def test_a_waiter_is_woken_when_the_pin_ends_by_mapping() -> None:
    """T1 maps the page and unpins: T2 wakes, finds its entry changed, and reads the page that is there."""
    stage, process = swapped_out("exclusive-if-swapcache")
    _, waiter = pinned_and_waited_for(stage, process, "swap_in.read")
    stage.lockstep.run()
    assert waiter.result == OLD
    assert stage.host.counters.loads == 1, "T2 loaded nothing"
    stage.check()


@pytest.mark.parametrize("policy", ["exclusive-if-swapcache", "shared", "store-back"])
def test_a_waiter_is_woken_when_the_pin_ends_by_giving_up(policy: str) -> None:
    """T1 cannot install its page and unpins: T2 wakes, pins, and reads what the tier has still or again."""
    stage, process = swapped_out(policy)
    stage.failures.arm(0, InstallFailure.LOCK_CONTENDED)
    owner, waiter = pinned_and_waited_for(stage, process, "swap_in.read")
    stage.lockstep.run_until(owner, at_preempt("swap_in.allocated"))
    assert stage.lockstep.finish(waiter) == OLD
    stage.lockstep.run()
    assert owner.result == OLD
    stage.check()


def test_a_waiter_is_woken_when_the_pin_ends_with_the_slot() -> None:
    """The page is zapped while T1 reads it: T1 frees the slot, T2 wakes after that and finds a page of zeros."""
    stage, process = swapped_out("exclusive-if-swapcache")
    owner, waiter = pinned_and_waited_for(stage, process, "swap_in.read")
    stage.do(zap(stage.host, process, [0]))
    assert stage.slot().is_pinned and stage.slot().count == 0, "pinned: its end is put off"
    stage.lockstep.run_until(owner, lambda effect: isinstance(effect, Batch))
    assert isinstance(stage.requests[-1], Invalidate) and stage.slot().is_pinned, "told before reusable"
    stage.check()
    assert stage.lockstep.finish(owner) == stage.lockstep.finish(waiter) == ZERO_PAGE
    stage.check()


def test_a_waiter_is_woken_when_the_pin_ends_by_a_failed_load() -> None:
    """T1's load fails for sure and T1 unpins with its error: T2 wakes and reads the page."""
    stage, process = swapped_out("exclusive-if-swapcache")
    waiter = stage.spawn("T2", stage.read(process, 0))
    stage.lockstep.run_until(waiter, at_preempt("swap_in.allocated"))
    stage.fault = lambda _request: TierFault.REFUSED
    owner = stage.spawn("T1", stage.read(process, 0))
    stage.lockstep.run_until(owner, lambda effect: isinstance(effect, Load))
    stage.fault = lambda _request: None
    stage.lockstep.run_until(waiter, at_wait)
    with pytest.raises(TierUnreachable):
        stage.lockstep.finish(owner)
    assert stage.lockstep.finish(waiter) == OLD
    stage.check()


def test_a_waiter_is_woken_when_the_pin_becomes_the_swapcache() -> None:
    """T1 pins, looks into the pool and puts its folio into the swapcache: T2 must not sleep until that leaves again."""
    stage, process = swapped_out("cache-on-hit")
    waiter = stage.spawn("T2", stage.read(process, 0))
    stage.lockstep.run_until(waiter, at_preempt("swap_in.allocated"))
    owner = stage.spawn("T1", stage.read(process, 0))
    stage.lockstep.run_until(owner, lambda _effect: stage.slot().is_pinned)
    stage.lockstep.run_until(waiter, at_wait)
    stage.check()
    stage.lockstep.finish(owner)
    assert stage.slot().folio is not None, "mapped and cached: nothing will wake T2 later"
    assert stage.lockstep.finish(waiter) == OLD
    stage.check()


def test_a_device_whose_tier_answers_again_gives_out_slots_again() -> None:
    """Whatever the first answer is to: here that a slot is free, after the same could not be told."""
    stage, process = swapped_out("shared")
    stage.do(stage.write(process, 1, NEW))
    stage.do(swap_out_everything(stage.host))
    stage.fault = lambda _request: TierFault.REFUSED
    with pytest.raises(TierUnreachable):
        stage.do(zap(stage.host, process, [0]))
    assert alloc_slot(stage.host) is None
    stage.fault = lambda _request: None
    stage.do(zap(stage.host, process, [1]))
    assert alloc_slot(stage.host) is stage.slot(1)
