"""Memory: charging pages against the host's limit, with reclaim where there is no room.

Pure. Memory is charged before anything is read, so that failing to get it loses nothing.

Models: try_charge_memcg() and the allocation of a swap-in's folio in mm/memory.c.
"""

from swaptier_client.mm.effects import Path, Wait
from swaptier_client.mm.errors import OutOfMemory
from swaptier_client.mm.folio import Folio
from swaptier_client.mm.host import Host
from swaptier_client.mm.reclaim import swap_out

RECLAIM_RETRIES_MAX = 16
"""Rounds of reclaim without progress before a charge fails. Models: MAX_RECLAIM_RETRIES."""


def alloc_folio(host: Host) -> Path[Folio]:
    """Return a locked, charged folio that is not on the clock list and not uptodate.

    Raises:
        OutOfMemory: reclaim made no progress. Definite.

    Models: alloc_swap_folio() with mem_cgroup_swapin_charge_folio().
    """
    yield from charge(host)
    return Folio(None, is_locked=True)


def charge(host: Host, holding: Folio | None = None) -> Path[None]:
    """Make room for one page and take it. One path reclaims at a time; the others wait for what it frees.

    *holding* is a folio that the caller keeps meanwhile, and that no other path should wait for.

    Raises:
        OutOfMemory: definite.
        SwapTierError: reclaim could not store.

    Models: try_charge_memcg().
    """
    host.held_by_waiters.append(holding)
    try:
        yield from _make_room(host)
    finally:
        host.held_by_waiters.remove(holding)
    host.resident_pages += 1


def _make_room(host: Host) -> Path[None]:
    rounds_without_progress = 0
    while host.resident_pages >= host.resident_pages_max:
        if host.is_reclaiming:
            yield Wait(host.memory_queue)
            continue
        if rounds_without_progress == RECLAIM_RETRIES_MAX:
            raise OutOfMemory(
                f"{host.resident_pages} pages are resident, the limit is {host.resident_pages_max}, and none "
                "could be reclaimed; nothing was lost. Raise the resident limit or the number of swap slots"
            )
        host.is_reclaiming = True
        try:
            freed = yield from swap_out(host)
        finally:
            host.is_reclaiming = False
            host.memory_queue.wake_all()
        rounds_without_progress = 0 if freed else rounds_without_progress + 1
        if not freed and _is_memory_on_its_way(host):
            rounds_without_progress = 0
            yield Wait(host.memory_queue)


def _is_memory_on_its_way(host: Host) -> bool:
    """Tell whether faults are between charging a folio and mapping it: each will drop a reference soon.

    Such a fault holds its folio locked, private, or not yet on the list, and does not wait for memory meanwhile.
    """
    folios = host.lru.folios
    return host.resident_pages > len(folios) or any(
        (folio.is_locked or folio.is_private) and folio not in host.held_by_waiters for folio in folios
    )
