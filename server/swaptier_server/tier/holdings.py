"""What an area holds: for every slot, where its page is; and the books about it.

Pure. A pool entry is kept by `_keep_entry()` and ended by `_end_page()`, a hand-off is begun by `_begin_lease()` and
ended by `_end_lease()`, nowhere else, so the gauges, the pool's account, the LRU and the leases are kept in a few
places only. `check_invariants()` recounts them.

Models: the tree of struct zswap_entry of one swap device, and what zswap_swapoff() and the debugfs counters see of it.
"""

from collections import Counter
from collections.abc import Iterable
from enum import Enum
from typing import Final, NamedTuple

from swaptier_server.tier.counters import AreaCounters, LeaseEnd
from swaptier_server.tier.device import BackingDevice, DeviceError
from swaptier_server.tier.leases import Leases
from swaptier_server.tier.page import StoredPage
from swaptier_server.tier.pool import Pool
from swaptier_server.tier.slot import DEVICE_STATES, HANDED_OFF_STATES, POOL_STATES, Slot, SlotEvent, SlotState
from swaptier_server.tier.swap_file import SavedArea, SavedPage
from swaptier_wire.types import NO_GENERATION, LoadMode, Outcome, SlotReply


class Durability(Enum):
    """What a store that was answered survives."""

    MEMORY = "memory"
    """Nothing, while only the pool has the page; a restart, if the device has it and outlives the server."""
    WRITE_THROUGH = "write-through"
    """A restart, if the device outlives the server: it has the page before the answer."""


class Common(NamedTuple):
    """What the areas of a tier share."""

    pool: Pool
    leases: Leases
    leases_per_area_max: int
    keeps_incompressible: bool
    durability: Durability


class Held(NamedTuple):
    """What one slot holds now: a look, for explorers and tests."""

    state: SlotState
    generation: int
    """The highest that a store or an invalidation has named."""
    entry: StoredPage | None
    """The pool's entry."""
    answer: SlotReply | None
    """What a repeat of the last store is answered."""
    checksum: int
    """Of the page last stored; meaningless without an answer."""
    claimant: int | None = None
    """The request id that the lease belongs to, or that acknowledged the hand-off of this generation."""
    device_generation: int = NO_GENERATION
    """Of what the device was given last."""


class Holdings:
    """The slots of one area. The five gauges always equal a recount."""

    def __init__(
        self, saved: SavedArea, device: BackingDevice, common: Common, *, is_restored: bool, incarnation: int = 0
    ) -> None:
        self.name: Final = saved.name
        self.slots: Final = saved.slots
        """How many; offsets are below it."""
        self.options: Final = saved.options
        self.client: Final = saved.client
        self.is_restored: bool = is_restored
        """Its client knew it before: of pages that are not here, it may have stored more."""
        self.incarnation: Final = incarnation
        """Number of the Swapon that opened it empty, among this server's; 0: it was there when the server began."""
        self.counters: Final = AreaCounters()
        self.is_closed: bool = False
        self.stored_pages: int = 0
        """Pool entries, same-filled ones and those handed off among them."""
        self.same_filled_pages: int = 0
        self.pool_bytes: int = 0
        """What its entries take of the pool."""
        self.device_pages: int = 0
        """Slots whose current page is on the device only."""
        self.handed_off_pages: int = 0
        """Leases: slots whose page is handed off and not yet acknowledged."""
        self._pool: Final = common.pool
        self._leases: Final = common.leases
        self._leases_max: Final = common.leases_per_area_max
        self._keeps_incompressible: Final = common.keeps_incompressible
        self._writes_through: Final = common.durability is Durability.WRITE_THROUGH
        self._device: Final = device
        self._lru: Final = common.pool.lru_of(saved.name)
        self._slots: dict[int, Slot] = {}
        """Only those that were ever stored to, invalidated, or found on the device."""

    # Looks

    def held(self, offset: int) -> Held:
        """Return what the slot holds. Changes nothing."""
        slot = self._slots.get(offset)
        if slot is None:
            return Held(SlotState.NEVER_STORED, NO_GENERATION, None, None, 0)
        return Held(
            slot.state,
            slot.generation,
            slot.entry,
            slot.store_reply,
            slot.store_checksum,
            slot.claimant,
            slot.device_generation,
        )

    def on_device(self, offset: int) -> StoredPage:
        """Return what the device would give for the slot, current or not. Changes nothing and counts nothing.

        Raises:
            DeviceError, DecodeError: the device cannot be read.
        """
        return self._device.read(offset)

    @property
    def has_used_up_quota(self) -> bool:
        """It has a quota, and stands above the accept threshold of that."""
        quota = self.options.pool_bytes_max
        return quota is not None and self.pool_bytes * 100 > quota * self._pool.accept_threshold_percent

    @property
    def can_shrink(self) -> bool:
        """It has entries that may be written back."""
        return len(self._lru) > 0

    # How a page comes and goes

    def _slot(self, offset: int) -> Slot:
        """Return the slot, remembered from now on."""
        slot = self._slots.get(offset)
        if slot is None:
            slot = self._slots[offset] = Slot(self.name, offset)
        return slot

    def restore(self, pages: Iterable[SavedPage]) -> None:
        """Take what the device kept for current. The answer to the store of each is the same as before, or as good."""
        for page in pages:
            assert 0 <= page.offset < self.slots, f"area {self.name!r}: a page was saved for slot {page.offset}"
            slot = self._slot(page.offset)
            slot.step(SlotEvent.FOUND_ON_DEVICE)
            slot.generation = slot.device_generation = page.generation
            slot.store_checksum = page.checksum
            slot.store_reply = SlotReply(Outcome.DEVICE)
            self.device_pages += 1

    def _charge(self, length: int) -> bool:
        """Account *length* bytes, at least 1, to the area and the pool; False when the pool refuses them."""
        if not self._pool.charge(length):
            return False
        self.pool_bytes += length
        return True

    def _uncharge(self, length: int) -> None:
        """Give back what was charged."""
        self._pool.uncharge(length)
        self.pool_bytes -= length

    def _keep_entry(self, slot: Slot, stored: StoredPage) -> None:
        """Put *stored*, whose bytes are charged, into the pool for a slot that holds nothing."""
        slot.entry = stored
        slot.is_referenced = False
        slot.step(SlotEvent.STORED_IN_POOL)
        self.stored_pages += 1
        if stored.length:
            self._lru.add(slot)
        else:
            self.same_filled_pages += 1

    def _end_page(self, slot: Slot) -> None:
        """Drop the slot's pool entry, or stop counting its device page as current; the caller steps the slot.

        A lease has been ended before.
        """
        entry = slot.entry
        if entry is None:
            if slot.state in DEVICE_STATES:
                self.device_pages -= 1
            return
        slot.entry = None
        self.stored_pages -= 1
        if entry.length:
            self._lru.discard(slot)
            self._uncharge(entry.length)
        else:
            self.same_filled_pages -= 1

    def _leave_pool(self, slot: Slot) -> None:
        """Drop the entry of a POOLED slot whose page the device has."""
        assert slot.is_backed, f"{slot} is not on the device"
        self._end_page(slot)
        slot.step(SlotEvent.DROPPED_BY_POOL)
        self.device_pages += 1

    def _drop_from_device(self, slot: Slot) -> None:
        """Make the device forget the slot's page, current or not."""
        self._device.drop(slot.offset)
        slot.device_generation = NO_GENERATION

    def _count_fault(self, error: DeviceError) -> None:
        self.counters.device_errors[error.fault] += 1

    # How a hand-off comes and goes

    def _begin_lease(self, slot: Slot, request_id: int) -> None:
        """Hand the page of a POOLED or ON_DEVICE slot off to the claim *request_id*."""
        slot.step(SlotEvent.CLAIMED)
        slot.claimant = request_id
        self._lru.discard(slot)
        self._leases.begin(slot)
        self.handed_off_pages += 1
        self.counters.leases_begun += 1

    def _end_lease(self, slot: Slot, ended_by: LeaseEnd) -> None:
        """Forget the lease; the caller steps the slot."""
        self._leases.end(slot)
        self.handed_off_pages -= 1
        self.counters.leases_ended[ended_by] += 1
        if ended_by is not LeaseEnd.ACKNOWLEDGED:
            slot.claimant = None

    def end_lease(self, offset: int, ended_by: LeaseEnd = LeaseEnd.EXPIRED) -> bool:
        """End the slot's lease, if it has one, without an acknowledgement: the page is the tier's again (R5).

        It goes back to the LRU as the newest, and can be claimed anew. An acknowledgement that comes now is too late.
        """
        slot = self._slots.get(offset)
        if slot is None or slot.state not in HANDED_OFF_STATES:
            return False
        self._end_lease(slot, ended_by)
        slot.step(SlotEvent.LEASE_ENDED)
        if slot.entry is not None and slot.entry.length:
            self._lru.add(slot)
        return True

    # The end, and the books

    def close(self) -> int:
        """Forget every page and refuse every later batch; return how many entries the pool held. Only Tier calls it."""
        dropped_pages = self.stored_pages
        for slot in self._slots.values():
            if slot.state in HANDED_OFF_STATES:
                self._end_lease(slot, LeaseEnd.INVALIDATED)
            self._end_page(slot)
        self._slots.clear()
        self._pool.forget_lru(self.name)
        self.is_closed = True
        return dropped_pages

    def check_invariants(self) -> list[Slot]:
        """Recount everything; return the slots that must be on the area's LRU, in no particular order.

        Raises:
            AssertionError: the books do not agree with the slots. A defect of the tier.
        """
        where = f"area {self.name!r}"
        slots = list(self._slots.values())
        for slot in slots:
            self._check_slot(slot, where)
        states = Counter(slot.state for slot in slots)
        lengths = [slot.entry.length for slot in slots if slot.entry is not None]
        assert self.stored_pages == len(lengths), f"{where}: stored pages"
        assert self.same_filled_pages == lengths.count(0), f"{where}: same-filled pages"
        assert self.pool_bytes == sum(lengths), f"{where}: pool bytes"
        quota = self.options.pool_bytes_max
        assert quota is None or self.pool_bytes <= quota, f"{where}: {self.pool_bytes} bytes, and a quota of {quota}"
        assert self.device_pages == sum(states[state] for state in DEVICE_STATES), f"{where}: device pages"
        assert self.handed_off_pages == sum(states[state] for state in HANDED_OFF_STATES), f"{where}: handed-off pages"
        assert self.handed_off_pages <= self._leases_max, f"{where}: too many leases"
        self._check_counters(where, len(lengths))
        return [slot for slot in slots if slot.state is SlotState.POOLED and slot.entry and slot.entry.length]

    def _check_slot(self, slot: Slot, where: str) -> None:
        assert 0 <= slot.offset < self.slots, f"{where}: {slot} is outside"
        assert (slot.entry is not None) == (slot.state in POOL_STATES), f"{where}: {slot} and its entry disagree"
        if slot.entry is not None:
            assert slot.entry.generation == slot.generation, f"{where}: {slot} holds an older page"
        assert slot.device_generation <= slot.generation, f"{where}: the device is ahead of {slot}"
        if slot.state in DEVICE_STATES or (slot.entry is not None and self._writes_through):
            assert slot.is_backed, f"{where}: the device does not have the page of {slot}"
        is_leased = slot.state in HANDED_OFF_STATES
        assert is_leased == (slot in self._leases), f"{where}: {slot} and the leases disagree"
        assert slot.claimant is not None or not is_leased, f"{where}: {slot} is handed off to nobody"

    def _check_counters(self, where: str, held: int) -> None:
        counters = self.counters
        taken = counters.loads[LoadMode.EXCLUSIVE]
        came = counters.stores[Outcome.STORED]
        went = (
            counters.duplicate_entries
            + taken[Outcome.HIT]
            + taken[Outcome.SAME_FILLED]
            + counters.acknowledged_entries
            + counters.invalidates[Outcome.INVALIDATED]
            + counters.written_back_pages
        )
        assert self.is_closed or came == went + held, f"{where}: {came} entries came, {went} went"
        begun, ended = counters.leases_begun, sum(counters.leases_ended.values())
        assert begun == ended + self.handed_off_pages, f"{where}: {begun} leases begun, {ended} ended"
