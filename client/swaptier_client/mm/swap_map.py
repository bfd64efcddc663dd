"""The swap map: one byte's worth of state for each slot of each swap device, and when a slot may be reused.

Pure. A slot is in use while its count, its HAS_CACHE flag or both are set. HAS_CACHE with a folio is the swapcache;
HAS_CACHE without one is a pin: a fault reads the slot into a private folio, or the slot is being
invalidated in the tier.
A slot whose count fell to 0 while pinned stays in use until the pin is dropped: that is what makes pte_same() safe.

    FREE --alloc--> CACHE,0 --unmap--> CACHE,n --reclaim drops the folio--> n
    n --swap-in through the cache--> CACHE,n          1 --bypass--> PIN,1 --map--> PIN,0 --unpin--> freeing
    PIN,1 --install failed--> 1                       CACHE,0 --free_swap--> freeing
    freeing (PIN,0: the tier is asked to forget it) --> FREE

Models: swap_map[], swapcache_prepare(), swapcache_clear(), swap_duplicate(), swap_free() in mm/swapfile.c. Left out:
continuation pages, clusters, the per-CPU slot caches.
"""

from dataclasses import dataclass, field
from enum import Enum

from swaptier_client.mm.counters import DetectedLoss
from swaptier_client.mm.effects import SwapEntry, WaitQueue
from swaptier_client.mm.folio import Folio
from swaptier_wire.errors import DeadlinePassed, TierUnreachable
from swaptier_wire.types import NO_GENERATION

SWAP_MAP_MAX = 0x3E
"""The highest count a slot can have. Models: SWAP_MAP_MAX, without COUNT_CONTINUED."""

UNANSWERED_MAX = 3
"""Requests in a row that a tier may leave unanswered, each asked again and again: one that loses answers gives others
meanwhile, one that is gone behind an open connection gives none."""


class PrepareResult(Enum):
    """What swapcache_prepare() found."""

    OK = "ok"
    EXISTS = "-EEXIST"
    FREE = "-ENOENT"


@dataclass(slots=True, eq=False, repr=False)
class SwapSlot:
    """One slot. `count`, `has_cache` and `folio` are the swap map; the rest is what a remote tier makes necessary."""

    entry: SwapEntry
    count: int = 0
    """Page table entries that name this slot."""
    has_cache: bool = False
    folio: Folio | None = None
    """The swapcache folio. None while has_cache is set means a pin."""
    generation: int = NO_GENERATION
    """Of the last allocation or Store; never reset, so that no late request can be taken for a current one."""
    queue: WaitQueue | None = None
    """Paths that wait for the pin; made by the first."""
    # What the replies said the tier keeps.
    in_pool: bool = False
    on_device: bool = False
    """The device holds the current generation: the pool refused it, or wrote it back."""
    entry_bytes: int = 0
    """Length of the pool's entry."""
    in_doubt: bool = False
    """A store or an exclusive load of this slot may or may not have been applied: no reply came."""
    is_freeing: bool = False
    """The slot is being invalidated in the tier."""
    is_zero: bool = False
    """The page is all zeros and was never sent. Models: the swap device's zeromap, since 6.12."""
    claim_id: int = 0
    """Request id of the claim that the tier holds the page for; 0 for none. A repeat carries it again."""
    lost: DetectedLoss | None = None
    """Why the only copy is known to be gone: faults on it get SIGBUS."""
    # What only counters and the oracle read.
    reader: Folio | None = None
    """The private folio of the fault that pins this slot."""
    is_storing: bool = False
    was_rescued: bool = False
    pool_loads: int = 0
    """Loads of the current page version from the pool."""
    owners: list[tuple[int, int]] = field(default_factory=list)
    """(pid, address) of the mappings that were replaced by this slot at swap-out."""
    duplication: int | None = None
    """Where DuplicationLedger counts this slot now."""

    @property
    def is_pinned(self) -> bool:
        """HAS_CACHE without a folio behind it."""
        return self.has_cache and self.folio is None

    def wait_queue(self) -> WaitQueue:
        """Return the queue that unpin() and release wake."""
        if self.queue is None:
            self.queue = WaitQueue("swapcache pin")
        return self.queue

    def wake(self) -> None:
        """Wake the paths that wait for this slot's pin."""
        if self.queue is not None:
            self.queue.wake_all()


class SwapDevice:
    """One swap device of a host: the slots of one area of one tier. Models: struct swap_info_struct.

    Free slots are a stack, so that a slot is reused soon: the races of slot reuse need that, and the kernel's
    slot caches do it too.
    """

    def __init__(self, type_: int, slots: int, *, priority: int = 0, is_synchronous: bool = True) -> None:
        assert slots > 0
        self.type = type_
        self.priority = priority
        self.is_synchronous = is_synchronous
        """SWP_SYNCHRONOUS_IO: reads finish before they return, so bypassing the swapcache pays."""
        self.is_dying = False
        """swapoff() has begun: no new slot is given out."""
        self.is_dead = False
        """Its tier cannot be reached: no new slot is given out, and its pages are lost until it can."""
        self.unanswered = 0
        """Requests given up on, however often asked, since its tier last answered any."""
        self.restarts = 0
        """How often its tier started anew. An answer to what was asked before may come from memory that is gone."""
        self.slots = [SwapSlot(SwapEntry(type_, offset)) for offset in range(slots)]
        self.free_offsets = list(range(slots - 1, -1, -1))

    @property
    def slots_in_use(self) -> int:
        """Slots that are not free."""
        return len(self.slots) - len(self.free_offsets)

    def alloc(self) -> SwapSlot | None:
        """Take a free slot for the swapcache, or None when the device has none to give. Its generation rises."""
        if self.is_dying or self.is_dead or not self.free_offsets:
            return None
        slot = self.slots[self.free_offsets.pop()]
        assert slot.count == 0 and not slot.has_cache and not slot.in_pool, "a slot was free while still in use"
        slot.has_cache = True
        slot.generation += 1
        slot.pool_loads = 0
        slot.owners = []
        slot.lost = None
        slot.is_zero = False
        return slot

    def note_answer(self) -> None:
        """Its tier answered a request: it lives."""
        self.is_dead = False
        self.unanswered = 0

    def note_failure(self, error: BaseException) -> None:
        """Its tier did not answer: it is dead if nothing is sent to it any more, or nothing comes back from it."""
        if isinstance(error, TierUnreachable):
            self.unanswered += 1
            is_gone = error.definite and not isinstance(error, DeadlinePassed)
            self.is_dead |= is_gone or self.unanswered >= UNANSWERED_MAX

    def prepare(self, slot: SwapSlot) -> PrepareResult:
        """Pin *slot* if it is in use and not pinned. Models: swapcache_prepare()."""
        if slot.has_cache:
            return PrepareResult.EXISTS
        if slot.count == 0:
            return PrepareResult.FREE
        slot.has_cache = True
        return PrepareResult.OK

    def unpin(self, slot: SwapSlot) -> bool:
        """Drop the pin. True: the slot has no use left and the caller must free it, which keeps it pinned.

        Models: swapcache_clear().
        """
        assert slot.is_pinned
        slot.reader = None
        if slot.count == 0:
            return True
        slot.has_cache = False
        slot.wake()
        return False

    def duplicate(self, slot: SwapSlot) -> None:
        """One more page table entry names the slot. Models: swap_duplicate()."""
        assert slot.count < SWAP_MAP_MAX
        assert slot.count > 0 or slot.has_cache, "duplicating a free slot"
        slot.count += 1

    def put(self, slot: SwapSlot) -> bool:
        """One page table entry fewer names the slot. True: that was the last use, and the caller must free it.

        The slot is then pinned, so that it is not reused before it is invalidated. Models: swap_free().
        """
        assert slot.count > 0, "more frees than users"
        slot.count -= 1
        if slot.count == 0 and not slot.has_cache:
            slot.has_cache = True
            return True
        return False

    def release(self, slot: SwapSlot) -> None:
        """Make a slot reusable; it has been invalidated. Models: the end of swap_range_free()."""
        assert slot.count == 0 and slot.is_pinned
        assert not slot.in_pool, "invalidate comes before reuse"
        slot.has_cache = False
        slot.reader = None
        slot.was_rescued = False
        self.free_offsets.append(slot.entry.offset)
        slot.wake()
