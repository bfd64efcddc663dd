"""The swap fault: do_swap_page() as one coroutine, for every policy.

Pure. Rules: everything read before a yield is stale after it until rechecked; memory is charged before anything is
read, so that failing to get it loses nothing; the page table lock is the atomic stretch from the recheck of the
entry to the end of the mapping.

Models: do_swap_page() in mm/memory.c. Left out: large folios, KSM, migration, device-private and hwpoison entries.
"""

from collections.abc import Sequence
from typing import NamedTuple

from swaptier_client.mm import backing, swap_cache
from swaptier_client.mm.counters import DetectedLoss, InstallFailure
from swaptier_client.mm.effects import Lookup, Path, Preempt, Store
from swaptier_client.mm.errors import PageLost
from swaptier_client.mm.folio import Folio, PresentPte, Process, Pte, SwapPte, pte_same
from swaptier_client.mm.host import Host, put_folio
from swaptier_client.mm.lost_reply import ask, load
from swaptier_client.mm.memory import alloc_folio
from swaptier_client.mm.policy import PoolLookup
from swaptier_client.mm.process import move_unguarded, zap_entries
from swaptier_client.mm.swap_cache import ReadFolio
from swaptier_client.mm.swap_map import PrepareResult, SwapSlot
from swaptier_wire.errors import SwapTierError
from swaptier_wire.types import Outcome

AT_THE_FOLIO_LOCK = (InstallFailure.LOCK_CONTENDED, InstallFailure.RETRY_NOWAIT, InstallFailure.KILLED)
"""Causes that strike where the fault relocks its folio; the others strike at the page table."""

MOVE_DISTANCE = 1 << 40
"""How far away, in pages, an injected MOVED puts a page: outside every workload's addresses."""


class SwapFault(NamedTuple):
    """One fault, as sampled when it began. Models: struct vm_fault."""

    process: Process
    address: int
    write: bool
    orig: SwapPte
    """Compared whole before mapping."""
    slot: SwapSlot


def swap_in(host: Host, process: Process, address: int, *, write: bool) -> Path[None]:
    """Bring the swapped-out page at *address* back and map it, or leave it so that the fault is taken again.

    The caller holds the mmap lock for reading, and looks at the page table afterwards: VM_FAULT_RETRY, and a page that
    another path has handled, look alike.

    Raises:
        PageLost: the page is known to be gone (SIGBUS). Definite.
        SwapTierError: the tier could not be asked; `definite` says whether the load may have been applied.
        OutOfMemory: definite, nothing was read.

    Models: do_swap_page().
    """
    orig = process.page_table.get(address)
    if not isinstance(orig, SwapPte):
        return
    slot = host.slot(orig.entry)
    fault = SwapFault(process, address, write, orig, slot)
    if slot.lost is not None:
        raise _sigbus(host, fault, slot.lost)

    if slot.folio is not None:
        read: ReadFolio | None = swap_cache.found(slot.folio, slot)
        host.counters.swap_ra_hit += host.readahead.note_lookup(slot.folio)
    elif host.policy.bypasses_swapcache and host.device(slot.entry).is_synchronous and slot.count == 1:
        read = yield from _read_bypassing(host, slot)
    else:
        read = yield from swapin_readahead(host, slot, _neighbours(host, fault))
    if read is None:
        return
    folio = read.folio

    # Nothing is locked here: the folio was unlocked when its read ended, the page table never was. Reclaim may hold
    # the folio, the page may be mapped, zapped or moved by others, and without a pin the slot may be reused.
    yield Preempt("swap_in.read")

    injected = host.install_failure(process.pid, address) if read.was_read else None
    if injected in AT_THE_FOLIO_LOCK:
        yield from _abandon(host, fault, read, injected)
        return
    if not folio.trylock():
        yield from folio.wait_unlocked()
        yield from _abandon(host, fault, read, InstallFailure.LOCK_CONTENDED)
        return
    if read.in_cache and slot.folio is not folio:
        folio.unlock()
        put_folio(host, folio)
        return
    failure, zapped = _page_table_failure(host, fault, injected)
    if failure is not None:
        folio.unlock()
        yield from _abandon(host, fault, read, failure)
        yield from swap_cache.free_slots(host, zapped)
        return
    if not folio.uptodate:
        folio.unlock()
        yield from _abandon(host, fault, read, InstallFailure.READ_ERROR)
        raise _sigbus(host, fault, folio.read_error or DetectedLoss.MISS_MUST_EXIST)
    yield from map_folio(host, fault, folio)


def _neighbours(host: Host, fault: SwapFault) -> Sequence[SwapSlot]:
    """Return what to read ahead with the slot of *fault*, which is read through the swapcache."""
    slot = fault.slot
    if host.device(slot.entry).is_synchronous and not host.policy.reads_ahead_synchronous:
        return ()
    return host.readahead.neighbours(host.devices, fault.process, fault.address, slot)


def swapin_readahead(host: Host, slot: SwapSlot, neighbours: Sequence[SwapSlot] = ()) -> Path[ReadFolio | None]:
    """Return the slot's swapcache folio with a reference, reading it in if it is not there. None: fault again.

    Raises:
        SwapTierError, OutOfMemory: as swap_in().

    Models: swapin_readahead(); without *neighbours*, swapin_folio().
    """
    if slot.folio is not None:
        return swap_cache.found(slot.folio, slot)
    folio = yield from alloc_folio(host)
    return (yield from swap_cache.read(host, slot, folio, neighbours))


def _read_bypassing(host: Host, slot: SwapSlot) -> Path[ReadFolio | None]:
    """Read *slot* into a private folio that is in no cache, under the pin if the policy has one. None: fault again.

    Models: the SWP_SYNCHRONOUS_IO branch of do_swap_page().
    """
    policy = host.policy
    in_pool = False
    if policy.pool_lookup is PoolLookup.BEFORE_PIN:
        # Nothing holds what the swapcache said a moment ago: the page may be taken into it before the pool is asked.
        yield Preempt("swap_in.cache_missed")
        in_pool = (yield from ask(Lookup(slot.entry))).outcome is Outcome.HIT
    folio = yield from alloc_folio(host)
    yield Preempt("swap_in.allocated")
    if slot.lost is not None:
        # Recheck: another fault's store-back may have been refused meanwhile, and the device has no copy either. The
        # next trip gets SIGBUS.
        folio.unlock()
        put_folio(host, folio)
        return None
    if policy.pins:
        # Recheck: allocating may have slept, and the slot may be pinned, cached or free by now.
        result = host.device(slot.entry).prepare(slot)
        if result is not PrepareResult.OK:
            folio.unlock()
            put_folio(host, folio)
            yield from swap_cache.wait_for_pin(host, slot, result)
            return None
        slot.reader = folio
        host.duplication.observe(slot)
    if slot.is_zero:
        host.lru.add(folio)
        swap_cache.fill_with_zeros(host, folio)
        folio.unlock()
        return ReadFolio(folio, was_read=True, generation=slot.generation, in_cache=False)
    try:
        if policy.pool_lookup is PoolLookup.AFTER_PIN:
            in_pool = (yield from ask(Lookup(slot.entry))).outcome is Outcome.HIT
        if in_pool:
            swap_cache.insert(slot, folio)
        # On the list before the read, as folio_add_lru() is: from its unlock on, reclaim may hold this folio's lock.
        host.lru.add(folio)
        asked = swap_cache.load_of(host, slot, policy.swapcache_mode if in_pool else policy.bypass_mode)
        restarts = host.device(slot.entry).restarts
        reply = yield from load(asked)
    except SwapTierError as error:
        backing.note_failure(host, slot, error)
        last_use = slot.folio is folio and swap_cache.remove(host, slot)
        folio.unlock()
        yield from _finish(host, slot, folio, last_use=last_use)
        raise
    backing.take_load_reply(host, slot, folio, asked, reply)
    backing.doubt_if_restarted(host, slot, folio, restarts)
    folio.unlock()
    if folio.source is Outcome.CLAIMED:
        yield from _finish(host, slot, folio)
        return None
    return ReadFolio(folio, was_read=True, generation=asked.generation, in_cache=slot.folio is folio)


def _page_table_failure(
    host: Host, fault: SwapFault, injected: InstallFailure | None
) -> tuple[InstallFailure | None, list[SwapSlot]]:
    """Tell why the entry is not the one that was sampled, if it is not, and name slots to be freed. Atomic.

    An *injected* cause is brought about here, as another thread would have. It does nothing to an entry that has
    changed already.
    """
    process, address, orig = fault.process, fault.address, fault.orig
    current = process.page_table.get(address)
    if not pte_same(current, orig):
        return _why_changed(current, orig), []
    match injected:
        case InstallFailure.PAGE_TABLE_GONE:
            pass
        case InstallFailure.SOFT_DIRTY:
            process.page_table[address] = orig._replace(soft_dirty=not orig.soft_dirty)
        case InstallFailure.UFFD_WP:
            process.page_table[address] = orig._replace(uffd_wp=not orig.uffd_wp)
        case InstallFailure.MOVED if address + MOVE_DISTANCE not in process.page_table:
            move_unguarded(host, process, address, address + MOVE_DISTANCE)
            host.on_entry_taken(process.pid, address, injected)
        case InstallFailure.ZAPPED:
            host.on_entry_taken(process.pid, address, injected)
            return injected, zap_entries(host, process, [address])
        case _:
            return None, []
    return injected, []


def _why_changed(current: Pte | None, orig: SwapPte) -> InstallFailure:
    """Name what happened to an entry that is not *orig* any more."""
    if current is None:
        return InstallFailure.ZAPPED
    if isinstance(current, SwapPte) and current.entry == orig.entry:
        return InstallFailure.UFFD_WP if current.uffd_wp != orig.uffd_wp else InstallFailure.SOFT_DIRTY
    return InstallFailure.ALREADY_MAPPED


def map_folio(host: Host, fault: SwapFault, folio: Folio) -> Path[None]:
    """Map the locked *folio* and give up the slot's reference. Atomic until a slot that is free is invalidated.

    The caller has checked, since its last yield, that the entry is still there and the folio is uptodate.

    Models: the end of do_swap_page(), from swap_free() on.
    """
    process, slot = fault.process, fault.slot
    device = host.device(slot.entry)
    in_cache = folio.entry is not None
    exclusive = fault.orig.exclusive or not in_cache
    pte = PresentPte(folio, writable=exclusive and not fault.orig.uffd_wp, exclusive=exclusive, dirty=False)
    pte.soft_dirty, pte.uffd_wp = fault.orig.soft_dirty, fault.orig.uffd_wp
    process.page_table[fault.address] = pte
    folio.mappings.append((process, fault.address))
    folio.referenced = True
    last_use = device.put(slot)
    if in_cache and slot.count == 0 and _should_try_to_free_swap(host, fault, folio):
        last_use = swap_cache.remove(host, slot)
        folio.dirty = True
    folio.unlock()
    host.counters.faults += 1
    host.duplication.observe(slot)
    yield from _finish(host, slot, folio, last_use=last_use)


def _should_try_to_free_swap(host: Host, fault: SwapFault, folio: Folio) -> bool:
    """Tell whether the slot should be given up although the folio could stay in the swapcache.

    Models: should_try_to_free_swap(), with the synchronous device's eager free of the swap table series.
    """
    device = host.device(fault.slot.entry)
    if host.policy.frees_swapcache_eagerly and device.is_synchronous:
        return True
    if device.is_dying or host.is_swap_full():
        return True
    return fault.write and len(folio.mappings) == 1 and folio.refs == 1


def _abandon(host: Host, fault: SwapFault, read: ReadFolio, cause: InstallFailure) -> Path[None]:
    """Give up the unlocked folio of a fault that cannot install it. Where the policies differ.

    With an exclusive load on the bypass this is where the only copy of the page dies.
    """
    slot, folio = fault.slot, read.folio
    if not read.was_read:
        host.counters.fault_retries += 1
        put_folio(host, folio)
        return
    # Or from a device that frees on read: then, too, the tier may have given its only copy away.
    from_pool = folio.source in (Outcome.HIT, Outcome.SAME_FILLED) or folio.dirty
    # Owed: the slot still has users and still holds the version that was read. Whether this folio is the only copy of
    # it is the policy's doing.
    is_owed = from_pool and slot.count > 0 and slot.generation == read.generation
    took_only_copy = is_owed and folio.dirty and folio.entry is None
    host.counters.fault_retries += 1
    host.counters.install_failures[cause] += 1
    host.counters.install_failures_owed += is_owed
    host.counters.discarded += from_pool and fault.address not in fault.process.page_table
    failure: BaseException | None = None
    if took_only_copy and host.policy.stores_back:
        failure = yield from _store_back(host, slot, folio)
    elif took_only_copy:
        host.on_only_copy_dropped(slot)
    yield from _finish(host, slot, folio)
    if failure is not None:
        raise failure


def _store_back(host: Host, slot: SwapSlot, folio: Folio) -> Path[BaseException | None]:
    """Give the page back to the tier, under the pin; return why it could not be asked, if it could not.

    If neither pool nor device takes the page, it is lost and known to be. If the outcome is unknown, the slot is in
    doubt, and its next load settles it.

    Models: Yosry Ahmed's proposal in the thread of March 2024.
    """
    assert slot.reader is folio and folio.content is not None
    slot.generation += 1
    restarts = host.device(slot.entry).restarts
    try:
        reply = yield from ask(Store(slot.entry, slot.generation, folio.content))
    except SwapTierError as error:
        if error.definite:
            host.counters.storeback_rejected += 1
            slot.lost = DetectedLoss.UNREACHABLE
        return backing.note_failure(host, slot, error)
    backing.take_store_reply(host, slot, reply)
    # Recheck: the answer may be older than a restart of the tier, and the page gone again.
    slot.in_doubt |= host.device(slot.entry).restarts != restarts
    if slot.in_pool or slot.on_device:
        host.counters.storeback_stored += 1
    else:
        host.counters.storeback_rejected += 1
        slot.lost = DetectedLoss.STOREBACK_REJECTED
    return None


def _finish(host: Host, slot: SwapSlot, folio: Folio, *, last_use: bool = False) -> Path[None]:
    """Drop the fault's pin, if it has one, and its reference; free the slot if that was the last use of it."""
    if slot.reader is folio:
        last_use = host.device(slot.entry).unpin(slot)
    put_folio(host, folio)
    host.duplication.observe(slot)
    if last_use:
        yield from swap_cache.free_slots(host, [slot])


def _sigbus(host: Host, fault: SwapFault, reason: DetectedLoss) -> PageLost:
    host.counters.detected_loss[reason] += 1
    return PageLost(fault.process.pid, fault.address, reason)
