"""One emulated host kernel: processes that share one swap map, one swapcache and one memory limit.

Pure. Time (`now_ns`) and chance (`install_failure`) are given from outside. `Host` is the state; what is done to it are
functions: those that can wait are a `Path`, all others are atomic. Two hosts share nothing, and must not share slots,
unless one is the other's clone.

Models: the globals of mm/swapfile.c, one memory cgroup and its clock list.
"""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, field, replace

from swaptier_client.mm.counters import HostCounters, InstallFailure
from swaptier_client.mm.duplication import DuplicationLedger
from swaptier_client.mm.effects import SwapEntry, WaitQueue
from swaptier_client.mm.folio import ClockList, Folio, Process, SwapPte
from swaptier_client.mm.policy import Policy
from swaptier_client.mm.readahead import Readahead
from swaptier_client.mm.swap_map import SwapDevice, SwapSlot

InstallFailureSource = Callable[[int, int], InstallFailure | None]
"""Asked once for each page that a fault read, with (pid, address): should installing it fail, and why?"""


def never_fail(_pid: int, _address: int) -> InstallFailure | None:
    """Inject nothing."""
    return None


@dataclass(eq=False, repr=False)
class Host:
    """A host kernel.

    Invariants: `resident_pages` counts the folios that exist (charged at allocation, uncharged at their end) and is at
    most `resident_pages_max`; a folio is mapped, in the swapcache, or referenced by a path, or it does not exist.
    """

    policy: Policy
    devices: Sequence[SwapDevice]
    """By type: devices[n].type is n."""
    _: KW_ONLY
    resident_pages_max: int
    now_ns: InitVar[Callable[[], int]]
    readahead: Readahead = field(default_factory=Readahead)
    has_zeromap: bool = False
    """Pages of zeros are noted in the swap map and never sent, as since 6.12."""
    install_failure: InstallFailureSource = never_fail
    on_only_copy_dropped: Callable[[SwapSlot], None] = lambda _slot: None
    """Called when a fault drops the only copy of a page that is still owed: the oracle's ledger."""
    on_entry_taken: Callable[[int, int, InstallFailure], None] = lambda _pid, _address, _cause: None
    """Called with (pid, address, cause) when an injected MOVED or ZAPPED takes the entry away, in the same step."""
    resident_pages: int = 0
    orphans: set[SwapSlot] = field(default_factory=set)
    """Slots without users whose pool entry the tier has not yet freed."""
    lru: ClockList = field(default_factory=ClockList)
    counters: HostCounters = field(default_factory=HostCounters)
    duplication: DuplicationLedger = field(init=False)
    processes: dict[int, Process] = field(default_factory=dict)
    devices_in_turn: list[SwapDevice] = field(init=False)
    """By falling priority; of equal ones, that which gave a slot last is last."""
    memory_queue: WaitQueue = field(default_factory=lambda: WaitQueue("memory"))
    is_reclaiming: bool = False
    """A charge reclaims; the others wait in `memory_queue`."""
    held_by_waiters: list[Folio | None] = field(default_factory=list)
    """Folios of paths that are in charge(): waiting for one of these would be waiting for a waiter."""
    last_request_id: int = 0
    last_pid: int = 0

    def __post_init__(self, now_ns: Callable[[], int]) -> None:
        assert self.resident_pages_max > 0
        assert [device.type for device in self.devices] == list(range(len(self.devices)))
        self.duplication = DuplicationLedger(now_ns)
        self.devices_in_turn = sorted(self.devices, key=lambda device: -device.priority)

    def spawn(self) -> Process:
        """Start an empty process."""
        self.last_pid += 1
        process = self.processes[self.last_pid] = Process(self.last_pid)
        return process

    def device(self, entry: SwapEntry) -> SwapDevice:
        """Return the swap device of *entry*."""
        return self.devices[entry.type]

    def slot(self, entry: SwapEntry) -> SwapSlot:
        """Return the slot *entry* names."""
        return self.devices[entry.type].slots[entry.offset]

    def is_swap_full(self) -> bool:
        """Tell whether more than half of all swap is in use. Models: vm_swap_full()."""
        return 2 * sum(device.slots_in_use for device in self.devices) > sum(len(d.slots) for d in self.devices)

    def next_request_id(self) -> int:
        """Return a number no request of this host had before."""
        self.last_request_id += 1
        return self.last_request_id


def alloc_slot(host: Host) -> SwapSlot | None:
    """Take a free slot of the device with the highest priority that has one; equal priorities take turns.

    Models: folio_alloc_swap() and get_swap_pages() on the priority list.
    """
    for index, device in enumerate(host.devices_in_turn):
        slot = device.alloc()
        if slot is not None:
            # Behind its equals, as plist_requeue() puts it.
            del host.devices_in_turn[index]
            bisect.insort_right(host.devices_in_turn, device, key=lambda other: -other.priority)
            return slot
    return None


def try_charge(host: Host) -> bool:
    """Take one page if there is room, without reclaim."""
    if host.resident_pages >= host.resident_pages_max:
        return False
    host.resident_pages += 1
    return True


def put_folio(host: Host, folio: Folio) -> None:
    """Drop a reference; the folio ends with its last use. Models: folio_put()."""
    assert folio.refs > 0
    folio.refs -= 1
    host.memory_queue.wake_all()
    end_if_unused(host, folio)


def end_if_unused(host: Host, folio: Folio) -> None:
    """End *folio* if no path, mapping or swapcache holds it; after taking any of these away, call this."""
    if folio.refs or folio.mappings or folio.entry is not None:
        return
    assert not folio.is_locked, "a folio ended while locked"
    host.lru.discard(folio)
    host.resident_pages -= 1
    host.memory_queue.wake_all()


class NotQuiescent(Exception):
    """The host has pages in memory or faults under way; swap everything out and let its paths end first."""


def clone_into(twin: Host, original: Host) -> None:
    """Give *twin*, a new host with equal devices, the processes and the swap map that *original* has now.

    Raises:
        NotQuiescent: *original* holds a page, a pin or a running path. Nothing changed.
    """
    assert not twin.processes
    assert [len(device.slots) for device in twin.devices] == [len(device.slots) for device in original.devices]
    slots = [slot for device in original.devices for slot in device.slots]
    if original.resident_pages or any(slot.has_cache for slot in slots):
        raise NotQuiescent(
            f"{original.resident_pages} pages are resident and {sum(slot.has_cache for slot in slots)} slots are in "
            "the swapcache or pinned; a clone is taken of a host at rest. Nothing was cloned"
        )
    for process in original.processes.values():
        copy = twin.spawn()
        assert copy.pid == process.pid, "a clone numbers its processes as the original does"
        for address, pte in process.page_table.items():
            assert isinstance(pte, SwapPte)
            copy.page_table[address] = pte
    for device in original.devices:
        # The other host counts for itself, and has no claim: a claim names a request of the host that made it.
        twin.devices[device.type].slots = [
            replace(slot, owners=list(slot.owners), queue=None, claim_id=0, pool_loads=0, duplication=None)
            for slot in device.slots
        ]
        twin.devices[device.type].free_offsets = list(device.free_offsets)
