"""Reclaim: take pages from processes, write them to the tier, free their memory. shrink_folio_list() as a coroutine.

Pure. Rules: a folio is locked from isolation until its store is answered; it leaves the swapcache only if, relocked,
it is clean and no fault took it back meanwhile; a store that was refused makes it dirty again.

Models: shrink_folio_list(), add_to_swap(), try_to_unmap(), pageout(), __remove_mapping() in mm/vmscan.c and mm/rmap.c.
Left out: file pages, large folios, writeback throttling. The stores of one batch go out together, as under a plug.
"""

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from swaptier_client.mm import backing, swap_cache
from swaptier_client.mm.effects import Invalidate, Path, Preempt, Store
from swaptier_client.mm.folio import Folio, PresentPte, Process, SwapPte
from swaptier_client.mm.host import Host, alloc_slot, put_folio
from swaptier_client.mm.lost_reply import batch
from swaptier_client.mm.swap_map import SWAP_MAP_MAX, SwapSlot
from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import ZERO_PAGE, Outcome

SWAP_CLUSTER_MAX = 32
"""Folios isolated at a time. Models: SWAP_CLUSTER_MAX."""


class Pageout(NamedTuple):
    """A locked, unmapped folio on its way out."""

    folio: Folio
    slot: SwapSlot
    request: Store | Invalidate | None
    """What the tier is asked: to store a dirty page, or to forget the older version of one that is now all zeros. None
    when its backing copy is still good."""


def swap_out(host: Host, wanted: int = SWAP_CLUSTER_MAX) -> Path[int]:
    """Reclaim up to *wanted* folios from the end of the clock and return how many were freed.

    Raises:
        SwapTierError: a store could not be made; its folios stay dirty in the swapcache, nothing is lost.

    Models: shrink_inactive_list().
    """
    return (yield from _shrink(host, host.lru.isolate(min(wanted, SWAP_CLUSTER_MAX))))


def pageout(host: Host, process: Process, addresses: Iterable[int]) -> Path[int]:
    """Reclaim the pages of *process* at *addresses*, touched lately or not, and return how many were freed.

    Pages that are locked, or mapped by others too, are left alone. At most SWAP_CLUSTER_MAX pages.

    Raises:
        SwapTierError: as swap_out().

    Models: madvise(MADV_PAGEOUT), reclaim_pages().
    """
    isolated: list[Folio] = []
    for address in islice(addresses, SWAP_CLUSTER_MAX):
        pte = process.page_table.get(address)
        if isinstance(pte, PresentPte) and len(pte.folio.mappings) == 1 and host.lru.isolate_one(pte.folio):
            pte.folio.referenced = False
            isolated.append(pte.folio)
    return (yield from _shrink(host, isolated))


def _shrink(host: Host, isolated: list[Folio]) -> Path[int]:
    """Write out and free the *isolated* folios, and put back those that cannot be. Models: shrink_folio_list()."""
    locked = [folio for folio in isolated if folio.trylock()]
    for folio in isolated:
        if not folio.is_locked:
            _keep(host, folio)
    yield Preempt("swap_out.isolated")

    pageouts: list[Pageout] = []
    for folio in locked:
        pageout = _unmap(host, folio)
        if pageout is None:
            folio.unlock()
            _keep(host, folio)
        else:
            pageouts.append(pageout)
    yield from _write(host, pageouts)

    # The folios are unlocked, as after swap_writepage(): a fault may find them in the swapcache and take them back.
    yield Preempt("swap_out.written")
    freed = 0
    unused: list[SwapSlot] = []
    for pageout in pageouts:
        freed += _free_unless_rescued(host, pageout, unused)
    yield from swap_cache.free_slots(host, unused)
    return freed


def _unmap(host: Host, folio: Folio) -> Pageout | None:
    """Give the locked folio a slot, replace its mappings by swap entries, and say what must be stored. None: keep it.

    Models: add_to_swap() and try_to_unmap().
    """
    if folio.entry is None:
        if not folio.mappings:
            # A fault's private folio between read and mapping: no page table has it yet, there is nothing to swap.
            return None
        slot = alloc_slot(host)
        if slot is None:
            return None
        swap_cache.insert(slot, folio)
        folio.dirty = True
    else:
        slot = host.slot(folio.entry)
        if not folio.uptodate:
            # Its read failed and it is not mapped: nothing to write, and nothing to keep it for.
            return Pageout(folio, slot, None)
        if host.device(slot.entry).is_dead and not all(device.is_dead for device in host.devices):
            # It would not be taken, and fail the whole batch, of which other tiers may take the rest.
            return None
    device = host.device(slot.entry)
    if slot.count + len(folio.mappings) > SWAP_MAP_MAX:
        return None
    for process, address in folio.mappings:
        pte = process.page_table[address]
        assert isinstance(pte, PresentPte) and pte.folio is folio, "the reverse map names another page"
        device.duplicate(slot)
        process.page_table[address] = SwapPte(
            slot.entry, exclusive=pte.exclusive, soft_dirty=pte.soft_dirty, uffd_wp=pte.uffd_wp
        )
        folio.dirty |= pte.dirty
        slot.owners.append((process.pid, address))
    folio.mappings.clear()
    if slot.count == 0:
        # Its last user was zapped: the page is not needed any more. Models: folio_free_swap() in swap_writepage().
        folio.dirty = False
    request = _begin_write(host, slot, folio) if folio.dirty else None
    host.duplication.observe(slot)
    return Pageout(folio, slot, request)


def _begin_write(host: Host, slot: SwapSlot, folio: Folio) -> Store | Invalidate | None:
    """Name the version that goes out. Its generation rises: one slot can carry several versions.

    Models: swap_writepage().
    """
    assert folio.content is not None
    folio.dirty = False
    slot.is_zero = host.has_zeromap and folio.content == ZERO_PAGE
    if slot.is_zero:
        host.counters.swpout_zero += 1
        return Invalidate(slot.entry, slot.generation) if slot.in_pool or slot.on_device else None
    slot.generation += 1
    slot.is_storing = True
    checksum = page_checksum(folio.content)
    if checksum == folio.backed_checksum:
        host.counters.wasted_recompress += 1
    else:
        slot.pool_loads = 0
        folio.backed_checksum = checksum
    return Store(slot.entry, slot.generation, folio.content)


def _write(host: Host, pageouts: list[Pageout]) -> Path[None]:
    """Store what is dirty, all at once, and unlock everything. Models: pageout() and swap_writepage()."""
    requests = tuple(pageout.request for pageout in pageouts if pageout.request is not None)
    restarts = [device.restarts for device in host.devices]
    replies = iter((yield from batch(requests)) if requests else ())
    failure: BaseException | None = None
    for folio, slot, request in pageouts:
        if request is None:
            continue
        reply = next(replies)
        if isinstance(reply, BaseException):
            folio.dirty = True
            failure = backing.note_failure(host, slot, reply)
        elif isinstance(request, Store):
            backing.take_store_reply(host, slot, reply)
            folio.dirty |= reply.outcome not in (Outcome.STORED, Outcome.DEVICE)
            if host.device(slot.entry).restarts != restarts[slot.entry.type]:
                # The answer may be older than the restart, and the page gone again.
                slot.in_doubt = folio.dirty = True
        else:
            slot.in_pool = slot.on_device = False
    for folio, slot, request in pageouts:
        if failure is not None and isinstance(request, Store):
            slot.is_storing, slot.was_rescued = False, slot.in_pool
        folio.unlock()
        host.duplication.observe(slot)
    if failure is not None:
        for folio, _, _ in pageouts:
            _keep(host, folio)
        raise failure


def _free_unless_rescued(host: Host, pageout: Pageout, unused: list[SwapSlot]) -> bool:
    """Drop the folio from the swapcache and free it, unless it is used again or dirty; tell which. Atomic.

    A slot that this leaves without any use is added to *unused*.

    Models: the end of shrink_folio_list() and __remove_mapping().
    """
    folio, slot, request = pageout
    is_ours = folio.entry == slot.entry
    if is_ours and folio.trylock():
        if not folio.mappings and folio.refs == 1 and not folio.dirty:
            if swap_cache.remove(host, slot):
                unused.append(slot)
            folio.unlock()
            put_folio(host, folio)
            return True
        folio.unlock()
    if is_ours:
        slot.is_storing = False
        if isinstance(request, Store) and slot.in_pool:
            slot.was_rescued = True
            host.counters.store_rescued += 1
        host.duplication.observe(slot)
    _keep(host, folio)
    return False


def _keep(host: Host, folio: Folio) -> None:
    host.lru.add(folio)
    put_folio(host, folio)
