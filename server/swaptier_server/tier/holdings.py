"""What an area holds: for every slot, where its page is; and the books about it.

Pure. Pages enter by `_place()`, leave by `_end_page()`, and `write_back()` moves one to the device. So the gauges and
the pool's account are kept in three places only. `check_invariants()` recounts them.

Models: the tree of struct zswap_entry of one swap device, and what zswap_swapoff() and the debugfs counters see of it.
"""

from typing import Final, NamedTuple

from swaptier_server.tier.counters import AreaCounters
from swaptier_server.tier.device import DeviceError, SwapDevice
from swaptier_server.tier.page import StoredPage
from swaptier_server.tier.pool import Pool
from swaptier_server.tier.slot import Slot, SlotEvent, SlotState
from swaptier_wire.types import NO_GENERATION, PAGE_BYTES, LoadMode, Outcome, Reason, SlotReply


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


class Holdings:
    """The slots of one area. The four gauges always equal a recount."""

    def __init__(self, name: str, slots: int, *, pool: Pool, device: SwapDevice, keeps_incompressible: bool) -> None:
        self.name: Final = name
        self.slots: Final = slots
        """How many; offsets are below it."""
        self.counters: Final = AreaCounters()
        self.is_closed: bool = False
        self.stored_pages: int = 0
        """Pool entries, same-filled ones among them."""
        self.same_filled_pages: int = 0
        self.pool_bytes: int = 0
        """What its entries take of the pool."""
        self.device_pages: int = 0
        """Slots whose current page is on the device."""
        self.written_back_pages: int = 0
        """Entries that write_back() moved to the device since the area was opened (vmstat: zswpwb)."""
        self._pool: Final = pool
        self._device: Final = device
        self._keeps_incompressible: Final = keeps_incompressible
        self._slots: dict[int, Slot] = {}
        """Only those that were ever stored to or invalidated."""

    def _slot(self, offset: int) -> Slot:
        """Return the slot, remembered from now on."""
        slot = self._slots.get(offset)
        if slot is None:
            slot = self._slots[offset] = Slot(self.name, offset)
        return slot

    def _place(self, slot: Slot, stored: StoredPage) -> SlotReply:
        """Keep *stored* wherever it is taken, for a slot that holds nothing."""
        refusal = self._pool_refusal(slot, stored)
        if refusal is Reason.NONE:
            slot.entry = stored
            slot.step(SlotEvent.STORED_IN_POOL)
            self.stored_pages += 1
            self.pool_bytes += stored.length
            if stored.length == 0:
                self.same_filled_pages += 1
            return SlotReply(Outcome.STORED, Reason.NONE, stored.length)
        self.counters.rejects[refusal] += 1
        try:
            self._device.write(slot.offset, stored)
        except DeviceError:
            self.counters.rejects[Reason.DEVICE_ERROR] += 1
            # A failed write may have left the older page, or half of one.
            self._device.drop(slot.offset)
            slot.step(SlotEvent.STORE_REFUSED)
            return SlotReply(Outcome.REJECTED, Reason.DEVICE_ERROR)
        slot.step(SlotEvent.STORED_ON_DEVICE)
        self.device_pages += 1
        return SlotReply(Outcome.DEVICE, refusal)

    def _pool_refusal(self, slot: Slot, stored: StoredPage) -> Reason:
        """Account *stored* to the pool and return NONE, or return why not."""
        if stored.length == 0:
            # As since 6.12, where such pages never reach zswap: what takes no bytes is under no limit.
            return Reason.NONE
        if stored.length >= PAGE_BYTES and not self._keeps_incompressible:
            return Reason.COMPRESS_POOR
        return Reason.NONE if self._pool.add(slot, stored.length) else Reason.POOL_LIMIT

    def held(self, offset: int) -> Held:
        """Return what the slot holds. Changes nothing."""
        slot = self._slots.get(offset)
        if slot is None:
            return Held(SlotState.NEVER_STORED, NO_GENERATION, None, None, 0)
        return Held(slot.state, slot.generation, slot.entry, slot.store_reply, slot.store_checksum)

    def on_device(self, offset: int) -> StoredPage:
        """Return what the device would give for the slot, current or not. Changes nothing and counts nothing.

        Raises:
            DeviceError: the device cannot be read.
        """
        return self._device.read(offset)

    def write_back(self, offset: int) -> bool:
        """Move the slot's pool entry to the device, as the same generation; False when there is none to move.

        One atomic step, so no load, store or invalidation can come between the look at the entry and its end: the
        kernel, which drops its lock to write, must recheck that the entry is still the same. A device that fails leaves
        the entry in the pool. Same-filled pages take no memory and are never written back.

        Models: zswap_writeback_entry() in mm/zswap.c.
        """
        slot = self._slots.get(offset)
        entry = None if slot is None else slot.entry
        if slot is None or entry is None or entry.length == 0:
            return False
        try:
            self._device.write(offset, entry)
        except DeviceError:
            # A failed write may have left half a page; the pool still has it.
            self._device.drop(offset)
            return False
        self._end_page(slot)
        slot.step(SlotEvent.STORED_ON_DEVICE)
        self.device_pages += 1
        self.written_back_pages += 1
        return True

    def _end_page(self, slot: Slot) -> None:
        """Drop the slot's pool entry, or stop counting its device page as current; the caller steps the slot."""
        entry = slot.entry
        if entry is None:
            if slot.state is SlotState.ON_DEVICE:
                self.device_pages -= 1
            return
        slot.entry = None
        self.stored_pages -= 1
        self.pool_bytes -= entry.length
        if entry.length:
            self._pool.remove(slot, entry.length)
        else:
            self.same_filled_pages -= 1

    def close(self) -> int:
        """Forget every page and refuse every later batch; return how many entries the pool held. Only Tier calls it."""
        dropped_pages = self.stored_pages
        for slot in self._slots.values():
            self._end_page(slot)
        self._slots.clear()
        self.is_closed = True
        return dropped_pages

    def check_invariants(self) -> list[Slot]:
        """Recount everything; return the slots that must be on the pool's LRU, in no particular order.

        Raises:
            AssertionError: the books do not agree with the slots. A defect of the tier.
        """
        where = f"area {self.name!r}"
        slots = list(self._slots.values())
        for slot in slots:
            assert 0 <= slot.offset < self.slots, f"{where}: {slot} is outside"
            assert (slot.entry is not None) == (slot.state is SlotState.POOLED), (
                f"{where}: {slot} and its entry disagree"
            )
            if slot.entry is not None:
                assert slot.entry.generation == slot.generation, f"{where}: {slot} holds an older page"
        lengths = [slot.entry.length for slot in slots if slot.entry is not None]
        assert self.stored_pages == len(lengths), f"{where}: stored pages"
        assert self.same_filled_pages == lengths.count(0), f"{where}: same-filled pages"
        assert self.pool_bytes == sum(lengths), f"{where}: pool bytes"
        assert self.device_pages == sum(slot.state is SlotState.ON_DEVICE for slot in slots), f"{where}: device pages"
        taken = self.counters.loads[LoadMode.EXCLUSIVE]
        came = self.counters.stores[Outcome.STORED]
        went = (
            self.counters.duplicate_entries
            + taken[Outcome.HIT]
            + taken[Outcome.SAME_FILLED]
            + self.counters.invalidates[Outcome.INVALIDATED]
            + self.written_back_pages
        )
        assert self.is_closed or came == went + len(lengths), f"{where}: {came} entries came, {went} went"
        return [slot for slot in slots if slot.entry is not None and slot.entry.length]
