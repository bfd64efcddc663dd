"""One area: what each request does to a slot. The contract of each is the comment on its RPC in `swaptier.proto`.

Pure; every method is one atomic step. Rules of conduct:
  - A slot's generation is the highest it has seen. Only a store of a higher one is applied (R1 of KERNEL.md section 5);
    an invalidation of a lower one is late and changes nothing (R4).
  - A store that is applied ends the slot's older page before anything can go wrong: an older page never comes back.
  - A load that fails takes nothing.
  - The check_* methods refuse a batch before any of it is applied. The others work on one slot and trust that they
    were called.

Models: zswap_store(), zswap_load() and zswap_invalidate() in mm/zswap.c, and the swapfile they fall through to.
Left out: memcg limits, writeback, large folios, and hand-offs (claims raise NotBuilt). What a slot holds is kept by
`holdings`.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from swaptier_server.tier.counters import DeviceSource
from swaptier_server.tier.device import DeviceError, SwapDevice
from swaptier_server.tier.holdings import Holdings
from swaptier_server.tier.page import DecodeError, SameFilled, StoredPage, decode, stored_page
from swaptier_server.tier.pool import Pool
from swaptier_server.tier.slot import LOST_REASONS, Slot, SlotEvent, SlotState
from swaptier_wire.errors import InvalidRequest, NotBuilt, UnknownArea
from swaptier_wire.types import (
    NO_GENERATION,
    AreaOptions,
    LoadMode,
    LoadReply,
    Outcome,
    Reason,
    SlotReply,
    page_checksum,
)


class Client(NamedTuple):
    """A host, in one of its lives."""

    id: str
    epoch: int
    """Rises each time the host starts anew."""


class Area(Holdings):
    """One client's swap device: its slots, their pages in the shared pool, and the device behind them.

    Made by `Tier.swapon()`, ended by `Tier.swapoff()`, `Tier.drop_area()` or a newer epoch of its client; a closed area
    refuses every batch.
    """

    def __init__(
        self,
        name: str,
        slots: int,
        options: AreaOptions,
        client: Client,
        *,
        pool: Pool,
        device: SwapDevice,
        keeps_incompressible: bool,
    ) -> None:
        super().__init__(name, slots, pool=pool, device=device, keeps_incompressible=keeps_incompressible)
        self.options: Final = options
        self.client: Final = client

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
        """Refuse a batch of loads as `check_offsets()` does, or one with a mode that is not built.

        Raises:
            UnknownArea, InvalidRequest, NotBuilt: definite.
        """
        self.check_offsets(offsets)
        if LoadMode.CLAIM in modes:
            raise _claims_not_built()

    def check_acknowledge(self, offsets: Sequence[int]) -> None:
        """Refuse every batch of acknowledgements: there is nothing to acknowledge yet.

        Raises:
            UnknownArea, InvalidRequest, NotBuilt: definite.
        """
        self.check_offsets(offsets)
        raise _claims_not_built()

    # Requests, one slot each

    def store(self, offset: int, generation: int, page: bytes, checksum: int) -> SlotReply:
        """Keep *page*, exactly PAGE_BYTES long: in the pool, or else on the device, or nowhere.

        Answers STORED, DEVICE, REJECTED, STALE_GENERATION or ERROR. In the first three the slot's older page is gone;
        the other two change nothing. A repeat is answered as the first was.

        Models: zswap_store(), and swap_writepage() when it declines.
        """
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
        self._end_page(slot)
        slot.generation = generation
        slot.store_checksum = checksum
        slot.store_reply = reply = self._place(slot, stored)
        self.counters.stores[reply.outcome] += 1
        return reply

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
        since there is nothing to look for on the device. EXCLUSIVE takes a page that the pool answers; one on the
        device stays there until it is overwritten, as on any swap device. *request_id* names a CLAIM: not built.

        Raises:
            NotBuilt: the mode is CLAIM. Definite.

        Models: zswap_load() and, on a miss, swap_read_folio().
        """
        if mode is LoadMode.CLAIM:
            raise _claims_not_built()
        slot = self._slots.get(offset)
        wanted = generation if require_generation else None
        if slot is not None and slot.entry is not None:
            reply = self._load_entry(slot, slot.entry, wanted, mode)
        else:
            reply = self._load_without_entry(offset, slot, wanted, pool_only)
        self.counters.loads[mode][reply.outcome] += 1
        return reply

    def lookup(self, offset: int) -> SlotReply:
        """Tell whether the pool has an entry: HIT or MISS. Models: xa_load() on zswap's tree."""
        slot = self._slots.get(offset)
        return SlotReply(Outcome.MISS if slot is None or slot.entry is None else Outcome.HIT)

    def invalidate(self, offset: int, generation: int) -> SlotReply:
        """Forget the slot's pool entry up to *generation*; the device keeps its bytes.

        Answers INVALIDATED, MISS (there was no entry) or STALE_GENERATION (the slot has seen a higher one).

        Models: zswap_invalidate() at the last swap_free().
        """
        slot = self._slot(offset)
        if generation < slot.generation:
            outcome = Outcome.STALE_GENERATION
        else:
            outcome = Outcome.MISS if slot.entry is None else Outcome.INVALIDATED
            self._end_page(slot)
            slot.step(SlotEvent.INVALIDATED)
            if generation > slot.generation:
                # The host stored up to here, and these stores have not arrived. When they do, they are late.
                slot.generation = generation
                slot.store_reply = None
        self.counters.invalidates[outcome] += 1
        return SlotReply(outcome)

    def acknowledge(self, offset: int, generation: int, request_id: int) -> SlotReply:
        """End a hand-off.

        Raises:
            NotBuilt: always; there are no hand-offs yet. Definite.
        """
        raise _claims_not_built()

    # How

    def _answer_late_store(self, slot: Slot, generation: int, checksum: int) -> SlotReply:
        """Answer the store of a generation that the slot has seen: as the first time for a repeat, else refuse."""
        first = slot.store_reply
        if first is not None and generation == slot.generation and checksum == slot.store_checksum:
            self.counters.repeated_stores += 1
            return first if slot.entry is not None else first._replace(entry_bytes=0)
        self.counters.stores[Outcome.STALE_GENERATION] += 1
        return SlotReply(Outcome.STALE_GENERATION)

    def _load_entry(self, slot: Slot, entry: StoredPage, wanted: int | None, mode: LoadMode) -> LoadReply:
        """Answer from the pool, and take the page from it if the load is exclusive and succeeds."""
        if wanted is not None and entry.generation != wanted:
            return LoadReply(Outcome.STALE_GENERATION, generation=entry.generation)
        try:
            page = decode(entry)
        except DecodeError as error:
            # Never a miss: the device behind it would answer with an older page (KERNEL.md 3.2).
            return self._load_error(error.reason, entry.generation)
        if mode is LoadMode.EXCLUSIVE:
            self._end_page(slot)
            slot.step(SlotEvent.TAKEN_BY_LOAD)
        if isinstance(entry.encoded, SameFilled):
            word = entry.encoded.word
            return LoadReply(Outcome.SAME_FILLED, Reason.NONE, entry.generation, entry.checksum, None, word)
        return LoadReply(Outcome.HIT, Reason.NONE, entry.generation, entry.checksum, page, None, entry.length)

    def _load_without_entry(self, offset: int, slot: Slot | None, wanted: int | None, pool_only: bool) -> LoadReply:
        """Answer a load that the pool cannot."""
        state = SlotState.NEVER_STORED if slot is None else slot.state
        held = slot.generation if slot is not None and state is SlotState.ON_DEVICE else NO_GENERATION
        if wanted is not None:
            if state is not SlotState.ON_DEVICE:
                reason = LOST_REASONS[state]
                self.counters.lost[reason] += 1
                return LoadReply(Outcome.LOST, reason)
            if held != wanted:
                return LoadReply(Outcome.STALE_GENERATION, generation=held)
        if pool_only:
            return LoadReply(Outcome.MISS, generation=held)
        try:
            stored = self._device.read(offset)
            page = decode(stored)
        except DeviceError:
            return self._load_error(Reason.DEVICE_ERROR, held)
        except DecodeError as error:
            return self._load_error(error.reason, held)
        if wanted is not None and stored.generation != wanted:
            # The device acknowledged this generation and gives another: it is broken, and its bytes are not the page.
            return self._load_error(Reason.DEVICE_ERROR, held)
        self._account_device_read(offset, slot, stored)
        return LoadReply(Outcome.DEVICE, Reason.NONE, stored.generation, stored.checksum, page)

    def _account_device_read(self, offset: int, slot: Slot | None, stored: StoredPage) -> None:
        """Count what the device gave, and let it forget that if it is one that does."""
        is_current = slot is not None and slot.state is SlotState.ON_DEVICE and stored.generation == slot.generation
        if is_current:
            source = DeviceSource.CURRENT
        elif stored.generation == NO_GENERATION:
            source = DeviceSource.UNWRITTEN
        else:
            source = DeviceSource.STALE
        self.counters.device_reads[source] += 1
        if self.options.device_free_on_read:
            self._device.drop(offset)
            if slot is not None and slot.state is SlotState.ON_DEVICE:
                self._end_page(slot)
                slot.step(SlotEvent.DROPPED_BY_DEVICE)

    def _load_error(self, reason: Reason, generation: int) -> LoadReply:
        """Answer that the page cannot be had although it is held."""
        self.counters.load_errors[reason] += 1
        return LoadReply(Outcome.ERROR, reason, generation)


def _claims_not_built() -> NotBuilt:
    return NotBuilt(
        "this server has no claims; nothing changed. Load SHARED and invalidate once the page is mapped, or EXCLUSIVE "
        "as the kernel does"
    )
