"""Faults that need no swap: the first touch of a page, and the write to a page that is mapped read-only.

Pure. Models: do_anonymous_page() and do_wp_page() in mm/memory.c. Left out: the shared zero page (a first read gets a
page of its own), private file pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swaptier_client.mm import swap_cache
from swaptier_client.mm.effects import Path
from swaptier_client.mm.folio import Folio
from swaptier_client.mm.page_table import PresentPte
from swaptier_client.mm.process import unmap_page
from swaptier_wire.types import ZERO_PAGE

if TYPE_CHECKING:
    from swaptier_client.mm.host import Host
    from swaptier_client.mm.process import Process
    from swaptier_client.mm.swap_map import SwapSlot


def do_anonymous_page(host: Host, process: Process, address: int) -> Path[None]:
    """Map a new page of zeros at an address never touched.

    Raises:
        OutOfMemory: definite.
    """
    yield from host.charge()
    folio = Folio(ZERO_PAGE)
    # Recheck: charging may have slept, and another thread may have touched the address.
    if process.is_alive and address not in process.page_table:
        _map_new(host, process, address, folio)
        host.counters.minor_faults += 1
    host.put_folio(folio)


def do_wp_page(host: Host, process: Process, address: int) -> Path[None]:
    """Make the read-only page at *address* writable: take it if nobody else needs it, else copy it.

    Raises:
        OutOfMemory: definite, nothing was copied.
        SwapTierError: the page is writable, but the tier could not be told that its slot is free.

    Models: do_wp_page(), wp_can_reuse_anon_folio(), wp_page_copy().
    """
    pte = process.page_table.get(address)
    if not isinstance(pte, PresentPte) or pte.writable:
        return
    # A write-protected page's fault goes to the userfaultfd handler first; ours lifts the protection at once.
    pte.uffd_wp = False
    folio = pte.folio
    if not folio.trylock():
        swap_cache.get(folio)
        yield from folio.wait_unlocked()
        host.put_folio(folio)
        return
    slot = host.slot(folio.entry) if folio.entry is not None else None
    if len(folio.mappings) == 1 and folio.refs == 0 and (slot is None or slot.count == 0):
        pte.writable = pte.exclusive = True
        if slot is not None:
            swap_cache.remove(host, slot)
            folio.dirty = True
        folio.unlock()
        if slot is not None:
            yield from swap_cache.free_slot(host, slot)
        return
    folio.unlock()
    yield from _copy(host, process, address, pte)


def _copy(host: Host, process: Process, address: int, pte: PresentPte) -> Path[None]:
    # Held, so that reclaim cannot answer the charge by taking the very page that is to be copied, again and again.
    folio = swap_cache.get(pte.folio)
    freed: list[SwapSlot] = []
    try:
        yield from host.charge(holding=folio)
        copy = Folio(folio.content)
        # Recheck: charging may have slept, and the page may have been unmapped, zapped or written by another thread.
        if process.page_table.get(address) is pte and not pte.writable:
            freed = unmap_page(host, process, address, folio)
            _map_new(host, process, address, copy)
        host.put_folio(copy)
    finally:
        host.put_folio(folio)
    yield from swap_cache.free_slots(host, freed)


def _map_new(host: Host, process: Process, address: int, folio: Folio) -> None:
    process.page_table[address] = PresentPte(folio, writable=True, exclusive=True, dirty=True)
    folio.mappings.append((process, address))
    folio.referenced = True
    host.lru.add(folio)
