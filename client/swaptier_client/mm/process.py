"""What happens to all of a process: fork, zap, move, exit.

Pure. Faults, zap and move hold the mmap lock for reading, fork and exit for writing; reclaim takes none. A path that
holds a folio's lock never waits for an mmap lock, so a fault may wait for a folio's lock without dropping it.

Models: copy_pte_range(), zap_pte_range(), move_pages_pte() for swap entries, exit_mmap().
"""

from collections.abc import Iterable

from swaptier_client.mm import swap_cache
from swaptier_client.mm.effects import Path
from swaptier_client.mm.errors import NotMapped, OutOfMemory
from swaptier_client.mm.folio import Folio, PresentPte, Process, SwapPte
from swaptier_client.mm.host import Host, end_if_unused
from swaptier_client.mm.swap_map import SWAP_MAP_MAX, SwapSlot


def fork(host: Host, parent: Process) -> Path[Process]:
    """Return a copy of *parent* that shares its pages until one of the two writes.

    Mapped pages become read-only in both; a swapped-out page's slot gets one more user and loses the exclusive bit.

    Raises:
        NotMapped: *parent* has ended. Definite.
        OutOfMemory: a slot has as many users as it can have. Definite.

    Models: copy_nonpresent_pte(), copy_present_pte().
    """
    yield from parent.mmap_lock.write()
    try:
        _check_can_fork(host, parent)
        return _copy_page_table(host, parent)
    finally:
        parent.mmap_lock.write_done()


def _check_can_fork(host: Host, parent: Process) -> None:
    if not parent.is_alive:
        raise NotMapped(f"process {parent.pid} has ended and cannot fork; nothing changed")
    for pte in parent.page_table.values():
        if isinstance(pte, SwapPte) and host.slot(pte.entry).count >= SWAP_MAP_MAX:
            raise OutOfMemory(f"a swap slot can have {SWAP_MAP_MAX} users and one has that many; nothing was forked")


def _copy_page_table(host: Host, parent: Process) -> Process:
    child = host.spawn()
    for address, pte in parent.page_table.items():
        if isinstance(pte, SwapPte):
            slot = host.slot(pte.entry)
            host.device(pte.entry).duplicate(slot)
            slot.owners.append((child.pid, address))
            parent.page_table[address] = child.page_table[address] = pte._replace(exclusive=False)
        else:
            pte.writable = pte.exclusive = False
            child.page_table[address] = PresentPte(pte.folio, writable=False, exclusive=False, dirty=pte.dirty)
            pte.folio.mappings.append((child, address))
    return child


def zap(host: Host, process: Process, addresses: Iterable[int]) -> Path[None]:
    """Discard the pages at *addresses*; they read as zeros from now on. Faults on them may be running.

    Raises:
        SwapTierError: the pages are discarded, but the tier was not reached to free their slots.

    Models: madvise(MADV_DONTNEED), zap_pte_range().
    """
    yield from process.mmap_lock.read()
    try:
        yield from swap_cache.free_slots(host, zap_entries(host, process, addresses))
    finally:
        process.mmap_lock.read_done()


def exit_process(host: Host, process: Process) -> Path[None]:
    """End *process*: wait for its running faults, then discard everything it had.

    Raises:
        SwapTierError: the process has ended, but the tier was not reached to free its slots.

    Models: exit_mmap().
    """
    yield from process.mmap_lock.write()
    # A second exit finds nothing left to do.
    process.is_alive = False
    slots = zap_entries(host, process, list(process.page_table))
    host.processes.pop(process.pid, None)
    process.mmap_lock.write_done()
    yield from swap_cache.free_slots(host, slots)


def move(host: Host, process: Process, source: int, target: int) -> bool:
    """Move the swap entry at *source* to the empty *target*, if no path is reading its slot. Atomic.

    False: refused, as -EAGAIN. Since 0ea148a79919 a slot with HAS_CACHE set refuses, because a fault in flight compares
    the entry only at the old address and would drop its page there.

    Models: UFFDIO_MOVE, move_swap_pte().
    """
    pte = process.page_table.get(source)
    if not isinstance(pte, SwapPte) or target in process.page_table or host.slot(pte.entry).has_cache:
        return False
    move_unguarded(host, process, source, target)
    return True


def move_unguarded(host: Host, process: Process, source: int, target: int) -> None:
    """Move the swap entry at *source* to the empty *target*, as kernels before 0ea148a79919 did."""
    assert target not in process.page_table
    pte = process.page_table[target] = process.page_table.pop(source)
    assert isinstance(pte, SwapPte)
    owners = host.slot(pte.entry).owners
    owners[owners.index((process.pid, source))] = (process.pid, target)


def zap_entries(host: Host, process: Process, addresses: Iterable[int]) -> list[SwapSlot]:
    """Remove the entries at *addresses* and return the slots left without any use, for free_slots(). Atomic."""
    freed: list[SwapSlot] = []
    for address in addresses:
        pte = process.page_table.pop(address, None)
        if isinstance(pte, SwapPte):
            slot = host.slot(pte.entry)
            # A folio that others still map keeps its slot, unless swap is short. Models: TTRS_UNMAPPED | TTRS_FULL.
            may_free = slot.folio is None or not slot.folio.mappings or host.is_swap_full()
            if host.device(pte.entry).put(slot) or (may_free and swap_cache.try_to_free(host, slot)):
                freed.append(slot)
        elif pte is not None:
            freed += unmap_page(host, process, address, pte.folio)
    return freed


def unmap_page(host: Host, process: Process, address: int, folio: Folio) -> list[SwapSlot]:
    """Forget that *process* maps *folio* at *address*; return the slot that this leaves without any use, if it does.

    Models: folio_remove_rmap_pte() and free_swap_cache().
    """
    folio.mappings.remove((process, address))
    if folio.entry is None:
        end_if_unused(host, folio)
        return []
    slot = host.slot(folio.entry)
    host.duplication.observe(slot)
    return [slot] if not folio.mappings and swap_cache.try_to_free(host, slot) else []
