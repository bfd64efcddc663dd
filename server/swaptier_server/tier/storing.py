"""Stores: what is kept of a page, where, and what its repeat is answered.

Pure; every method is one atomic step. Rules of conduct:
  - A store that is applied ends the slot's older page before anything can go wrong: an older page never comes back.
  - The answer is made when everything it promises is so: with write-through, when the device has the page too.
  - What is written through is the durable half of the pool's entry, not a second page: who takes the one takes both.
  - Stores of one batch that need the device go to it together, and fail together.

Models: zswap_store() in mm/zswap.c, and swap_writepage() when it declines. Left out: large folios. Write-through is
frontswap's, which zswap lost with 71024cb4a0bf.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from swaptier_server.tier.counters import LeaseEnd
from swaptier_server.tier.device import DeviceError
from swaptier_server.tier.page import StoredPage, stored_page
from swaptier_server.tier.slot import HANDED_OFF_STATES, Slot, SlotEvent
from swaptier_server.tier.writeback import Writeback
from swaptier_wire.types import NO_GENERATION, PAGE_BYTES, Outcome, Reason, SlotReply, page_checksum

ROOM_PAGES_MAX: Final = 32
"""Pages that one store may write back to get under its area's quota. Models: SWAP_CLUSTER_MAX."""


class _Write(NamedTuple):
    """A store that waits for the device. Its slot holds nothing; if the pool takes the page, its bytes are charged."""

    slot: Slot
    stored: StoredPage
    refusal: Reason
    """Why the pool does not take it; NONE when it does."""


class Storing(Writeback):
    """The part of an area that stores pages."""

    def store(self, offset: int, generation: int, page: bytes, checksum: int) -> SlotReply:
        """Keep *page*, exactly PAGE_BYTES long: in the pool, or else on the device, or nowhere.

        Answers STORED, DEVICE, REJECTED, STALE_GENERATION or ERROR. In the first three the slot's older page is gone
        and a hand-off of it is over; the other two change nothing. A repeat is answered as the first was.

        Models: zswap_store(), and swap_writepage() when it declines.
        """
        writes: list[_Write] = []
        reply = self._admit(offset, generation, page, checksum, writes)
        return reply if reply is not None else self._settle(writes)[0]

    def store_many(
        self, offsets: Sequence[int], generations: Sequence[int], pages: Sequence[bytes], checksums: Sequence[int]
    ) -> list[SlotReply]:
        """Store one page for each of *offsets*, all different, as store() does; what needs the device in one write."""
        writes: list[_Write] = []
        replies = [
            self._admit(offset, generation, page, checksum, writes)
            for offset, generation, page, checksum in zip(offsets, generations, pages, checksums, strict=True)
        ]
        settled = iter(self._settle(writes) if writes else ())
        return [reply if reply is not None else next(settled) for reply in replies]

    def _admit(
        self, offset: int, generation: int, page: bytes, checksum: int, writes: list[_Write]
    ) -> SlotReply | None:
        """Apply a store as far as it goes without the device: answer it, or append it to *writes* and return None."""
        if page_checksum(page) != checksum:
            self.counters.stores[Outcome.ERROR] += 1
            return SlotReply(Outcome.ERROR, Reason.CHECKSUM)
        slot = self._slot(offset)
        if generation <= slot.generation:
            return self._answer_late_store(slot, generation, checksum)
        stored = stored_page(page, checksum, generation)
        # The older page goes first. It could never be served again, and its bytes may be what the new one needs.
        if slot.entry is not None:
            self.counters.duplicate_entries += 1
        if slot.state in HANDED_OFF_STATES:
            self._end_lease(slot, LeaseEnd.SUPERSEDED)
        self._end_page(slot)
        slot.claimant = None
        slot.generation = generation
        slot.store_checksum = checksum
        refusal = self._pool_refusal(stored)
        if refusal is Reason.NONE and not self._writes_through:
            self._keep_entry(slot, stored)
            return self._answer(slot, SlotReply(Outcome.STORED, Reason.NONE, stored.length))
        if refusal is not Reason.NONE:
            self.counters.rejects[refusal] += 1
            if not self.options.writeback:
                return self._reject(slot, refusal)
        # Until it is settled the slot is as one whose store was refused: it holds nothing, and nobody looks.
        slot.step(SlotEvent.STORE_REFUSED)
        writes.append(_Write(slot, stored, refusal))
        return None

    def _settle(self, writes: Sequence[_Write]) -> list[SlotReply]:
        """Give the device what waits for it, and answer."""
        try:
            if len(writes) == 1:
                self._device.write(writes[0].slot.offset, writes[0].stored)
            else:
                self._device.write_many([(write.slot.offset, write.stored) for write in writes])
        except DeviceError as error:
            self._count_fault(error)
            return [self._settle_refused(write) for write in writes]
        return [self._settle_written(write) for write in writes]

    def _settle_written(self, write: _Write) -> SlotReply:
        slot, stored, refusal = write
        slot.device_generation = slot.generation
        if refusal is Reason.NONE:
            self._keep_entry(slot, stored)
            return self._answer(slot, SlotReply(Outcome.STORED, Reason.NONE, stored.length))
        slot.step(SlotEvent.STORED_ON_DEVICE)
        self.device_pages += 1
        return self._answer(slot, SlotReply(Outcome.DEVICE, refusal))

    def _settle_refused(self, write: _Write) -> SlotReply:
        self.counters.rejects[Reason.DEVICE_ERROR] += 1
        if write.refusal is Reason.NONE and write.stored.length:
            self._uncharge(write.stored.length)
        # A failed write may have left the older page, or half of one.
        self._drop_from_device(write.slot)
        return self._reject(write.slot, Reason.DEVICE_ERROR)

    def _reject(self, slot: Slot, reason: Reason) -> SlotReply:
        """Answer that nobody has the page. What the device has of older ones goes too: it shall never come back."""
        if slot.device_generation != NO_GENERATION:
            self._drop_from_device(slot)
        slot.step(SlotEvent.STORE_REFUSED)
        return self._answer(slot, SlotReply(Outcome.REJECTED, reason))

    def _answer(self, slot: Slot, reply: SlotReply) -> SlotReply:
        slot.store_reply = reply
        self.counters.stores[reply.outcome] += 1
        return reply

    def _answer_late_store(self, slot: Slot, generation: int, checksum: int) -> SlotReply:
        """Answer the store of a generation that the slot has seen: as the first time for a repeat, else refuse."""
        first = slot.store_reply
        if first is not None and generation == slot.generation and checksum == slot.store_checksum:
            self.counters.repeated_stores += 1
            return first if slot.entry is not None else first._replace(entry_bytes=0)
        self.counters.stores[Outcome.STALE_GENERATION] += 1
        return SlotReply(Outcome.STALE_GENERATION)

    def _pool_refusal(self, stored: StoredPage) -> Reason:
        """Account *stored* to the area and the pool and return NONE, or return why not."""
        length = stored.length
        if length == 0:
            # As since 6.12, where such pages never reach zswap: what takes no bytes is under no limit.
            return Reason.NONE
        if length >= PAGE_BYTES and not self._keeps_incompressible:
            return Reason.COMPRESS_POOR
        quota = self.options.pool_bytes_max
        if quota is not None and self.pool_bytes + length > quota and not self._make_room(length, quota):
            return Reason.AREA_LIMIT
        return Reason.NONE if self._charge(length) else Reason.POOL_LIMIT

    def _make_room(self, length: int, quota: int) -> bool:
        """Write the area's own oldest pages back until *length* bytes more fit under its *quota*; tell whether they do.

        Models: the shrink_memcg() that zswap_store() tries when obj_cgroup_may_zswap() says no.
        """
        if length > quota:
            return False
        self.write_back_oldest(self.pool_bytes + length - quota, ROOM_PAGES_MAX)
        return self.pool_bytes + length <= quota
