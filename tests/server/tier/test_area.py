"""What each request does to a slot: the comments of Store, Load, Lookup and Invalidate in the proto, claim by claim."""

from collections.abc import Sequence

import pytest
from tests.builders import noise_of, page_of
from tests.server.builders import HOST, put

from swaptier_server.tier.area import Area
from swaptier_server.tier.area_check import check_area
from swaptier_server.tier.counters import DeviceSource
from swaptier_server.tier.device import DeviceError, MemoryDevice
from swaptier_server.tier.free import invalidate
from swaptier_server.tier.load import load, lookup
from swaptier_server.tier.page import Lz4, StoredPage, stored_page
from swaptier_server.tier.slot import SlotState
from swaptier_server.tier.store import check_store, store
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.checksum import page_checksum
from swaptier_wire.errors import InvalidRequest, UnknownArea
from swaptier_wire.types import (
    PAGE_BYTES,
    ZERO_PAGE,
    AreaOptions,
    LoadMode,
    LoadReply,
    Outcome,
    Reason,
    SlotReply,
    fill_page,
)

ROOMY = TierLimits(pool_bytes_max=1 << 20)
NO_POOL = TierLimits(pool_bytes_max=0)


def open_area(limits: TierLimits = ROOMY, options: AreaOptions | None = None) -> Area:
    area, _ = Tier(limits, 1).swapon(HOST, "swap", 8, options or AreaOptions())
    return area


def get(area: Area, offset: int, mode: LoadMode = LoadMode.SHARED, **options: bool) -> LoadReply:
    return load(area, offset, 0, mode, **options)


def get_safely(area: Area, offset: int, generation: int, mode: LoadMode = LoadMode.SHARED) -> LoadReply:
    return load(area, offset, generation, mode, require_generation=True)


class FailingDevice(MemoryDevice):
    """A device whose failures are switched on by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.fails_to_read = False
        self.fails_to_write = False
        self.forgets = False

    def read(self, offset: int) -> StoredPage:
        """Fail, give another page, or do as a device does."""
        if self.fails_to_read:
            raise DeviceError
        return stored_page(ZERO_PAGE, page_checksum(ZERO_PAGE), 77) if self.forgets else super().read(offset)

    def write(self, pages: Sequence[tuple[int, StoredPage]]) -> None:
        """Fail, or do as a device does."""
        if self.fails_to_write:
            raise DeviceError
        super().write(pages)


def area_on(device: FailingDevice, limits: TierLimits = NO_POOL) -> Area:
    area, _ = Tier(limits, 1, lambda _name: device).swapon(HOST, "swap", 8, AreaOptions())
    return area


# Store


def test_a_stored_page_is_loaded_with_its_generation_checksum_and_size() -> None:
    area = open_area()
    stored = put(area, 3, 5, page_of(1))
    assert stored.outcome is Outcome.STORED
    assert 0 < stored.entry_bytes < PAGE_BYTES
    assert get(area, 3) == LoadReply(
        Outcome.HIT, Reason.NONE, 5, page_checksum(page_of(1)), page_of(1), None, stored.entry_bytes
    )


def test_a_same_filled_page_is_answered_as_its_word_and_takes_no_bytes() -> None:
    area = open_area()
    assert put(area, 0, 1, fill_page(0xDEAD)) == SlotReply(Outcome.STORED, Reason.NONE, 0)
    reply = get(area, 0)
    assert (reply.outcome, reply.fill_word, reply.page, reply.entry_bytes) == (Outcome.SAME_FILLED, 0xDEAD, None, 0)
    assert reply.content() == fill_page(0xDEAD)
    assert (area.stored_pages, area.same_filled_pages, area.pool_bytes) == (1, 1, 0)


def test_a_newer_store_replaces_the_page_and_is_counted_as_a_duplicate_entry() -> None:
    area = open_area()
    put(area, 0, 1, page_of(1))
    put(area, 0, 2, page_of(2))
    assert get(area, 0).page == page_of(2)
    assert (area.stored_pages, area.counters.duplicate_entries) == (1, 1)


def test_a_store_that_does_not_match_its_checksum_changes_nothing() -> None:
    area = open_area()
    put(area, 0, 1, page_of(1))
    assert store(area, 0, 2, page_of(2), page_checksum(page_of(3))) == SlotReply(Outcome.ERROR, Reason.CHECKSUM)
    assert get(area, 0).page == page_of(1)
    assert put(area, 0, 2, page_of(2)).outcome is Outcome.STORED, "the generation is not used up"


def test_an_older_store_that_arrives_late_changes_nothing() -> None:
    area = open_area()
    put(area, 0, 2, page_of(2))
    assert put(area, 0, 1, page_of(1)) == SlotReply(Outcome.STALE_GENERATION)
    assert get(area, 0).page == page_of(2)


def test_the_same_generation_with_other_bytes_changes_nothing() -> None:
    area = open_area()
    put(area, 0, 1, page_of(1))
    assert put(area, 0, 1, page_of(2)).outcome is Outcome.STALE_GENERATION
    assert get(area, 0).page == page_of(1)


def test_a_repeated_store_is_answered_again_and_not_applied_again() -> None:
    area = open_area()
    first = put(area, 0, 1, page_of(1))
    assert put(area, 0, 1, page_of(1)) == first
    assert (area.counters.stores[Outcome.STORED], area.counters.repeated_stores) == (1, 1)


@pytest.mark.parametrize("end", ["taken", "freed"])
def test_a_repeated_store_does_not_bring_back_a_page_that_is_gone(end: str) -> None:
    area = open_area()
    put(area, 0, 1, page_of(1))
    if end == "taken":
        get(area, 0, LoadMode.EXCLUSIVE)
    else:
        invalidate(area, 0, 1)
    assert put(area, 0, 1, page_of(1)) == SlotReply(Outcome.STORED, Reason.NONE, 0)
    assert lookup(area, 0).outcome is Outcome.MISS


def test_a_store_that_arrives_after_its_slot_was_freed_changes_nothing() -> None:
    area = open_area()
    invalidate(area, 0, 5)
    assert put(area, 0, 5, page_of(5)).outcome is Outcome.STALE_GENERATION
    assert put(area, 0, 4, page_of(4)).outcome is Outcome.STALE_GENERATION
    assert put(area, 0, 6, page_of(6)).outcome is Outcome.STORED


def test_a_page_that_the_full_pool_refuses_goes_to_the_device() -> None:
    area = open_area(NO_POOL)
    assert put(area, 0, 1, page_of(1)) == SlotReply(Outcome.DEVICE, Reason.POOL_LIMIT)
    assert get(area, 0).outcome is Outcome.DEVICE
    assert get(area, 0).page == page_of(1)
    assert (area.stored_pages, area.device_pages, area.pool_bytes) == (0, 1, 0)
    assert put(area, 0, 1, page_of(1)) == SlotReply(Outcome.DEVICE, Reason.POOL_LIMIT), "so does its repeat"


def test_a_same_filled_page_is_taken_by_a_full_pool() -> None:
    area = open_area(NO_POOL)
    assert put(area, 0, 1, ZERO_PAGE).outcome is Outcome.STORED


def test_a_page_that_does_not_compress_is_kept_raw() -> None:
    area = open_area()
    assert put(area, 0, 1, noise_of(1)) == SlotReply(Outcome.STORED, Reason.NONE, PAGE_BYTES)
    assert get(area, 0).page == noise_of(1)


def test_a_page_that_does_not_compress_goes_to_the_device_of_a_tier_that_keeps_none() -> None:
    area = open_area(ROOMY._replace(keeps_incompressible=False))
    assert put(area, 0, 1, noise_of(1)) == SlotReply(Outcome.DEVICE, Reason.COMPRESS_POOR)
    assert area.counters.rejects[Reason.COMPRESS_POOR] == 1
    assert get(area, 0).page == noise_of(1)


def test_a_refused_store_leaves_no_older_entry_behind() -> None:
    """678e54d4bb9a: an entry left behind by a refused store would later be loaded, or written over newer data."""
    area = open_area(TierLimits(pool_bytes_max=PAGE_BYTES))
    put(area, 0, 1, page_of(1))
    other = put(area, 1, 1, page_of(2))
    assert other.outcome is Outcome.STORED
    assert put(area, 0, 2, noise_of(1)).outcome is Outcome.DEVICE
    assert lookup(area, 0).outcome is Outcome.MISS
    assert get(area, 0).page == noise_of(1)
    assert area.pool_bytes == other.entry_bytes


def test_a_newer_page_may_use_the_bytes_of_the_one_it_replaces() -> None:
    area = open_area(TierLimits(pool_bytes_max=PAGE_BYTES))
    put(area, 0, 1, noise_of(1))
    assert put(area, 0, 2, noise_of(2)).outcome is Outcome.STORED


def test_a_store_that_pool_and_device_refuse_takes_the_older_page_with_it() -> None:
    device = FailingDevice()
    area = area_on(device)
    put(area, 0, 1, page_of(1))
    device.fails_to_write = True
    assert put(area, 0, 2, page_of(2)) == SlotReply(Outcome.REJECTED, Reason.DEVICE_ERROR)
    assert get_safely(area, 0, 2) == LoadReply(Outcome.LOST, Reason.REFUSED_STORE)
    assert get(area, 0).page == ZERO_PAGE, "nor does the device give the older page"
    assert area.device_pages == 0


def test_a_repeat_of_a_refused_store_is_refused_again_and_a_new_generation_is_tried() -> None:
    device = FailingDevice()
    area = area_on(device)
    device.fails_to_write = True
    first = put(area, 0, 1, page_of(1))
    device.fails_to_write = False
    assert put(area, 0, 1, page_of(1)) == first
    assert put(area, 0, 2, page_of(1)).outcome is Outcome.DEVICE


# Load


@pytest.mark.parametrize("page", [page_of(1), fill_page(9)])
def test_a_shared_load_leaves_the_page_and_an_exclusive_one_takes_it(page: bytes) -> None:
    area = open_area()
    put(area, 0, 1, page)
    assert get(area, 0).content() == get(area, 0).content() == page
    assert get(area, 0, LoadMode.EXCLUSIVE).content() == page
    assert lookup(area, 0).outcome is Outcome.MISS
    assert (area.stored_pages, area.same_filled_pages, area.pool_bytes) == (0, 0, 0)


def test_a_page_taken_by_a_load_whose_reply_is_dropped_reads_as_zeros_without_an_error() -> None:
    """The bug of March 2024, as far as the tier sees it: nothing in this answer says that the bytes are wrong."""
    area = open_area()
    put(area, 0, 1, page_of(1))
    get(area, 0, LoadMode.EXCLUSIVE)
    assert get(area, 0) == LoadReply(Outcome.DEVICE, Reason.NONE, 0, page_checksum(ZERO_PAGE), ZERO_PAGE)
    assert area.counters.device_reads[DeviceSource.UNWRITTEN] == 1


def test_a_taken_page_of_a_slot_that_was_written_before_reads_as_the_older_page() -> None:
    area = open_area(TierLimits(pool_bytes_max=PAGE_BYTES))
    put(area, 1, 1, noise_of(9))
    put(area, 0, 1, page_of(1))
    invalidate(area, 1, 1)
    put(area, 0, 2, page_of(2))
    get(area, 0, LoadMode.EXCLUSIVE)
    stale = get(area, 0)
    assert (stale.outcome, stale.generation, stale.page) == (Outcome.DEVICE, 1, page_of(1))
    assert area.counters.device_reads[DeviceSource.STALE] == 1


@pytest.mark.parametrize("mode", [LoadMode.SHARED, LoadMode.EXCLUSIVE])
def test_a_page_on_the_device_stays_there_whoever_reads_it(mode: LoadMode) -> None:
    area = open_area(NO_POOL)
    put(area, 0, 1, page_of(1))
    assert get(area, 0, mode) == get(area, 0, mode)
    assert area.counters.device_reads[DeviceSource.CURRENT] == 2
    assert area.device_pages == 1


def test_a_device_that_frees_on_read_gives_a_page_once_and_zeros_thereafter() -> None:
    """e914d8f00391: two CLONE_VM tasks fault, the second maps a zero page."""
    area = open_area(NO_POOL, AreaOptions(device_free_on_read=True))
    put(area, 0, 1, page_of(1))
    assert get(area, 0).page == page_of(1)
    assert get(area, 0).page == ZERO_PAGE
    assert get_safely(area, 0, 1) == LoadReply(Outcome.LOST, Reason.TAKEN)
    assert area.device_pages == 0


def test_a_device_that_frees_on_read_changes_nothing_for_pages_in_the_pool() -> None:
    area = open_area(options=AreaOptions(device_free_on_read=True))
    put(area, 0, 1, page_of(1))
    assert get(area, 0).page == get(area, 0).page == page_of(1)


def test_a_load_that_asks_for_the_pool_only_gets_a_miss_instead_of_the_device() -> None:
    area = open_area(NO_POOL)
    put(area, 0, 4, page_of(1))
    assert get(area, 0, pool_only=True) == LoadReply(Outcome.MISS, generation=4)
    assert get(area, 1, pool_only=True) == LoadReply(Outcome.MISS)
    assert sum(area.counters.device_reads.values()) == 0


def test_the_kernels_load_answers_any_generation() -> None:
    area = open_area()
    put(area, 0, 2, page_of(2))
    assert load(area, 0, 9, LoadMode.SHARED).page == page_of(2)
    assert load(area, 0, 9, LoadMode.SHARED).generation == 2


@pytest.mark.parametrize("limits", [ROOMY, NO_POOL])
@pytest.mark.parametrize("asked", [1, 3])
def test_a_load_that_requires_a_generation_gets_no_bytes_of_another(limits: TierLimits, asked: int) -> None:
    area = open_area(limits)
    put(area, 0, 2, page_of(2))
    assert get_safely(area, 0, asked, LoadMode.EXCLUSIVE) == LoadReply(Outcome.STALE_GENERATION, generation=2)
    assert get_safely(area, 0, 2, LoadMode.EXCLUSIVE).page == page_of(2), "and nothing was taken"


def test_a_load_that_requires_a_generation_is_told_what_became_of_the_page() -> None:
    area = open_area()
    assert get_safely(area, 0, 1) == LoadReply(Outcome.LOST, Reason.NEVER_STORED)
    put(area, 0, 1, page_of(1))
    get_safely(area, 0, 1, LoadMode.EXCLUSIVE)
    assert get_safely(area, 0, 1) == LoadReply(Outcome.LOST, Reason.TAKEN)
    invalidate(area, 0, 1)
    assert get_safely(area, 0, 1) == LoadReply(Outcome.LOST, Reason.FREED)
    assert area.counters.lost == {
        Reason.NEVER_STORED: 1,
        Reason.TAKEN: 1,
        Reason.FREED: 1,
        Reason.RESTARTED: 0,
        Reason.REFUSED_STORE: 0,
    }


def test_bytes_of_the_asked_generation_are_not_given_once_the_slot_was_freed() -> None:
    area = open_area(NO_POOL)
    put(area, 0, 1, page_of(1))
    invalidate(area, 0, 1)
    assert get_safely(area, 0, 1) == LoadReply(Outcome.LOST, Reason.FREED)
    assert get(area, 0).page == page_of(1), "the device still has them, as a real one does"


def test_a_lost_page_is_said_to_be_lost_even_where_only_the_pool_was_asked() -> None:
    area = open_area()
    reply = load(area, 0, 1, LoadMode.SHARED, require_generation=True, pool_only=True)
    assert reply.outcome is Outcome.LOST


@pytest.mark.parametrize("mode", [LoadMode.SHARED, LoadMode.EXCLUSIVE])
def test_an_entry_that_cannot_be_read_is_an_error_and_stays(mode: LoadMode) -> None:
    area = open_area()
    put(area, 0, 3, page_of(1))
    slot = area.known_slots[0]
    assert slot.entry is not None
    intact = slot.entry
    length = intact.length
    slot.entry = intact._replace(encoded=Lz4(bytes(length)))
    assert get(area, 0, mode) == LoadReply(Outcome.ERROR, Reason.DECOMPRESS, 3)
    slot.entry = intact._replace(checksum=1)
    assert get(area, 0, mode) == LoadReply(Outcome.ERROR, Reason.CHECKSUM, 3)
    assert lookup(area, 0).outcome is Outcome.HIT
    assert area.counters.load_errors == {Reason.DECOMPRESS: 1, Reason.CHECKSUM: 1, Reason.DEVICE_ERROR: 0}
    slot.entry = intact
    assert get(area, 0, mode).page == page_of(1)


def test_a_damaged_page_on_the_device_is_an_error_and_stays() -> None:
    device = FailingDevice()
    area = area_on(device)
    put(area, 0, 3, page_of(1))
    device.write([(0, device.read(0)._replace(checksum=1))])
    assert get(area, 0) == LoadReply(Outcome.ERROR, Reason.CHECKSUM, 3)
    assert area.device_pages == 1


def test_a_device_that_cannot_read_is_an_error_and_never_zeros() -> None:
    device = FailingDevice()
    area = area_on(device)
    put(area, 0, 3, page_of(1))
    device.fails_to_read = True
    assert get(area, 0) == LoadReply(Outcome.ERROR, Reason.DEVICE_ERROR, 3)
    device.fails_to_read = False
    assert get(area, 0).page == page_of(1)


def test_a_device_that_gives_other_bytes_than_it_took_is_an_error_where_a_generation_is_required() -> None:
    device = FailingDevice()
    area = area_on(device)
    put(area, 0, 3, page_of(1))
    device.forgets = True
    assert get_safely(area, 0, 3) == LoadReply(Outcome.ERROR, Reason.DEVICE_ERROR, 3)


# Lookup and Invalidate


def test_a_lookup_sees_the_pool_only_and_changes_nothing() -> None:
    area = open_area(NO_POOL)
    put(area, 0, 1, page_of(1))
    put(area, 1, 1, ZERO_PAGE)
    assert [lookup(area, offset).outcome for offset in (0, 1, 2)] == [Outcome.MISS, Outcome.HIT, Outcome.MISS]


def test_an_invalidation_drops_the_entry_once() -> None:
    area = open_area()
    put(area, 0, 1, page_of(1))
    assert invalidate(area, 0, 1).outcome is Outcome.INVALIDATED
    assert invalidate(area, 0, 1).outcome is Outcome.MISS
    assert area.pool_bytes == 0


def test_an_invalidation_of_a_higher_generation_than_stored_applies() -> None:
    area = open_area()
    put(area, 0, 1, page_of(1))
    assert invalidate(area, 0, 7).outcome is Outcome.INVALIDATED
    assert put(area, 0, 7, page_of(1)).outcome is Outcome.STALE_GENERATION


def test_a_late_invalidation_does_not_destroy_the_next_owners_page() -> None:
    area = open_area()
    put(area, 0, 2, page_of(2))
    assert invalidate(area, 0, 1).outcome is Outcome.STALE_GENERATION
    assert get(area, 0).page == page_of(2)


def test_a_slot_freed_while_on_the_device_no_longer_counts_there() -> None:
    area = open_area(NO_POOL)
    put(area, 0, 1, page_of(1))
    assert invalidate(area, 0, 1).outcome is Outcome.MISS
    assert area.device_pages == 0


def test_loads_and_lookups_of_unused_slots_are_not_remembered() -> None:
    area = open_area()
    for offset in range(8):
        get(area, offset)
        lookup(area, offset)
    assert not area.known_slots


# Whole batches


def test_an_offset_outside_the_area_is_refused_with_the_areas_size() -> None:
    area = open_area()
    for offset in (8, 2**64 - 1, -1):
        with pytest.raises(InvalidRequest, match=rf"offset {offset} is outside area 'swap', which has slots 0 to 7"):
            area.check_offsets([0, offset])
    area.check_offsets(range(8))
    area.check_offsets([])


def test_an_offset_twice_in_one_batch_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="offset 5 of area 'swap' stands twice"):
        open_area().check_offsets([0, 5, 1, 5])


def test_a_store_without_a_generation_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"offset 4 .* has generation 0"):
        check_store(open_area(), [3, 4], [1, 0])


def test_a_closed_area_refuses_every_batch() -> None:
    area = open_area()
    put(area, 0, 1, page_of(1))
    assert area.close() == 1
    assert area.forget_slots(2) == 1
    with pytest.raises(UnknownArea, match="was closed"):
        area.check_offsets([0])
    assert (area.stored_pages, area.pool_bytes, area.device_pages) == (0, 0, 0)


# The books


def test_every_cause_that_can_occur_is_counted_from_zero() -> None:
    rows = {(row.name, row.labels): row.value for row in open_area().counters.rows()}
    assert set(rows.values()) == {0}
    assert ("tier_stores", (("outcome", "stored"),)) in rows
    assert ("tier_rejects", (("reason", "pool_limit"),)) in rows
    assert ("tier_loads", (("mode", "exclusive"), ("outcome", "same_filled"))) in rows
    assert ("tier_invalidates", (("outcome", "invalidated"),)) in rows
    assert ("tier_device_reads", (("source", "unwritten"),)) in rows
    assert ("tier_duplicate_entries", ()) in rows


@pytest.mark.parametrize("gauge", ["stored_pages", "same_filled_pages", "pool_bytes", "device_pages"])
def test_a_recount_finds_a_gauge_that_drifted(gauge: str) -> None:
    area = open_area()
    put(area, 0, 1, page_of(1))
    check_area(area)
    setattr(area, gauge, getattr(area, gauge) + 1)
    with pytest.raises(AssertionError, match=gauge.replace("_", " ").replace("same filled", "same-filled")):
        check_area(area)


def test_a_recount_finds_an_entry_that_left_without_being_counted() -> None:
    area = open_area()
    put(area, 0, 1, page_of(1))
    area.counters.invalidates[Outcome.INVALIDATED] += 1
    with pytest.raises(AssertionError, match="1 entries came, 1 went"):
        check_area(area)


def test_a_recount_finds_a_slot_whose_state_lies() -> None:
    area = open_area()
    put(area, 0, 1, page_of(1))
    area.known_slots[0].state = SlotState.TAKEN
    with pytest.raises(AssertionError, match="disagree"):
        check_area(area)
