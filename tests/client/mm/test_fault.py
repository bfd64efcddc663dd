"""The swap fault under every policy: who owns the page at each point, and what is left of it when an install fails."""

from collections.abc import Callable, Sequence

import pytest
from tests.client.mm.stage import Stage, TierFault, at_preempt, at_wait

from swaptier_client.mm.counters import INJECTABLE, DetectedLoss, InstallFailure
from swaptier_client.mm.effects import Acknowledge, Batch, Effect, Load, Lookup, Request, Store
from swaptier_client.mm.errors import OutOfMemory, PageLost
from swaptier_client.mm.fault import MOVE_DISTANCE, swap_in
from swaptier_client.mm.folio import PresentPte, Process, SwapPte
from swaptier_client.mm.policy import POLICIES
from swaptier_client.mm.process import fork, move, zap
from swaptier_client.mm.reclaim import pageout, swap_out
from swaptier_client.mm.swap_map import SwapDevice
from swaptier_loadgen.measure.specification import page_version, swap_out_everything
from swaptier_server.tier.device import DeviceError, MemoryDevice
from swaptier_server.tier.free import invalidate
from swaptier_server.tier.page import StoredPage
from swaptier_wire.errors import TierUnreachable
from swaptier_wire.types import ZERO_PAGE, LoadMode

OLD, NEW = page_version(0, 1), page_version(0, 2)
SAFE = [name for name, policy in POLICIES.items() if policy.is_safe]
SAFE_BYPASSING = [name for name in SAFE if POLICIES[name].bypasses_swapcache]
AT_READ = at_preempt("swap_in.read")


def swapped_out(policy: str, stage: Stage | None = None) -> tuple[Stage, Process]:
    """Return a stage whose process 1 has page 0, OLD, in slot 0."""
    stage = stage or Stage(POLICIES[policy])
    process = stage.host.spawn()
    stage.do(stage.write(process, 0, OLD))
    stage.do(swap_out_everything(stage.host))
    assert stage.slot().count == 1 and not stage.slot().has_cache
    stage.requests.clear()
    return stage, process


def at_load(effect: Effect) -> bool:
    """The task asks the tier for a page."""
    return isinstance(effect, Load) or (isinstance(effect, Batch) and isinstance(effect.requests[0], Load))


def lose(kind: type[Request], fault: TierFault, *, times: int) -> Callable[[Request], TierFault | None]:
    """Let the next *times* requests of *kind* fail."""
    left = times

    def choose(request: Request) -> TierFault | None:
        nonlocal left
        if left and isinstance(request, kind):
            left -= 1
            return fault
        return None

    return choose


class RefusingDevice(MemoryDevice):
    """A device that takes nothing while it is full."""

    is_full = False

    def write(self, pages: Sequence[tuple[int, StoredPage]]) -> None:
        """Write, unless full.

        Raises:
            DeviceError: it is full.
        """
        if self.is_full:
            raise DeviceError
        super().write(pages)


# The loser of the bypass race


@pytest.mark.parametrize("cause", [cause for cause in INJECTABLE if cause is not InstallFailure.ZAPPED])
@pytest.mark.parametrize("policy", SAFE)
def test_a_fault_that_cannot_install_does_not_take_the_page_along(policy: str, cause: InstallFailure) -> None:
    """T1 has read the page and cannot map it, whatever the reason: whoever asks next still gets it."""
    stage, process = swapped_out(policy)
    stage.failures.arm(0, cause)
    at = MOVE_DISTANCE if cause is InstallFailure.MOVED else 0
    stage.do(stage.read(process, 0))
    assert stage.do(stage.read(process, at)) == OLD
    assert stage.host.counters.install_failures[cause] == 1
    assert stage.host.counters.install_failures_owed == 1
    assert stage.dropped == []
    stage.check()


@pytest.mark.parametrize("policy", ["exclusive", "exclusive-unpinned", "free-on-read"])
def test_a_fault_that_cannot_install_takes_the_page_along(policy: str) -> None:
    """The bug of March 2024: T1's private folio was the only copy; the next fault maps zeros and no error is seen."""
    stage, process = swapped_out(policy)
    stage.failures.arm(0, InstallFailure.LOCK_CONTENDED)
    assert stage.do(stage.read(process, 0)) == ZERO_PAGE
    assert stage.dropped == [stage.slot()], "and the oracle's ledger knows"
    assert stage.host.counters.tier_miss_must_exist == 1
    assert stage.host.counters.detected_loss == dict.fromkeys(map(str, DetectedLoss), 0)


@pytest.mark.parametrize("policy", SAFE_BYPASSING)
def test_reclaim_that_looks_at_a_private_folio_leaves_it_alone(policy: str) -> None:
    """The natural contention: T1 has read, reclaim locks its folio, T1 finds it locked, waits, and faults again.

    Reclaim finds the folio in no page table and in no cache, and puts it back: nothing is stored, nothing is lost.
    """
    stage, process = swapped_out(policy)
    reader = stage.spawn("T1", stage.read(process, 0))
    stage.lockstep.run_until(reader, AT_READ)
    reclaim = stage.spawn("reclaim", swap_out(stage.host))
    stage.lockstep.run_until(reclaim, at_preempt("swap_out.isolated"))
    stage.lockstep.run_until(reader, at_wait)
    stage.check()
    stage.lockstep.finish(reclaim)
    assert stage.lockstep.finish(reader) == OLD
    assert stage.host.counters.install_failures[InstallFailure.LOCK_CONTENDED] == 1
    stage.check()


def test_reclaim_that_looks_at_a_private_folio_loses_it_under_exclusive_loads() -> None:
    """The same schedule, and the reason why one single-threaded process and reclaim are enough to lose a page."""
    stage, process = swapped_out("exclusive")
    reader = stage.spawn("T1", stage.read(process, 0))
    stage.lockstep.run_until(reader, AT_READ)
    reclaim = stage.spawn("reclaim", swap_out(stage.host))
    stage.lockstep.run_until(reclaim, at_preempt("swap_out.isolated"))
    stage.lockstep.run_until(reader, at_wait)
    stage.lockstep.finish(reclaim)
    assert stage.lockstep.finish(reader) == ZERO_PAGE


# What comes before the read


@pytest.mark.parametrize("policy", POLICIES)
def test_memory_is_charged_before_anything_is_read(policy: str) -> None:
    """No memory, and swap is full: the fault ends before it loads, and the page is where it was."""
    stage = Stage(POLICIES[policy], slots=1, resident_pages_max=2)
    process = stage.host.spawn()
    stage.do(stage.write(process, 0, OLD))
    stage.do(swap_out_everything(stage.host))
    for address in (1, 2):
        stage.do(stage.write(process, address, page_version(address, 1)))
    stage.requests.clear()
    with pytest.raises(OutOfMemory):
        stage.do(stage.read(process, 0))
    assert not any(isinstance(request, Load) for request in stage.requests)
    assert stage.slot().count == 1 and stage.tier_has(stage.slot())
    stage.check()
    stage.do(zap(stage.host, process, [1]))
    assert stage.do(stage.read(process, 0)) == OLD


def test_a_fault_that_slept_before_its_pin_finds_the_slot_free() -> None:
    """-ENOENT: T2 sampled the entry and slept; T1 mapped the page and freed the slot; T2 looks at the entry again."""
    stage, process = swapped_out("exclusive-if-swapcache")
    slow = stage.spawn("T2", stage.read(process, 0))
    stage.lockstep.run_until(slow, at_preempt("swap_in.allocated"))
    stage.do(stage.read(process, 0))
    assert stage.lockstep.finish(slow) == OLD
    assert stage.host.counters.pin_enoent == 1
    assert stage.host.counters.loads == 1
    stage.check()


def test_a_fault_that_slept_before_its_pin_takes_nothing_from_the_next_owner_of_the_slot() -> None:
    """T2 sampled the entry and slept; the slot was freed and given to another page; T2 pins that one's slot and reads.

    A shared load does it no harm; T2 finds its entry changed and gives up. Under exclusive loads the other page dies.
    """
    for policy, left in (("exclusive-if-swapcache", NEW), ("store-back", NEW), ("exclusive", ZERO_PAGE)):
        stage, process = swapped_out(policy)
        slow = stage.spawn("T2", stage.read(process, 0))
        stage.lockstep.run_until(slow, at_preempt("swap_in.allocated"))
        stage.do(zap(stage.host, process, [0]))
        stage.do(stage.write(process, 1, NEW))
        stage.do(swap_out_everything(stage.host))
        other = process.page_table[1]
        assert isinstance(other, SwapPte) and other.entry == stage.slot().entry, "reused at once"
        assert stage.lockstep.finish(slow) == ZERO_PAGE
        assert stage.do(stage.read(process, 1)) == left
        stage.check()


# What is compared before the page is mapped


@pytest.mark.parametrize("bit", ["soft_dirty", "uffd_wp"])
def test_every_bit_of_the_entry_is_compared(bit: str) -> None:
    """Another thread flips one bit of the swap entry while T1 reads: T1 may not map over that, and faults again."""
    stage, process = swapped_out("exclusive-if-swapcache")
    reader = stage.spawn("T1", stage.read(process, 0))
    stage.lockstep.run_until(reader, AT_READ)
    pte = process.page_table[0]
    assert isinstance(pte, SwapPte)
    process.page_table[0] = pte._replace(**{bit: not getattr(pte, bit)})
    assert stage.lockstep.finish(reader) == OLD
    assert stage.host.counters.install_failures[bit] == 1
    mapped = process.page_table[0]
    assert isinstance(mapped, PresentPte) and getattr(mapped, bit) is not getattr(pte, bit), "and the bit survives"
    stage.check()


def test_a_page_that_was_discarded_while_it_was_read_is_not_a_loss() -> None:
    """T1 reads, T2 zaps: what T1 read is thrown away, counted as discarded, and the slot's end waits for T1's pin."""
    stage, process = swapped_out("exclusive")
    reader = stage.spawn("T1", stage.read(process, 0))
    stage.lockstep.run_until(reader, AT_READ)
    stage.do(zap(stage.host, process, [0]))
    slot = stage.slot()
    assert slot.is_pinned and slot.count == 0, "not free while T1 has it"
    stage.check()
    assert stage.lockstep.finish(reader) == ZERO_PAGE
    assert not slot.has_cache
    assert stage.host.counters.discarded == 1
    assert stage.host.counters.install_failures_owed == 0
    assert stage.dropped == []
    stage.check()


def test_the_loser_of_an_unpinned_race_discards_nothing_that_was_not_mapped() -> None:
    """T1 read without a pin, T2 mapped the page first: T1's copy is dropped, and nobody discarded the page."""
    stage, process = swapped_out("shared-unpinned")
    loser = stage.spawn("T1", stage.read(process, 0))
    stage.lockstep.run_until(loser, AT_READ)
    stage.do(stage.read(process, 0))
    assert stage.lockstep.finish(loser) == OLD
    assert stage.host.counters.install_failures[InstallFailure.ALREADY_MAPPED] == 1
    assert stage.host.counters.discarded == 0
    stage.check()


# What a load leaves behind


@pytest.mark.parametrize(
    ("policy", "is_dirty"), [("shared", False), ("exclusive-if-swapcache", True), ("no-bypass", True)]
)
def test_a_load_into_the_swapcache_is_dirty_exactly_if_it_was_exclusive(policy: str, *, is_dirty: bool) -> None:
    """The only copy is dirty, so that reclaim writes it; one with a copy in the tier is clean, so that it need not."""
    stage, process = swapped_out(policy)
    stage.do(fork(stage.host, process))
    stage.do(stage.read(process, 0))
    slot = stage.slot()
    assert slot.folio is not None and slot.folio.dirty is is_dirty
    assert stage.tier_has(slot) is not is_dirty
    stage.check()
    before = stage.host.counters.stores
    stage.do(swap_out_everything(stage.host))
    assert stage.host.counters.stores - before == is_dirty, "a clean page is dropped without a store"
    assert stage.do(stage.read(process, 0)) == OLD
    stage.check()


@pytest.mark.parametrize("policy", SAFE_BYPASSING)
def test_a_bypassed_page_has_no_backing_once_it_is_mapped(policy: str) -> None:
    """Its slot went with the mapping, so the next reclaim stores it anew, under every policy."""
    stage, process = swapped_out(policy)
    stage.do(stage.write(process, 0, NEW))
    assert not stage.slot().has_cache and not stage.tier_has(stage.slot())
    stage.do(swap_out_everything(stage.host))
    assert stage.do(stage.read(process, 0)) == NEW
    stage.check()


@pytest.mark.parametrize("policy", SAFE)
def test_the_second_sharer_finds_the_page_in_the_swapcache(policy: str) -> None:
    """After a fork the first to fault loads, into the swapcache; the second one maps what is there."""
    stage, parent = swapped_out(policy)
    child = stage.do(fork(stage.host, parent))
    assert stage.do(stage.read(parent, 0)) == OLD
    assert stage.do(stage.read(child, 0)) == OLD
    assert stage.host.counters.loads == 1
    assert stage.host.resident_pages == 1
    stage.check()


def test_two_faults_on_one_cached_page_load_it_once() -> None:
    """T2 finds T1's folio locked in the swapcache, sleeps on its lock, and maps it afterwards: no second load."""
    stage, parent = swapped_out("no-bypass")
    child = stage.do(fork(stage.host, parent))
    first = stage.spawn("T1", stage.read(parent, 0))
    stage.lockstep.run_until(first, at_load)
    second = stage.spawn("T2", stage.read(child, 0))
    stage.lockstep.run_until(second, at_wait)
    stage.lockstep.run()
    assert first.result == second.result == OLD
    assert stage.host.counters.loads == 1
    stage.check()


# Looking before pinning, and after


def test_a_look_before_the_pin_is_worth_nothing_by_the_time_of_the_load() -> None:
    """cache-on-hit-early loses the page.

    T2 misses the swapcache. T1 looks (hit), pins, puts its folio into the swapcache and takes the page out of the
    pool. T2 looks: a miss, so it will not use the swapcache. T1 cannot install the page; reclaim stores it again and
    drops the folio. T2 pins, takes the page into a private folio, cannot install it, and drops it.
    """
    stage, process = swapped_out("cache-on-hit-early")
    late = stage.spawn("T2", stage.read(process, 0))
    stage.lockstep.run_until(late, at_preempt("swap_in.cache_missed"))
    early = stage.spawn("T1", swap_in(stage.host, process, 0, write=False))
    stage.lockstep.run_until(early, AT_READ)
    stage.lockstep.run_until(late, at_preempt("swap_in.allocated"))
    stage.failures.arm(0, InstallFailure.LOCK_CONTENDED)
    stage.lockstep.finish(early)
    stage.do(swap_out_everything(stage.host))
    assert stage.tier_has(stage.slot()), "the page is safe, until T2 goes on"
    stage.failures.arm(0, InstallFailure.LOCK_CONTENDED)
    assert stage.lockstep.finish(late) == ZERO_PAGE
    assert stage.dropped == [stage.slot()]


def test_a_look_under_the_pin_holds_until_the_load() -> None:
    """cache-on-hit survives the same: T2 pins, looks, hits; its folio is cached when it fails."""
    stage, process = swapped_out("cache-on-hit")
    late = stage.spawn("T2", stage.read(process, 0))
    stage.lockstep.run_until(late, at_preempt("swap_in.allocated"))
    early = stage.spawn("T1", swap_in(stage.host, process, 0, write=False))
    stage.lockstep.run_until(early, AT_READ)
    stage.failures.arm(0, InstallFailure.LOCK_CONTENDED)
    stage.lockstep.finish(early)
    stage.do(swap_out_everything(stage.host))
    stage.failures.arm(0, InstallFailure.LOCK_CONTENDED)
    assert stage.lockstep.finish(late) == OLD
    assert stage.host.counters.install_failures[InstallFailure.LOCK_CONTENDED] == 2
    assert stage.dropped == []
    stage.check()


@pytest.mark.parametrize("failing", [Lookup, Load])
def test_a_cached_read_that_fails_leaves_the_page_in_the_tier(failing: type[Request]) -> None:
    """cache-on-hit: the lookup or the load is refused; the next fault reads the page as if nothing had been."""
    stage, process = swapped_out("cache-on-hit")
    stage.fault = lose(failing, TierFault.REFUSED, times=1)
    with pytest.raises(TierUnreachable):
        stage.do(stage.read(process, 0))
    stage.check()
    assert stage.do(stage.read(process, 0)) == OLD
    stage.check()


# Storing back


def store_back_in_trouble() -> tuple[Stage, Process, RefusingDevice]:
    """Return a stage with page 0 swapped out, on a tier whose pool takes nothing and whose device can be filled."""
    device = RefusingDevice()
    stage = Stage(POLICIES["store-back"], backing=lambda _name: device)
    return *swapped_out("store-back", stage), device


def test_a_page_stored_back_is_there_for_the_next_fault() -> None:
    """One failed install costs one store and one load, and the slot's generation rises so that both are told apart."""
    stage, process = swapped_out("store-back")
    generation = stage.slot().generation
    stage.failures.arm(0, InstallFailure.LOCK_CONTENDED)
    assert stage.do(stage.read(process, 0)) == OLD
    assert stage.host.counters.storeback_stored == 1
    assert stage.slot().generation == generation + 1
    stage.check()


def test_a_page_that_nobody_takes_back_is_lost_and_said_to_be() -> None:
    """Pool and device refuse the page: every fault on it gets PageLost, never other bytes, until it is discarded."""
    stage, process, device = store_back_in_trouble()
    stage.failures.arm(0, InstallFailure.LOCK_CONTENDED)
    reader = stage.spawn("T1", stage.read(process, 0))
    stage.lockstep.run_until(reader, AT_READ)
    device.is_full = True
    stage.tier.accounts.bounds.pool_bytes.divide(0, tenants=1)
    with pytest.raises(PageLost) as lost:
        stage.lockstep.finish(reader)
    assert lost.value.reason is DetectedLoss.STOREBACK_REJECTED
    for _ in range(2):
        with pytest.raises(PageLost):
            stage.do(stage.read(process, 0))
    stage.check()
    stage.do(zap(stage.host, process, [0]))
    assert stage.do(stage.read(process, 0)) == ZERO_PAGE, "discarded, so it is a new page"
    assert not stage.slot().has_cache
    stage.check()


def test_a_fault_that_slept_while_the_page_was_lost_is_told_too() -> None:
    """T2 samples the entry and sleeps before its pin; T1's page is refused; T2 must not read the device instead."""
    stage, process, device = store_back_in_trouble()
    stage.failures.arm(0, InstallFailure.LOCK_CONTENDED)
    slow = stage.spawn("T2", stage.read(process, 0))
    stage.lockstep.run_until(slow, at_preempt("swap_in.allocated"))
    reader = stage.spawn("T1", stage.read(process, 0))
    stage.lockstep.run_until(reader, AT_READ)
    device.is_full = True
    stage.tier.accounts.bounds.pool_bytes.divide(0, tenants=1)
    for task in (reader, slow):
        with pytest.raises(PageLost):
            stage.lockstep.finish(task)
    stage.check()


def test_a_page_whose_way_back_is_refused_is_lost_and_said_to_be() -> None:
    """The tier cannot be reached when T1 wants to store back: T1 gets the error, its pin goes, others get PageLost."""
    stage, process = swapped_out("store-back")
    stage.failures.arm(0, InstallFailure.LOCK_CONTENDED)
    stage.fault = lose(Store, TierFault.REFUSED, times=1)
    with pytest.raises(TierUnreachable):
        stage.do(stage.read(process, 0))
    stage.check()
    with pytest.raises(PageLost) as lost:
        stage.do(stage.read(process, 0))
    assert lost.value.reason is DetectedLoss.UNREACHABLE
    stage.check()


@pytest.mark.parametrize("fault", [TierFault.REPLY_LOST, TierFault.REQUEST_LOST])
def test_a_page_whose_way_back_is_unknown_is_found_or_known_to_be_lost(fault: TierFault) -> None:
    """No reply to the store, however often it is asked: the next load requires the generation, so none is wrong."""
    stage, process = swapped_out("store-back")
    stage.failures.arm(0, InstallFailure.LOCK_CONTENDED)
    stage.fault = lose(Store, fault, times=100)
    with pytest.raises(TierUnreachable):
        stage.do(stage.read(process, 0))
    stage.check()
    if fault is TierFault.REPLY_LOST:
        assert stage.do(stage.read(process, 0)) == OLD
    else:
        for _ in range(2):
            with pytest.raises(PageLost):
                stage.do(stage.read(process, 0))
    stage.check()


def test_a_store_back_that_came_too_late_is_a_loss() -> None:
    """The tier has seen a higher generation and changes nothing: that is not a page that was taken back."""
    stage, process = swapped_out("store-back")
    stage.failures.arm(0, InstallFailure.LOCK_CONTENDED)
    reader = stage.spawn("T1", stage.read(process, 0))
    stage.lockstep.run_until(reader, AT_READ)
    invalidate(stage.areas[0], 0, stage.slot().generation + 100)
    with pytest.raises(PageLost):
        stage.lockstep.finish(reader)
    stage.check()


# A load whose reply is lost


@pytest.mark.parametrize("policy", ["store-back", "cache-on-hit", "no-bypass"])
def test_an_exclusive_load_whose_reply_is_lost_never_reads_the_device_instead(policy: str) -> None:
    """The page died on the wire. That is told, now and at every later fault: zeros would be a lie."""
    stage, process = swapped_out(policy)
    stage.fault = lose(Load, TierFault.REPLY_LOST, times=1)
    for _ in range(3):
        with pytest.raises(PageLost):
            stage.do(stage.read(process, 0))
        stage.do(swap_out_everything(stage.host))
    stage.check()


@pytest.mark.parametrize("policy", SAFE)
def test_a_load_that_never_arrived_costs_nothing(policy: str) -> None:
    """Not applied, and the host cannot know: it asks again and gets the page."""
    stage, process = swapped_out(policy)
    stage.fault = lose(Load, TierFault.REQUEST_LOST, times=3)
    assert stage.do(stage.read(process, 0)) == OLD
    stage.check()


@pytest.mark.parametrize("policy", SAFE)
def test_a_load_without_an_answer_leaves_the_slot_in_doubt_and_nothing_held(policy: str) -> None:
    """Asked until there is no patience left: an error, no pin, no lock; a later fault asks for this generation only."""
    stage, process = swapped_out(policy)
    stage.fault = lose(Load, TierFault.REQUEST_LOST, times=8)
    with pytest.raises(TierUnreachable):
        stage.do(stage.read(process, 0))
    stage.check()
    assert stage.do(stage.read(process, 0)) == OLD
    assert [request.require_generation for request in stage.requests if isinstance(request, Load)][-1]
    stage.check()


def test_a_shared_load_asks_the_tier_to_keep_its_copy() -> None:
    """exclusive-if-swapcache: shared on the bypass, exclusive into the swapcache."""
    stage, process = swapped_out("exclusive-if-swapcache")
    stage.do(stage.read(process, 0))
    stage.do(swap_out_everything(stage.host))
    stage.do(fork(stage.host, process))
    stage.do(stage.read(process, 0))
    modes = [request.mode for request in stage.requests if isinstance(request, Load)]
    assert modes == [LoadMode.SHARED, LoadMode.EXCLUSIVE]


@pytest.mark.parametrize("is_synchronous", [False, True])
def test_a_folio_that_left_the_swapcache_before_the_fault_took_its_lock_is_not_mapped(*, is_synchronous: bool) -> None:
    """Its slot has another page by then, and the entry looks the same: it was freed and taken again.

    An acknowledgement is posted between the read and the fault's look at the folio, and anybody may run meanwhile. The
    folio was then taken for one that bypassed the swapcache, whose pin keeps the slot from being reused.
    """
    stage = Stage(POLICIES["claim"], devices=[SwapDevice(0, 1, is_synchronous=is_synchronous)])
    host, process = stage.host, stage.host.spawn()
    other = page_version(1, 1)
    stage.do(stage.write(process, 0, OLD))
    stage.do(stage.write(process, 1, other))
    child = stage.do(fork(host, process))  # with two users, page 0 goes through the swapcache on any device
    stage.do(zap(host, child, [1]))
    kept = process.page_table[1]
    assert isinstance(kept, PresentPte)
    kept.folio.referenced = True
    stage.do(swap_out(host))
    assert isinstance(process.page_table[0], SwapPte) and process.page_table[1] is kept
    reader = stage.spawn("reader", stage.read(process, 0))
    stage.lockstep.run_until(reader, lambda effect: isinstance(effect, Acknowledge))
    stage.do(zap(host, child, [0]))
    assert stage.do(stage.read(process, 0)) == OLD  # by another thread; with swap full, the slot is given up
    stage.do(zap(host, process, [0]))
    stage.do(pageout(host, process, [1]))
    assert move(host, process, 1, 0)
    assert isinstance(process.page_table[0], SwapPte)
    assert stage.lockstep.finish(reader) == other
