"""One area: what each request does to a slot. The contract of each is the comment on its RPC in `swaptier.proto`.

Pure; every method is one atomic step. Rules of conduct:
  - A slot's generation is the highest it has seen. Only a store of a higher one is applied (R1 of KERNEL.md section 5);
    an invalidation of a lower one is late and changes nothing (R4).
  - The check_* methods refuse a batch before any of it is applied. The others work on one slot and trust that they
    were called.

Loads and acknowledgements are in `loading`, stores in `storing`, writeback in `writeback`, and what a slot holds is
kept by `holdings`: each builds on the next.

Models: zswap_store(), zswap_load() and zswap_invalidate() in mm/zswap.c, and the swapfile they fall through to.
Left out: large folios.
"""

from collections.abc import Sequence

from swaptier_server.tier.counters import LeaseEnd
from swaptier_server.tier.loading import Loading
from swaptier_server.tier.slot import HANDED_OFF_STATES, SlotEvent, SlotState
from swaptier_server.tier.swap_file import Client
from swaptier_wire.errors import InvalidRequest, LimitReached, UnknownArea
from swaptier_wire.types import NO_GENERATION, LoadMode, Outcome, SlotReply

__all__ = ["Area", "Client"]


class Area(Loading):
    """One client's swap device: its slots, their pages in the shared pool, and the device behind them.

    Made by `Tier.swapon()`, or by a tier that finds it in its swap file; ended by `Tier.swapoff()`, `Tier.drop_area()`
    or a newer epoch of its client. A closed area refuses every batch.
    """

    # Before a batch

    def check_offsets(self, offsets: Sequence[int]) -> None:
        """Refuse a batch that names a slot outside the area, or a slot twice.

        Raises:
            UnknownArea: the area was closed. Definite.
            InvalidRequest: as said. Definite.
        """
        if self.is_closed:
            raise UnknownArea(f"area {self.name!r} was closed; nothing changed. Swapon opens it again, empty")
        if offsets and not 0 <= min(offsets) <= max(offsets) < self.slots:
            outside = next(offset for offset in offsets if not 0 <= offset < self.slots)
            raise InvalidRequest(
                f"offset {outside} is outside area {self.name!r}, which has slots 0 to {self.slots - 1}; nothing of "
                "the request was applied. Send offsets inside the area, or open one with more slots"
            )
        if len(set(offsets)) != len(offsets):
            twice = next(offset for position, offset in enumerate(offsets) if offset in offsets[:position])
            raise InvalidRequest(
                f"offset {twice} of area {self.name!r} stands twice in one request, which has no order inside; nothing "
                "of it was applied. Send the second in a later request"
            )

    def check_store(self, offsets: Sequence[int], generations: Sequence[int]) -> None:
        """Refuse a batch of stores as `check_offsets()` does, or one with a generation that nothing can have.

        Raises:
            UnknownArea, InvalidRequest: definite.
        """
        self.check_offsets(offsets)
        if NO_GENERATION in generations:
            offset = offsets[list(generations).index(NO_GENERATION)]
            raise InvalidRequest(
                f"the store to offset {offset} of area {self.name!r} has generation {NO_GENERATION}, which means bytes "
                "that nobody stored; nothing of the request was applied. Generations start at 1"
            )

    def check_load(self, offsets: Sequence[int], modes: Sequence[LoadMode]) -> None:
        """Refuse a batch of loads as `check_offsets()` does, or one whose claims could begin more leases than allowed.

        Repeats of claims that are under way begin none, so they are never refused.

        Raises:
            UnknownArea, InvalidRequest, LimitReached: definite.
        """
        self.check_offsets(offsets)
        if LoadMode.CLAIM not in modes:
            return
        claimable = (SlotState.POOLED, SlotState.ON_DEVICE)
        claims = [
            self._slots[offset]
            for offset, mode in zip(offsets, modes, strict=True)
            if mode is LoadMode.CLAIM and offset in self._slots
        ]
        begun = sum(slot.state in claimable for slot in claims)
        if self.handed_off_pages + begun > self._leases_max:
            raise LimitReached(
                f"area {self.name!r} has {self.handed_off_pages} claims that were not acknowledged, and {begun} more "
                f"would pass its limit of {self._leases_max}; nothing of the request was applied. Acknowledge, or wait "
                f"{self._leases.duration_ns / 1e9:g} s for leases to end, then ask again"
            )

    def check_acknowledge(self, offsets: Sequence[int]) -> None:
        """Refuse a batch of acknowledgements as `check_offsets()` does.

        Raises:
            UnknownArea, InvalidRequest: definite.
        """
        self.check_offsets(offsets)

    # Requests, one slot each

    def lookup(self, offset: int) -> SlotReply:
        """Tell whether the pool has an entry, handed off or not: HIT or MISS. Models: xa_load() on zswap's tree."""
        slot = self._slots.get(offset)
        return SlotReply(Outcome.MISS if slot is None or slot.entry is None else Outcome.HIT)

    def invalidate(self, offset: int, generation: int) -> SlotReply:
        """Forget the slot's page up to *generation*, handed off or not; the device keeps its bytes.

        Answers INVALIDATED, MISS (there was no pool entry) or STALE_GENERATION (the slot has seen a higher one).

        Models: zswap_invalidate() at the last swap_free().
        """
        slot = self._slot(offset)
        if generation < slot.generation:
            outcome = Outcome.STALE_GENERATION
        else:
            outcome = Outcome.MISS if slot.entry is None else Outcome.INVALIDATED
            if slot.state in HANDED_OFF_STATES:
                self._end_lease(slot, LeaseEnd.INVALIDATED)
            self._end_page(slot)
            slot.step(SlotEvent.INVALIDATED)
            if generation > slot.generation:
                # The host stored up to here, and these stores have not arrived. When they do, they are late.
                slot.generation = generation
                slot.store_reply = None
        self.counters.invalidates[outcome] += 1
        return SlotReply(outcome)
