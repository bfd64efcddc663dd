"""Access: what a load or store of a process does, and the faults that need no swap.

Pure. Models: handle_mm_fault() in a loop, as the faulting instruction is run again; do_anonymous_page() and
do_wp_page() in mm/memory.c. Left out: the shared zero page (a first read gets a page of its own), private file pages.
"""

from swaptier_client.mm import swap_cache
from swaptier_client.mm.effects import Path
from swaptier_client.mm.errors import NotMapped
from swaptier_client.mm.fault import swap_in
from swaptier_client.mm.folio import Folio, PresentPte, Process, SwapPte
from swaptier_client.mm.host import Host, put_folio
from swaptier_client.mm.memory import charge
from swaptier_client.mm.process import unmap_page
from swaptier_client.mm.swap_map import SwapSlot
from swaptier_wire.types import PAGE_BYTES, ZERO_PAGE


def access_page(host: Host, process: Process, address: int, *, write: bool) -> Path[Folio]:
    """Make *address* accessible, faulting as often as it takes, and return the folio mapped there.

    The page is mapped (writable, if *write*) when this returns, and stays so until the caller's next yield: read
    `folio.content`, or call `write_page()`, before that.

    Raises:
        PageLost: the page is gone. Definite.
        NotMapped: the process has ended. Definite.
        OutOfMemory: no memory could be reclaimed. Definite.
        SwapTierError: the tier could not be asked.
    """
    while True:
        if not process.is_alive:
            raise NotMapped(f"process {process.pid} has ended; page {address} no longer exists")
        pte = process.page_table.get(address)
        if isinstance(pte, PresentPte) and (pte.writable or not write):
            pte.folio.referenced = True
            return pte.folio
        yield from process.mmap_lock.read()
        try:
            if pte is None:
                yield from do_anonymous_page(host, process, address)
            elif isinstance(pte, SwapPte):
                yield from swap_in(host, process, address, write=write)
            else:
                yield from do_wp_page(host, process, address)
        finally:
            process.mmap_lock.read_done()


def write_page(host: Host, process: Process, address: int, page: bytes) -> None:
    """Replace the content of a page that access_page(write=True) just returned; *page* is exactly PAGE_BYTES."""
    pte = process.page_table[address]
    assert isinstance(pte, PresentPte) and pte.writable and len(page) == PAGE_BYTES
    pte.folio.content = page
    pte.dirty = True
    pte.soft_dirty = True
    if pte.folio.entry is not None:
        host.duplication.observe(host.slot(pte.folio.entry))


def do_anonymous_page(host: Host, process: Process, address: int) -> Path[None]:
    """Map a new page of zeros at an address never touched.

    Raises:
        OutOfMemory: definite.
    """
    yield from charge(host)
    folio = Folio(ZERO_PAGE)
    # Recheck: charging may have slept, and another thread may have touched the address.
    if process.is_alive and address not in process.page_table:
        _map_new(host, process, address, folio)
        host.counters.minor_faults += 1
    put_folio(host, folio)


def do_wp_page(host: Host, process: Process, address: int) -> Path[None]:
    """Make the read-only page at *address* writable: reuse it if nothing else needs it, else copy it.

    Raises:
        OutOfMemory: definite, nothing was copied.
        SwapTierError: the page is writable, but the tier was not reached to free its slot.

    Models: do_wp_page(), wp_can_reuse_anon_folio(), wp_page_copy().
    """
    pte = process.page_table.get(address)
    if not isinstance(pte, PresentPte) or pte.writable:
        return
    # A write-protected page's fault goes to the userfaultfd handler first; ours lifts the protection at once.
    pte.uffd_wp = False
    folio = pte.folio
    if not folio.trylock():
        folio.get()
        yield from folio.wait_unlocked()
        put_folio(host, folio)
        return
    slot = host.slot(folio.entry) if folio.entry is not None else None
    if len(folio.mappings) == 1 and folio.refs == 0 and (slot is None or slot.count == 0):
        pte.writable = pte.exclusive = True
        if slot is not None:
            swap_cache.remove(host, slot)
            folio.dirty = True
        folio.unlock()
        if slot is not None:
            yield from swap_cache.free_slots(host, [slot])
        return
    folio.unlock()
    yield from _copy(host, process, address, pte)


def _copy(host: Host, process: Process, address: int, pte: PresentPte) -> Path[None]:
    # Held, so that reclaim cannot answer the charge by taking the very page that is to be copied, again and again.
    folio = pte.folio.get()
    freed: list[SwapSlot] = []
    try:
        yield from charge(host, holding=folio)
        copy = Folio(folio.content)
        # Recheck: charging may have slept, and the page may have been unmapped, zapped or written by another thread.
        if process.page_table.get(address) is pte and not pte.writable:
            freed = unmap_page(host, process, address, folio)
            _map_new(host, process, address, copy)
        put_folio(host, copy)
    finally:
        put_folio(host, folio)
    yield from swap_cache.free_slots(host, freed)


def _map_new(host: Host, process: Process, address: int, folio: Folio) -> None:
    process.page_table[address] = PresentPte(folio, writable=True, exclusive=True, dirty=True)
    folio.mappings.append((process, address))
    folio.referenced = True
    host.lru.add(folio)
