"""swapoff: read every page of a device back, so that nothing is left on it.

Pure. From the start no new slot of the device is given out; faults and reclaim go on. When this returns no slot
of the device is in use, so the tier must hold nothing for it: the caller closes the area and checks that.

Models: try_to_unuse(), unuse_mm() and unuse_pte() in mm/swapfile.c.
"""

from collections.abc import Sequence

from swaptier_client.mm import swap_cache
from swaptier_client.mm.effects import Path, Wait
from swaptier_client.mm.errors import OutOfMemory, PageLost
from swaptier_client.mm.fault import SwapFault, map_folio, swapin_readahead
from swaptier_client.mm.folio import Process, SwapPte
from swaptier_client.mm.host import Host, put_folio
from swaptier_client.mm.swap_map import SwapDevice, SwapSlot

PASSES_WITHOUT_PROGRESS_MAX = 16
"""Walks over all processes that free no slot before swapoff gives up. The kernel goes on until a signal comes."""


def swapoff(host: Host, device: SwapDevice) -> Path[None]:
    """Bring every page of *device* back into memory and free its slots.

    Raises:
        PageLost: a page could not be read; the device stays in use, and may be swapped off again.
        OutOfMemory: the pages do not fit; as above.
        SwapTierError: the tier could not be asked; as above.
    """
    device.is_dying = True
    try:
        yield from _try_to_unuse(host, device)
    except BaseException:
        device.is_dying = False
        raise


def _try_to_unuse(host: Host, device: SwapDevice) -> Path[None]:
    passes_without_progress = 0
    while device.slots_in_use:
        before = device.slots_in_use
        for process in list(host.processes.values()):
            yield from _unuse_process(host, process, device)
        # What is left has no user: folios of zapped pages, and pinned slots.
        for slot in device.slots:
            if slot.count == 0 and slot.has_cache:
                yield from _free_leftover(host, slot)
        passes_without_progress = 0 if device.slots_in_use < before else passes_without_progress + 1
        if passes_without_progress == PASSES_WITHOUT_PROGRESS_MAX:
            raise OutOfMemory(
                f"swap device {device.type} still has {device.slots_in_use} slots in use: pages that came back were "
                "reclaimed before all of their users had them. Nothing was lost. Raise the resident limit"
            )


def _unuse_process(host: Host, process: Process, device: SwapDevice) -> Path[None]:
    for address in list(process.page_table):
        pte = process.page_table.get(address)
        if not isinstance(pte, SwapPte) or pte.entry.type != device.type:
            continue
        yield from process.mmap_lock.read()
        try:
            yield from _unuse_pte(host, process, address, host.slot(pte.entry))
        finally:
            process.mmap_lock.read_done()


def _unuse_pte(host: Host, process: Process, address: int, slot: SwapSlot) -> Path[None]:
    """Map the page of *slot* at *address*, if it is still there. Always through the swapcache, as unuse_pte() does."""
    if slot.lost is not None:
        raise PageLost(process.pid, address, slot.lost)
    read = yield from swapin_readahead(host, slot, _neighbours(host, process, address, slot))
    if read is None:
        return
    folio = read.folio
    while not folio.trylock():
        yield from folio.wait_unlocked()
    # Recheck: the bits may have changed, the entry must not.
    pte = process.page_table.get(address)
    if slot.folio is folio and isinstance(pte, SwapPte) and pte.entry == slot.entry and folio.uptodate:
        yield from map_folio(host, SwapFault(process, address, write=False, orig=pte, slot=slot), folio)
        return
    folio.unlock()
    put_folio(host, folio)
    if folio.read_error is not None:
        raise PageLost(process.pid, address, folio.read_error)


def _neighbours(host: Host, process: Process, address: int, slot: SwapSlot) -> Sequence[SwapSlot]:
    """Return what to read ahead with *slot*, on every device and under every policy, or count that it was read ahead.

    f1879e8a0c60, which stopped readahead on synchronous devices, changed do_swap_page() and not unuse_pte_range().
    """
    if slot.folio is None:
        return host.readahead.neighbours(host.devices, process, address, slot)
    host.counters.swap_ra_hit += host.readahead.note_lookup(slot.folio)
    return ()


def _free_leftover(host: Host, slot: SwapSlot) -> Path[None]:
    """Free a slot that no page table names, or wait until its folio is unlocked or its pin is dropped."""
    if swap_cache.try_to_free(host, slot):
        yield from swap_cache.free_slots(host, [slot])
    elif slot.folio is not None:
        folio = slot.folio.get()
        yield from folio.wait_unlocked()
        put_folio(host, folio)
    elif slot.reader is not None or slot.is_freeing:
        yield Wait(slot.wait_queue())
    else:
        # The tier could not be reached the first time.
        yield from swap_cache.free_slots(host, [slot])
