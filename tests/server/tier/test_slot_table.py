"""Slots as packed rows: what they cost, and that a row says all that its slot was."""

import tracemalloc
from dataclasses import astuple

import pytest

from swaptier_server.tier.area import Area
from swaptier_server.tier.free import invalidate
from swaptier_server.tier.page import SameFilled, StoredPage
from swaptier_server.tier.slot import Slot, SlotState
from swaptier_server.tier.slot_table import LOOSE_MAX, ROW_BYTES, ROWS, SlotTable
from swaptier_server.tier.store import store_many
from swaptier_server.tier.swap_file import Client
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import BATCH_SLOTS_MAX, AreaOptions, Outcome, Reason, SlotReply, fill_page

TOP = (1 << 64) - 1


def slots_as_they_can_be() -> list[Slot]:
    """Return one slot of each kind that a row can say, with the greatest numbers."""
    word = StoredPage(SameFilled(TOP), 0, TOP, TOP)
    stored, on_device = SlotReply(Outcome.STORED), SlotReply(Outcome.DEVICE, Reason.POOL_LIMIT)
    rejected = SlotReply(Outcome.REJECTED, Reason.DEVICE_ERROR)
    return [
        Slot("a", 0, SlotState.POOLED, TOP, word, TOP, stored),
        Slot("a", 1, SlotState.POOLED, TOP, word, TOP, stored, device_generation=TOP),
        Slot("a", ROWS, SlotState.ON_DEVICE, TOP, None, TOP, on_device, TOP),
        Slot("a", 7 * ROWS - 1, SlotState.TAKEN, TOP, None, TOP, stored, 0, TOP),
        Slot("a", 7 * ROWS, SlotState.TAKEN, TOP, None, 0, on_device, TOP - 1, 0),
        Slot("a", (1 << 32) - 1, SlotState.FREED, TOP),
        Slot("a", 3, SlotState.FREED),
        Slot("a", 4, SlotState.REFUSED, TOP, None, TOP, rejected),
    ]


def put(table: SlotTable, slot: Slot) -> None:
    """Make *slot* the one that *table* has at its offset."""
    made = table.make(slot.offset)
    for field in Slot.__slots__:
        setattr(made, field, getattr(slot, field))


def test_a_row_says_all_that_its_slot_was() -> None:
    table, slots = SlotTable("a"), slots_as_they_can_be()
    for slot in slots:
        put(table, slot)
    table.pack()
    assert sorted(map(astuple, table.values()), key=lambda slot: slot[1]) == sorted(map(astuple, slots))
    for slot in slots:
        assert slot.offset in table and table.state(slot.offset) is slot.state
        peeked = table.peek(slot.offset)
        assert peeked is not None and astuple(peeked) == astuple(slot) == astuple(table[slot.offset])
    assert len(table) == len(slots)


def test_a_slot_that_holds_bytes_or_is_handed_off_stays_an_object() -> None:
    table = SlotTable("a")
    page = StoredPage(SameFilled(7), 0, 1, 1)
    for offset, state in enumerate((SlotState.HANDED_OFF, SlotState.DEVICE_HANDED_OFF)):
        put(table, Slot("a", offset, state, 1, page if offset == 0 else None, claimant=5))
    put(table, Slot("a", 2, SlotState.POOLED, 1, page._replace(length=1)))
    objects = [table[offset] for offset in range(3)]
    table.pack()
    assert all(map(table.holds, objects))


def test_what_is_changed_after_it_was_unpacked_is_packed_as_it_is_then() -> None:
    table = SlotTable("a")
    put(table, Slot("a", 9, SlotState.FREED, 1))
    table.pack()
    changed = table.get(9)
    assert changed is not None and table.get(9) is changed
    changed.generation = 2
    table.pack()
    assert [slot.generation for slot in table.values()] == [2]
    assert not table.holds(changed)


def test_slots_that_are_not_known_are_not() -> None:
    table = SlotTable("a")
    put(table, Slot("a", 9, SlotState.FREED, 1))
    table.pack()
    for offset in (8, 10, 9 + ROWS):
        assert offset not in table and table.get(offset) is None and table.peek(offset) is None
        assert table.state(offset) is SlotState.NEVER_STORED
        with pytest.raises(KeyError):
            table[offset]
    assert len(table) == 1


def open_area(slots: int) -> tuple[Tier, Area]:
    tier = Tier(TierLimits(pool_bytes_max=1 << 20), epoch=1)
    return tier, tier.swapon(Client("c", 1), "a", slots, AreaOptions())[0]


@pytest.mark.parametrize("what", ["freed", "same-filled"])
def test_a_slot_that_holds_nothing_or_one_word_costs_a_row(what: str) -> None:
    """It was 217 bytes for a slot that was freed, and 523 for one word."""
    slots = 16 * BATCH_SLOTS_MAX
    _, area = open_area(slots)
    page = fill_page(1234567)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for start in range(0, slots, BATCH_SLOTS_MAX):
            batch = range(start, start + BATCH_SLOTS_MAX)
            area.check_offsets(batch)
            if what == "freed":
                for offset in batch:
                    invalidate(area, offset, TOP - offset)
            else:
                store_many(area, batch, [TOP] * len(batch), [page] * len(batch), [page_checksum(page)] * len(batch))
        cost = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    objects = 2 * LOOSE_MAX * 600
    assert cost < slots * (ROW_BYTES + 2) + objects
    assert len(area.known_slots) == slots


def test_an_area_of_rows_ends_in_pieces_with_its_gauges_right() -> None:
    tier, area = open_area(4 * ROWS)
    page = fill_page(5)
    for offset in range(0, 4 * ROWS, 3):
        store_many(area, [offset], [1], [page], [page_checksum(page)])
    area.known_slots.pack()
    assert tier.drop_area("a") == len(range(0, 4 * ROWS, 3))
    while tier.is_ending:
        tier.end_some(slots_max=100)
        tier.check_invariants()
    assert (len(area.known_slots), area.stored_pages, area.same_filled_pages) == (0, 0, 0)
