"""Recounts a host: everything it keeps twice must agree, between any two steps of any paths.

Pure, reads only. Slow on purpose: for tests and for the explorer, which calls it in every state it reaches. Each check
is one claim about the kernel's own books: the swap map against the page tables, the reverse map against the page
tables, HAS_CACHE against the swapcache, the charge against the folios, clean against backed.
"""

from collections import Counter
from collections.abc import Iterator

from swaptier_client.mm.duplication import DuplicationCause, duplication_cause
from swaptier_client.mm.effects import SwapEntry
from swaptier_client.mm.folio import Folio, PresentPte, Process, SwapPte
from swaptier_client.mm.host import Host
from swaptier_client.mm.reclaim import SWAP_CLUSTER_MAX
from swaptier_client.mm.swap_map import SwapDevice, SwapSlot

FOLIOS_HELD_MAX = SWAP_CLUSTER_MAX + 2
"""Folios that one path can hold while nothing else knows them: those it isolated, one it reads into, one it copies."""


def check_host(host: Host, *, paths_running: int) -> None:
    """Recount *host*, on which *paths_running* paths have begun and not ended.

    Raises:
        AssertionError: a defect of mm.
    """
    folios = _known_folios(host)
    _check_page_tables(host, folios)
    for device in host.devices:
        _check_free_list(device)
    for slot in _slots(host):
        _check_slot(host, slot)
    for folio in folios:
        _check_folio(host, folio)
    _check_ledger(host)
    held = host.resident_pages - len(folios)
    assert 0 <= held <= paths_running * FOLIOS_HELD_MAX, (
        f"{host.resident_pages} pages are charged, {len(folios)} folios are known and {paths_running} paths run"
    )
    assert host.resident_pages <= host.resident_pages_max, "more pages are resident than may be"
    if paths_running == 0:
        _check_rest(host, folios)


def _slots(host: Host) -> Iterator[SwapSlot]:
    for device in host.devices:
        yield from device.slots


def _known_folios(host: Host) -> set[Folio]:
    """Every folio that can be found without asking a path: on the clock, mapped, cached, or read under a pin."""
    folios = set(host.lru.folios)
    for process in host.processes.values():
        folios.update(pte.folio for pte in process.page_table.values() if isinstance(pte, PresentPte))
    for slot in _slots(host):
        folios.update(folio for folio in (slot.folio, slot.reader) if folio is not None)
    return folios


def _check_page_tables(host: Host, folios: set[Folio]) -> None:
    users: Counter[SwapEntry] = Counter()
    mappings: dict[Folio, list[tuple[Process, int]]] = {}
    for pid, process in host.processes.items():
        assert process.pid == pid and process.is_alive, f"process {pid} is listed and should not be"
        for address, pte in process.page_table.items():
            if isinstance(pte, SwapPte):
                users[pte.entry] += 1
                slot = host.slot(pte.entry)
                assert not pte.exclusive or slot.count == 1, f"{pte} is exclusive and its slot has {slot.count} users"
            else:
                mappings.setdefault(pte.folio, []).append((process, address))
                assert pte.exclusive or not pte.writable, f"page {address} of {pid} is writable and not exclusive"
                assert not pte.exclusive or len(pte.folio.mappings) == 1, f"page {address} of {pid} is not exclusive"
                assert pte.folio.uptodate, f"page {address} of {pid} is mapped before it was read"
    for slot in _slots(host):
        assert slot.count == users[slot.entry], (
            f"{slot.entry} is named by {users[slot.entry]} page table entries and counts {slot.count}"
        )
    for folio in folios:
        assert _in_order(folio.mappings) == _in_order(mappings.get(folio, [])), "the reverse map is wrong"


def _in_order(mappings: list[tuple[Process, int]]) -> list[tuple[int, int]]:
    return sorted((process.pid, address) for process, address in mappings)


def _check_free_list(device: SwapDevice) -> None:
    free = set(device.free_offsets)
    assert len(free) == len(device.free_offsets), f"device {device.type}: a slot is free twice"
    for slot in device.slots:
        in_use = bool(slot.count) or slot.has_cache
        is_free = slot.entry.offset in free
        assert in_use != is_free, f"{slot.entry}: in use is {in_use} and free is {is_free}"


def _check_slot(host: Host, slot: SwapSlot) -> None:
    name = slot.entry
    if slot.folio is not None:
        assert slot.has_cache, f"{name}: a swapcache folio without HAS_CACHE"
        assert slot.folio.entry == name, f"{name}: its folio is bound to {slot.folio.entry}"
        assert slot.reader is None, f"{name}: cached and pinned at once"
    if slot.reader is not None:
        assert slot.is_pinned and host.policy.pins, f"{name}: read without a pin"
        assert slot.reader.is_private, f"{name}: the folio read under its pin is not private"
    if not slot.has_cache and slot.count == 0:
        is_held = slot.in_pool or slot.on_device or slot.in_doubt
        assert not is_held, f"{name} is free and the tier may hold its page"
        assert not (slot.is_storing or slot.is_freeing or slot.was_rescued), f"{name} is free and busy"
    waiters = slot.queue.waiters if slot.queue is not None else []
    assert not waiters or slot.is_pinned, f"{name}: a path waits for a pin that is gone"
    assert slot.duplication == duplication_cause(slot), (
        f"{name} is counted as {slot.duplication} and is {duplication_cause(slot)}"
    )
    if host.policy.is_safe and slot.count and not slot.has_cache:
        assert _is_backed(slot), f"{name}: a page is owed and has no copy"


def _check_folio(host: Host, folio: Folio) -> None:
    assert folio.refs >= 0
    assert folio.refs or folio.mappings or folio.entry is not None, "a folio outlived its last use"
    assert folio in host.lru.folios or folio.refs, "a folio is out of reach of reclaim"
    assert not (folio.uptodate and folio.content is None)
    if folio.entry is not None:
        assert host.slot(folio.entry).folio is folio, f"a folio thinks it is cached for {folio.entry}"
    waiters = folio.lock_queue.waiters if folio.lock_queue is not None else []
    assert not waiters or folio.is_locked, "a path waits for the lock of an unlocked folio"
    if host.policy.is_safe and folio.entry is not None and folio.uptodate and not folio.is_locked:
        slot = host.slot(folio.entry)
        owed = bool(slot.count or folio.mappings)
        assert not owed or folio.dirty or _is_backed(slot), f"{slot.entry}: a clean folio has no other copy"
        is_sure = slot.is_zero or not slot.in_doubt
        assert not owed or folio.dirty or is_sure, f"{slot.entry}: a clean folio's other copy is in doubt"


def _is_backed(slot: SwapSlot) -> bool:
    """The tier has the slot's page, or may have it, or it needs none, or its loss is known."""
    return slot.in_pool or slot.on_device or slot.in_doubt or slot.is_zero or slot.lost is not None


def _check_ledger(host: Host) -> None:
    ledger = host.duplication
    slots = [slot for slot in _slots(host) if slot.duplication is not None]
    causes = Counter(slot.duplication for slot in slots)
    for cause in DuplicationCause:
        assert ledger.pages(cause) == causes[cause], f"{ledger.pages(cause)} pages are counted as {cause.name}"
    assert ledger.waste_bytes == sum(slot.entry_bytes for slot in slots), "waste bytes"
    assert ledger.pages_peak >= ledger.pages_total
    for slot in _slots(host):
        # Without a pin, an exclusive load that is under way may take the page of a slot that is being freed.
        is_orphan = slot.in_pool and not slot.count and slot.is_pinned and slot.reader is None
        assert is_orphan == (slot in host.orphans) or not host.policy.pins, f"{slot.entry}: orphan is {not is_orphan}"


def _check_rest(host: Host, folios: set[Folio]) -> None:
    """Nothing runs: no lock, reference, pin or lock of a page table may be left behind."""
    for folio in folios:
        assert folio.refs == 0, "a reference was left behind"
        assert not folio.is_locked, "a folio was left locked"
    for slot in _slots(host):
        busy = slot.is_storing or slot.is_freeing or slot.reader is not None
        assert not busy, f"{slot.entry} was left busy"
        untold = slot.in_pool or slot.on_device or slot.in_doubt
        assert not slot.is_pinned or (slot.count == 0 and untold), f"{slot.entry} was left pinned"
    for process in host.processes.values():
        lock = process.mmap_lock
        assert not (lock.readers or lock.is_written or lock.writers_waiting), (
            f"mmap lock of {process.pid} was left held"
        )
