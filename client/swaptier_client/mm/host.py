"""One emulated host kernel: processes that share one swap map, one swapcache and one memory limit.

Pure. Time (`now_ns`) and chance (`install_failure`) are given from outside. Everything that can wait is a `Path`;
everything else here is atomic. Two hosts are two `Host`s: they share nothing, and must not share slots.

Models: the parts of mm/memory.c around a fault (handle_mm_fault(), do_anonymous_page(), do_wp_page()) and the memory
cgroup's charge with direct reclaim.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence

from swaptier_client.mm.anonymous import do_anonymous_page, do_wp_page
from swaptier_client.mm.counters import HostCounters, InstallFailure
from swaptier_client.mm.duplication import DuplicationLedger
from swaptier_client.mm.effects import Path, RequestReply, SwapEntry, Wait, WaitQueue
from swaptier_client.mm.errors import NotMapped, OutOfMemory
from swaptier_client.mm.fault import swap_in
from swaptier_client.mm.folio import ClockList, Folio
from swaptier_client.mm.invariants import check_host
from swaptier_client.mm.page_table import PresentPte, SwapPte
from swaptier_client.mm.policy import Policy
from swaptier_client.mm.process import Process
from swaptier_client.mm.readahead import Readahead
from swaptier_client.mm.reclaim import swap_out
from swaptier_client.mm.swap_map import SwapDevice, SwapSlot
from swaptier_wire.errors import SwapTierError
from swaptier_wire.types import PAGE_BYTES, Outcome, SlotReply

RECLAIM_RETRIES_MAX = 16
"""Rounds of reclaim without progress before a charge fails. Models: MAX_RECLAIM_RETRIES."""

InstallFailureSource = Callable[[int, int], InstallFailure | None]
"""Asked once for each page that a fault read, with (pid, address): should installing it fail, and why?"""


def never_fail(_pid: int, _address: int) -> InstallFailure | None:
    """Inject nothing."""
    return None


class Host:
    """A host kernel.

    Invariants: `resident_pages` counts the folios that exist (charged at allocation, uncharged at their end) and is at
    most `resident_pages_max`; a folio is mapped, in the swapcache, or referenced by a path, or it does not exist.
    """

    def __init__(
        self,
        policy: Policy,
        devices: Sequence[SwapDevice],
        *,
        resident_pages_max: int,
        now_ns: Callable[[], int],
        readahead: Readahead | None = None,
        has_zeromap: bool = False,
        install_failure: InstallFailureSource = never_fail,
        on_only_copy_dropped: Callable[[SwapSlot], None] = lambda _slot: None,
        on_entry_taken: Callable[[int, int, InstallFailure], None] = lambda _pid, _address, _cause: None,
    ) -> None:
        assert resident_pages_max > 0
        assert [device.type for device in devices] == list(range(len(devices)))
        self.policy = policy
        self.devices = tuple(devices)
        self.resident_pages_max = resident_pages_max
        self.readahead = readahead or Readahead()
        self.has_zeromap = has_zeromap
        """Pages of zeros are noted in the swap map and never sent, as since 6.12."""
        self.install_failure = install_failure
        self.on_only_copy_dropped = on_only_copy_dropped
        """Told when a fault drops the only copy of a page that is still owed: the oracle's ledger."""
        self.on_entry_taken = on_entry_taken
        """Told (pid, address, cause) when an injected MOVED or ZAPPED takes the entry away, in the same atomic step."""
        self.resident_pages = 0
        self.orphans: set[SwapSlot] = set()
        """Slots that nobody uses and whose pool entry the tier has not yet forgotten."""
        self.lru = ClockList()
        self.counters = HostCounters()
        self.duplication = DuplicationLedger(now_ns)
        self.processes: dict[int, Process] = {}
        self._devices_in_turn = sorted(devices, key=lambda device: -device.priority)
        self.memory_queue = WaitQueue("memory")
        self.is_reclaiming = False
        """A charge reclaims; the others wait in `memory_queue`."""
        self._held_by_waiters: list[Folio] = []
        """Folios of paths that are in charge(): waiting for one of these would be waiting for a waiter."""
        self._request_id = 0
        self._pid = 0

    @property
    def orphan_entries(self) -> int:
        """Pool entries of freed slots that the tier has not yet forgotten."""
        return len(self.orphans)

    def spawn(self) -> Process:
        """Start an empty process."""
        self._pid += 1
        process = self.processes[self._pid] = Process(self._pid)
        return process

    def access(self, process: Process, address: int, *, write: bool) -> Path[Folio]:
        """Make *address* accessible, faulting as often as it takes, and return the folio mapped there.

        The page is mapped (writable, if *write*) when this returns, and stays so until the caller's next yield: read
        `folio.content`, or call `write()`, before that.

        Raises:
            PageLost: the page is gone and the process is told so. Definite.
            NotMapped: the process has ended. Definite.
            OutOfMemory: no memory could be reclaimed. Definite.
            SwapTierError: the tier could not be asked.

        Models: handle_mm_fault() in a loop, as the faulting instruction is run again.
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
                    yield from do_anonymous_page(self, process, address)
                elif isinstance(pte, SwapPte):
                    yield from swap_in(self, process, address, write=write)
                else:
                    yield from do_wp_page(self, process, address)
            finally:
                process.mmap_lock.read_done()

    def write(self, process: Process, address: int, page: bytes) -> None:
        """Replace the content of a page that access(write=True) just returned; *page* is exactly PAGE_BYTES."""
        pte = process.page_table[address]
        assert isinstance(pte, PresentPte) and pte.writable and len(page) == PAGE_BYTES
        pte.folio.content = page
        pte.dirty = True
        pte.soft_dirty = True
        if pte.folio.entry is not None:
            self.duplication.observe(self.slot(pte.folio.entry))

    def check_invariants(self, *, paths_running: int) -> None:
        """Recount everything, while *paths_running* paths have begun and not ended. For tests and explorers: slow.

        Raises:
            AssertionError: a defect of mm.
        """
        check_host(self, paths_running=paths_running)

    def device(self, entry: SwapEntry) -> SwapDevice:
        """Return the swap device of *entry*."""
        return self.devices[entry.type]

    def slot(self, entry: SwapEntry) -> SwapSlot:
        """Return the slot *entry* names."""
        return self.devices[entry.type].slots[entry.offset]

    def alloc_slot(self) -> SwapSlot | None:
        """Take a free slot of the device with the highest priority that has one; equal priorities take turns.

        Models: folio_alloc_swap() and get_swap_pages() on the priority list.
        """
        for index, device in enumerate(self._devices_in_turn):
            slot = device.alloc()
            if slot is not None:
                # Behind its equals, as plist_requeue() puts it.
                del self._devices_in_turn[index]
                bisect.insort_right(self._devices_in_turn, device, key=lambda other: -other.priority)
                return slot
        return None

    def is_swap_full(self) -> bool:
        """Tell whether more than half of all swap is in use. Models: vm_swap_full()."""
        return 2 * sum(device.slots_in_use for device in self.devices) > sum(len(d.slots) for d in self.devices)

    def next_request_id(self) -> int:
        """Return a number no request of this host had before."""
        self._request_id += 1
        return self._request_id

    def note_failure(self, slot: SwapSlot, error: BaseException) -> BaseException:
        """Remember what *error* leaves open about *slot* and its tier, and return it."""
        self.device(slot.entry).note_failure(error)
        slot.in_doubt |= not (isinstance(error, SwapTierError) and error.definite)
        return error

    def tier_restarted(self, type_: int) -> None:
        """React to a new epoch of the tier behind a device: what it held in memory may be gone.

        Every slot in use is in doubt from now on, so that its next load brings its own generation or a known loss,
        never the bytes of a device that was not told of the page. A clean page in memory may be the only copy now, and
        becomes dirty: reclaim stores it again instead of dropping it. A store under way finds out by `restarts`.
        """
        self.devices[type_].restarts += 1
        for slot in self.devices[type_].slots:
            if slot.in_pool or slot.on_device:
                slot.in_doubt = True
                if slot.folio is not None and slot.folio.uptodate:
                    slot.folio.dirty = True
                    self.duplication.observe(slot)

    def note_stored(self, slot: SwapSlot, reply: RequestReply) -> None:
        """Remember what the tier keeps after a store, and count it."""
        assert isinstance(reply, SlotReply)
        self.device(slot.entry).note_answer()
        self.counters.stores += 1
        if reply.outcome not in (Outcome.STORED, Outcome.DEVICE, Outcome.REJECTED):
            # Damaged or late: the tier changed nothing, and an older page that it has is still there to be freed.
            return
        slot.in_doubt = False
        slot.claim_id = 0
        slot.in_pool = reply.outcome is Outcome.STORED
        slot.on_device = reply.outcome is Outcome.DEVICE
        slot.entry_bytes = reply.entry_bytes
        self.counters.zswpout += slot.in_pool
        self.counters.pswpout += slot.on_device
        self.duplication.observe(slot)

    def alloc_folio(self) -> Path[Folio]:
        """Return a locked, charged folio that is not on the clock list and not uptodate.

        Raises:
            OutOfMemory: reclaim made no progress. Definite.

        Models: alloc_swap_folio() with mem_cgroup_swapin_charge_folio().
        """
        yield from self.charge()
        folio = Folio(None)
        folio.is_locked = True
        return folio

    def free_folio(self, folio: Folio) -> None:
        """End a folio that nobody else has seen."""
        folio.is_locked = False
        self.put_folio(folio)

    def put_folio(self, folio: Folio) -> None:
        """Drop a reference; the folio ends with its last use. Models: folio_put()."""
        assert folio.refs > 0
        folio.refs -= 1
        self.memory_queue.wake_all()
        self.end_if_unused(folio)

    def end_if_unused(self, folio: Folio) -> None:
        """End *folio* if no path, mapping or swapcache holds it; after taking any of these away, call this."""
        if folio.refs or folio.mappings or folio.entry is not None:
            return
        assert not folio.is_locked, "a folio ended while locked"
        self.lru.discard(folio)
        self.resident_pages -= 1
        self.memory_queue.wake_all()

    def try_charge(self) -> bool:
        """Take one page if there is room, without reclaim."""
        if self.resident_pages >= self.resident_pages_max:
            return False
        self.resident_pages += 1
        return True

    def charge(self, holding: Folio | None = None) -> Path[None]:
        """Make room for one page and take it. One path reclaims at a time; the others wait for what it frees.

        *holding* is a folio that the caller keeps meanwhile, and that nobody should wait for.

        Raises:
            OutOfMemory: definite.
            SwapTierError: reclaim could not store.

        Models: try_charge_memcg().
        """
        if holding is not None:
            self._held_by_waiters.append(holding)
        try:
            yield from self._make_room()
        finally:
            if holding is not None:
                self._held_by_waiters.remove(holding)
        self.resident_pages += 1

    def _make_room(self) -> Path[None]:
        rounds_without_progress = 0
        while self.resident_pages >= self.resident_pages_max:
            if self.is_reclaiming:
                yield Wait(self.memory_queue)
                continue
            if rounds_without_progress == RECLAIM_RETRIES_MAX:
                raise OutOfMemory(
                    f"{self.resident_pages} pages are resident, the limit is {self.resident_pages_max}, and none "
                    "could be reclaimed; nothing was lost. Raise the resident limit or the number of swap slots"
                )
            self.is_reclaiming = True
            try:
                freed = yield from swap_out(self)
            finally:
                self.is_reclaiming = False
                self.memory_queue.wake_all()
            rounds_without_progress = 0 if freed else rounds_without_progress + 1
            if not freed and self._is_memory_on_its_way():
                rounds_without_progress = 0
                yield Wait(self.memory_queue)

    def _is_memory_on_its_way(self) -> bool:
        """Tell whether faults are between charging a folio and mapping it: each will drop a reference soon.

        Such a fault holds its folio locked, private, or not yet on the list, and does not wait for memory meanwhile.
        """
        folios = self.lru.folios
        return self.resident_pages > len(folios) or any(
            (folio.is_locked or folio.is_private) and folio not in self._held_by_waiters for folio in folios
        )
