"""Loads: whose bytes are answered, and who owns the page then.

Pure; every method is one atomic step. Rules of conduct:
  - A load that fails takes nothing and begins no hand-off.
  - SHARED copies. EXCLUSIVE takes a page that the pool answers, and with it the copy that was written through: that is
    the durable half of the entry and dies with it. CLAIM hands off what the slot holds now, wherever that is, and
    takes nothing: until it is acknowledged the bytes stay, and the same request id gets them again.
  - While a page is handed off nobody else is answered (R6): who claimed it may be writing to it already, and a
    second copy would be a second owner.
  - An acknowledgement counts only while its lease runs. What comes later finds the page the tier's again, or
    somebody else's, and changes nothing. That is the fence: a claimant that overslept is told so.

Models: zswap_load() in mm/zswap.c and the swap_read_folio() it falls through to; the hand-off is R2 to R6 of KERNEL.md
section 5.
"""

from swaptier_server.tier.counters import DeviceSource, LeaseEnd
from swaptier_server.tier.device import DeviceError
from swaptier_server.tier.page import DecodeError, SameFilled, StoredPage, decode
from swaptier_server.tier.slot import (
    DEVICE_STATES,
    HANDED_OFF_STATES,
    LOST_REASONS,
    Slot,
    SlotEvent,
    SlotState,
)
from swaptier_server.tier.storing import Storing
from swaptier_wire.types import NO_GENERATION, LoadMode, LoadReply, Outcome, Reason, SlotReply

# A look into an enum class costs 40 ns, and these are on every load's way.
_POOLED, _SHARED, _CLAIM, _ERROR = SlotState.POOLED, LoadMode.SHARED, LoadMode.CLAIM, Outcome.ERROR


class Loading(Storing):
    """The part of an area that answers pages."""

    def load(
        self,
        offset: int,
        generation: int,
        mode: LoadMode,
        *,
        request_id: int = 0,
        require_generation: bool = False,
        pool_only: bool = False,
    ) -> LoadReply:
        """Return the page at *offset*: the pool's, else whatever the device has, else no bytes and why.

        Without *require_generation* this is the kernel's load: any generation is answered, and a slot without an entry
        is read from the device, silently stale or not. With it, bytes of exactly *generation* are answered or none:
        STALE_GENERATION when the slot holds another, LOST when it holds none, even where *pool_only* asks for MISS,
        since there is nothing to look for on the device.

        EXCLUSIVE takes a page that the pool answers (HIT, SAME_FILLED). If it was written through, the device reads as
        never written afterwards. To the next server, too, unless its device could not drop the page: nothing outlives
        it, no tombstone either, so a store of it that comes late after a restart is kept as if it were the first. That
        costs memory until the slot is stored or freed, and no page: the bytes are those of its generation. A page that
        the device answers stays there until it is overwritten, as on any swap device.

        CLAIM hands off the page that the slot holds, in the pool or on the device, to *request_id*; of what the slot
        does not hold, it gets what SHARED gets. Anybody else's load of a page that is handed off answers CLAIMED; the
        claim's own repeat answers the same bytes, and its lease begins anew.

        Models: zswap_load() and, on a miss, swap_read_folio().
        """
        slot = self._slots.get(offset)
        wanted = generation if require_generation else None
        if slot is not None and slot.state is _POOLED:
            reply = self._load_entry(slot, wanted, mode, request_id)
        elif slot is not None and slot.state in HANDED_OFF_STATES:
            if mode is _CLAIM and slot.claimant == request_id:
                return self._replay(slot, wanted, pool_only)
            reply = self._refuse_generation(slot.generation, wanted) or LoadReply(
                Outcome.CLAIMED, generation=slot.generation
            )
        else:
            reply = self._load_without_entry(offset, slot, wanted, pool_only, mode, request_id)
        self.counters.loads[mode][reply.outcome] += 1
        return reply

    def acknowledge(self, offset: int, generation: int, request_id: int) -> SlotReply:
        """End the hand-off of *generation* to the claim *request_id*: the tier forgets its copy.

        Answers ACKNOWLEDGED, also to a repeat, STALE_GENERATION when the slot has seen a higher generation, or
        LEASE_ENDED when no such hand-off is under way. In the last two, nothing changed: if the slot holds a page, the
        page stays, claimed anew or not.

        The device keeps its bytes, written through or not, as at an invalidation: that spares a write a page, and what
        stays is the one tombstone that outlives the server. The next server finds the page under its generation,
        refuses late stores of older ones and answers a late repeat of its own as the first time. Nobody gets it by
        mistake: before it loads this slot again, the host has stored a higher generation.

        A device that frees on read drops a page that it handed off now, when it is certain that it was read.
        """
        slot = self._slots.get(offset)
        if slot is not None and generation < slot.generation:
            outcome = Outcome.STALE_GENERATION
        elif slot is None or generation != slot.generation or slot.claimant != request_id:
            outcome = Outcome.LEASE_ENDED
        elif slot.state not in HANDED_OFF_STATES:
            # Whoever acknowledged stays known until the next store, whatever else became of the slot.
            self.counters.repeated_acknowledges += 1
            return SlotReply(Outcome.ACKNOWLEDGED)
        else:
            outcome = Outcome.ACKNOWLEDGED
            self._end_lease(slot, LeaseEnd.ACKNOWLEDGED)
            self.counters.acknowledged_entries += slot.entry is not None
            self._end_page(slot)
            slot.step(SlotEvent.ACKNOWLEDGED)
            if self.options.device_free_on_read and slot.is_backed:
                self._drop_from_device(slot)
        self.counters.acknowledges[outcome] += 1
        return SlotReply(outcome)

    # From the pool

    def _load_entry(self, slot: Slot, wanted: int | None, mode: LoadMode, request_id: int) -> LoadReply:
        """Answer from the pool; if that succeeds, do what the mode says with the entry."""
        entry = slot.entry
        assert entry is not None, f"{slot} has no entry"
        if wanted is not None and entry.generation != wanted:
            return self._another_generation(entry.generation, wanted)
        reply = self._read_entry(entry)
        if reply.outcome is _ERROR:
            return reply
        if mode is _SHARED:
            slot.is_referenced = True
        elif mode is _CLAIM:
            self._begin_lease(slot, request_id)
        else:
            self._end_page(slot)
            slot.step(SlotEvent.TAKEN_BY_LOAD)
            if self._writes_through:
                self._drop_from_device(slot)
        return reply

    def _read_entry(self, entry: StoredPage) -> LoadReply:
        """Answer the page of a pool entry, or ERROR. Changes nothing."""
        try:
            page = decode(entry)
        except DecodeError as error:
            # Never a miss: the device behind it would answer with an older page (KERNEL.md 3.2).
            return self._load_error(error.reason, entry.generation)
        if isinstance(entry.encoded, SameFilled):
            word = entry.encoded.word
            return LoadReply(Outcome.SAME_FILLED, Reason.NONE, entry.generation, entry.checksum, None, word)
        return LoadReply(Outcome.HIT, Reason.NONE, entry.generation, entry.checksum, page, None, entry.length)

    # From the device

    def _load_without_entry(
        self, offset: int, slot: Slot | None, wanted: int | None, pool_only: bool, mode: LoadMode, request_id: int
    ) -> LoadReply:
        """Answer a load that the pool cannot."""
        is_current = slot is not None and slot.state is SlotState.ON_DEVICE
        held = slot.generation if slot is not None and is_current else NO_GENERATION
        if wanted is not None and not is_current:
            return self._lost(slot, wanted)
        refused = self._refuse_generation(held, wanted)
        if refused is not None:
            return refused
        if pool_only:
            return LoadReply(Outcome.MISS, generation=held)
        reply = self._read_device(offset, slot, wanted)
        if reply.outcome is not Outcome.DEVICE:
            return reply
        if slot is not None and is_current and mode is _CLAIM:
            self._begin_lease(slot, request_id)
        elif self.options.device_free_on_read:
            self._free_on_read(offset, slot)
        return reply

    def _read_device(self, offset: int, slot: Slot | None, wanted: int | None) -> LoadReply:
        """Answer whatever the device has, of *wanted* if that is not None, or ERROR. Changes nothing but counters."""
        is_current = slot is not None and slot.state in DEVICE_STATES
        held = slot.generation if slot is not None and is_current else NO_GENERATION
        try:
            stored = self._device.read(offset)
            page = decode(stored)
        except DeviceError as error:
            self._count_fault(error)
            return self._load_error(Reason.DEVICE_ERROR, held)
        except DecodeError as error:
            return self._load_error(error.reason, held)
        if wanted is not None and stored.generation != wanted:
            # The device acknowledged this generation and gives another: it is broken, and its bytes are not the page.
            return self._load_error(Reason.DEVICE_ERROR, held)
        if is_current and stored.generation == held:
            source = DeviceSource.CURRENT
        elif stored.generation == NO_GENERATION:
            source = DeviceSource.UNWRITTEN
        else:
            source = DeviceSource.STALE
        self.counters.device_reads[source] += 1
        return LoadReply(Outcome.DEVICE, Reason.NONE, stored.generation, stored.checksum, page)

    def _free_on_read(self, offset: int, slot: Slot | None) -> None:
        """Let the device forget what it has given."""
        if slot is None:
            self._device.drop(offset)
            return
        self._drop_from_device(slot)
        if slot.state is SlotState.ON_DEVICE:
            self._end_page(slot)
            slot.step(SlotEvent.DROPPED_BY_DEVICE)

    # Hand-offs, and no bytes

    def _replay(self, slot: Slot, wanted: int | None, pool_only: bool) -> LoadReply:
        """Answer a claim that was answered before. Its client lives and has nothing yet, so the lease begins anew."""
        refused = self._refuse_generation(slot.generation, wanted)
        if refused is not None:
            return refused
        if slot.entry is not None:
            reply = self._read_entry(slot.entry)
        elif pool_only:
            return LoadReply(Outcome.MISS, generation=slot.generation)
        else:
            reply = self._read_device(slot.offset, slot, wanted)
        self._leases.begin(slot)
        self.counters.replayed_claims += 1
        return reply

    def _refuse_generation(self, held: int, wanted: int | None) -> LoadReply | None:
        """Refuse to answer bytes of another generation than the one that is *wanted*, if one is."""
        return None if wanted is None or held == wanted else self._another_generation(held, wanted)

    def _another_generation(self, held: int, wanted: int) -> LoadReply:
        """Answer that the slot holds *held* and not *wanted*, and if the tier knows how that can be, that."""
        if self.is_restored and wanted > held:
            # The host stored a newer page, which only an earlier server had.
            self.counters.lost[Reason.RESTARTED] += 1
            return LoadReply(Outcome.LOST, Reason.RESTARTED, held)
        return LoadReply(Outcome.STALE_GENERATION, generation=held)

    def _lost(self, slot: Slot | None, wanted: int) -> LoadReply:
        """Answer that the slot holds no page, and what became of it."""
        if self.is_restored and (slot is None or wanted > slot.generation):
            reason = Reason.RESTARTED
        else:
            reason = LOST_REASONS[SlotState.NEVER_STORED if slot is None else slot.state]
        self.counters.lost[reason] += 1
        return LoadReply(Outcome.LOST, reason)

    def _load_error(self, reason: Reason, generation: int) -> LoadReply:
        """Answer that the page cannot be had although it is held."""
        self.counters.load_errors[reason] += 1
        return LoadReply(Outcome.ERROR, reason, generation)
