"""The slots of one area: objects for those that hold a page in the pool or are handed off, packed rows for the others.

Pure. A slot that is free, taken, refused, on the device only, or one repeated word is remembered for as long as its
area lives, so what it costs bounds what a client can make a server hold: ROW_BYTES, where an object costs some 400.
Rules of conduct:
  - A slot is an object or a row, never both. Who asks for it gets the object, made of the row if need be.
  - An object becomes a row between two messages only, in `settle()`: a message may hold on to those that it was given.
  - Who moves a slot to a state that a row can say calls `may_be_packed()`; that is all that others know of rows.

Models: the swap map, an array with a byte a slot. Linux keeps nothing of a slot that is free.
"""

from collections.abc import Iterator
from struct import Struct
from typing import Final

from swaptier_server.tier.page import SameFilled, StoredPage
from swaptier_server.tier.slot import HANDED_OFF_STATES, LOST_REASONS, Slot, SlotState
from swaptier_wire.types import NO_GENERATION, Outcome, Reason, SlotReply

_ROW: Final = Struct("<QQQQHB")
"""Generation, store checksum, device generation, claimant or repeated word, reply to the store, state."""
ROW_BYTES: Final = _ROW.size
ROWS: Final = 256
"""In one piece: what a slot far from all others makes a server hold is ROWS times ROW_BYTES, 9 KB."""
LOOSE_MAX: Final = 1024
"""Objects of one area that could be rows, besides those of a batch: some 0.5 MB. Slots in use stay objects,
since to make a row and an object of it again costs 2 us."""

PIECES_SEARCHED_MAX: Final = 16
"""In one search for pages that nothing needs: some 0.2 ms."""

_DEVICE_GENERATION: Final = Struct("<Q")
_DEVICE_GENERATION_AT: Final = 16
_STATE_AT: Final = ROW_BYTES - 1
_HAS_CLAIMANT: Final = 0x80
_NO_ROW: Final = 0
"""As state of a row: there is none. NEVER_STORED, which no slot is in between two messages."""
_STATES: Final = tuple(SlotState)
_HOLD_NOTHING: Final = frozenset(LOST_REASONS) - {SlotState.NEVER_STORED}
_FIT_A_ROW: Final = frozenset(SlotState) - {SlotState.NEVER_STORED, *HANDED_OFF_STATES}
"""States that a row can say; POOLED only when the page is one repeated word."""
_NO_REPLY: Final = 0
_REPLIES: Final = {
    _NO_REPLY: None,
    **{outcome << 8 | reason: SlotReply(outcome, reason) for outcome in Outcome for reason in Reason},
}


class SlotTable:
    """The slots of one area that were ever stored to, invalidated, or found on the device, by offset."""

    def __init__(self, area: str) -> None:
        self._area: Final = area
        self._objects: Final[dict[int, Slot]] = {}
        self._pieces: Final[dict[int, bytearray]] = {}
        """Of ROWS rows each, by offset // ROWS."""
        self._rows = 0
        self._unsearched: list[int] = []
        """Pieces that `take_stale()` has not seen in its present round."""
        self._loose: Final[dict[int, Slot]] = {}
        """Objects that may be packed, by offset; some were given a page since, and stay."""

    def __len__(self) -> int:
        return len(self._objects) + self._rows

    def __contains__(self, offset: int) -> bool:
        return offset in self._objects or self._state_of_row(offset) != _NO_ROW

    def __getitem__(self, offset: int) -> Slot:
        slot = self.get(offset)
        if slot is None:
            raise KeyError(offset)
        return slot

    def get(self, offset: int) -> Slot | None:
        """Return the slot to read and to change; None when it is not known."""
        slot = self._objects.get(offset)
        if slot is None and (piece := self._pieces.get(offset // ROWS)) is not None:
            state_at = offset % ROWS * ROW_BYTES + _STATE_AT
            if piece[state_at] != _NO_ROW:
                slot = self._objects[offset] = self._loose[offset] = self._unpacked(offset)
                piece[state_at] = _NO_ROW
                self._rows -= 1
        return slot

    def make(self, offset: int) -> Slot:
        """Return the slot to change, known from now on."""
        slot = self.get(offset)
        if slot is None:
            slot = self._objects[offset] = self._loose[offset] = Slot(self._area, offset)
        return slot

    def peek(self, offset: int) -> Slot | None:
        """Return the slot to read only. Changes nothing."""
        slot = self._objects.get(offset)
        return self._unpacked(offset) if slot is None and self._state_of_row(offset) != _NO_ROW else slot

    def state(self, offset: int) -> SlotState:
        """Return the slot's state; NEVER_STORED when it is not known."""
        slot = self._objects.get(offset)
        return _STATES[self._state_of_row(offset)] if slot is None else slot.state

    def holds(self, slot: Slot) -> bool:
        """Tell whether *slot*, which a row cannot say, is one of this area and not of another of the same name."""
        return self._objects.get(slot.offset) is slot

    def values(self) -> Iterator[Slot]:
        """Yield every slot, to read only."""
        objects = self._objects.values()
        yield from objects
        for number, piece in self._pieces.items():
            for row, state in enumerate(piece[_STATE_AT::ROW_BYTES]):
                if state != _NO_ROW:
                    yield self._unpacked(number * ROWS + row)

    def pooled(self, slots_max: int) -> Iterator[list[Slot]]:
        """Yield the POOLED slots to change them, so many at a time, or fewer. Meanwhile none may become POOLED.

        The area may end meanwhile.
        """
        objects = list(self._objects.values())
        for start in range(0, len(objects), slots_max):
            yield [slot for slot in objects[start : start + slots_max] if slot.state is SlotState.POOLED]
        for number in list(self._pieces):
            states = self._pieces.get(number, b"")[_STATE_AT::ROW_BYTES]
            rows = [row for row, state in enumerate(states) if state == SlotState.POOLED]
            for start in range(0, len(rows), slots_max):
                yield [self[number * ROWS + row] for row in rows[start : start + slots_max]]

    # Objects become rows

    def may_be_packed(self, slot: Slot) -> None:
        """Note that *slot* is in a state that a row can say, or will be when its message is done."""
        self._loose[slot.offset] = slot

    def settle(self) -> None:
        """Make rows of what may be packed, if it is much. Called between messages."""
        if len(self._loose) > LOOSE_MAX:
            self.pack()

    def pack(self) -> None:
        """Make rows of what may be packed. Called between messages."""
        objects, pieces = self._objects, self._pieces
        for offset, slot in self._loose.items():
            state, entry, shared = slot.state, slot.entry, slot.claimant
            if state not in _FIT_A_ROW or (entry is not None and entry.length) or objects.get(offset) is not slot:
                continue
            packed = state if shared is None else state | _HAS_CLAIMANT
            if entry is not None and isinstance(entry.encoded, SameFilled):
                shared = entry.encoded.word  # a page in the pool that is not handed off has no claimant
            reply = slot.store_reply
            said = _NO_REPLY if reply is None else reply.outcome << 8 | reply.reason
            piece = pieces.get(offset // ROWS)
            if piece is None:
                piece = pieces[offset // ROWS] = bytearray(ROWS * ROW_BYTES)
            row = (slot.generation, slot.store_checksum, slot.device_generation, shared or 0, said, packed)
            _ROW.pack_into(piece, offset % ROWS * ROW_BYTES, *row)
            del objects[offset]
            self._rows += 1
        self._loose.clear()

    def _unpacked(self, offset: int) -> Slot:
        generation, checksum, device_generation, shared, said, packed = _ROW.unpack_from(
            self._pieces[offset // ROWS], offset % ROWS * ROW_BYTES
        )
        has_claimant = packed & _HAS_CLAIMANT
        state = _STATES[packed & ~_HAS_CLAIMANT]
        entry = StoredPage(SameFilled(shared), 0, checksum, generation) if state is SlotState.POOLED else None
        return Slot(
            *(self._area, offset, state, generation, entry, checksum, _REPLIES[said], device_generation),
            claimant=shared if has_claimant else None,
        )

    def _state_of_row(self, offset: int) -> int:
        piece = self._pieces.get(offset // ROWS)
        return _NO_ROW if piece is None else piece[offset % ROWS * ROW_BYTES + _STATE_AT] & ~_HAS_CLAIMANT

    # Pages that nothing needs, and the end of an area

    def take_stale(self, pages_max: int) -> list[int]:
        """Return offsets of rows that hold nothing and for which the device has a page, which they forget.

        So many or some more, of the next few pieces; each search goes on where the last one ended.
        """
        taken: list[int] = []
        for _ in range(min(PIECES_SEARCHED_MAX, len(self._pieces))):
            if len(taken) >= pages_max:
                break
            self._unsearched = self._unsearched or list(self._pieces)
            number = self._unsearched.pop()
            piece = self._pieces.get(number, bytearray())
            for row, packed in enumerate(piece[_STATE_AT::ROW_BYTES]):
                at = row * ROW_BYTES + _DEVICE_GENERATION_AT
                if packed & ~_HAS_CLAIMANT in _HOLD_NOTHING and _DEVICE_GENERATION.unpack_from(piece, at)[0]:
                    _DEVICE_GENERATION.pack_into(piece, at, NO_GENERATION)
                    taken.append(number * ROWS + row)
        return taken

    def take_objects(self, slots_max: int) -> list[Slot]:
        """Forget so many of the slots that are objects; return them."""
        self._loose.clear()
        return [self._objects.popitem()[1] for _ in range(min(slots_max, len(self._objects)))]

    def take_rows(self) -> tuple[int, int, int]:
        """Forget a piece of rows; return how many there were, how many in the pool and on the device only."""
        if not self._pieces:
            return 0, 0, 0
        states = self._pieces.popitem()[1][_STATE_AT::ROW_BYTES]
        rows = ROWS - states.count(_NO_ROW)
        self._rows -= rows
        pooled, on_device = (states.count(state) for state in (SlotState.POOLED, SlotState.ON_DEVICE))
        return rows, pooled, on_device
