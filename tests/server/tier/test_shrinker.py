"""Who gives up pages when the pool is full, in what order, and when that is given up."""

from collections.abc import Sequence

import pytest
from tests.builders import noise_of
from tests.server.builders import HOST, put

from swaptier_server.tier import shrinker
from swaptier_server.tier.area import Area, Durability
from swaptier_server.tier.device import DeviceError, DeviceFault, MemoryDevice
from swaptier_server.tier.load import load
from swaptier_server.tier.page import StoredPage
from swaptier_server.tier.shrinker import DrainProgress
from swaptier_server.tier.slot import SlotState
from swaptier_server.tier.store import store_many
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_server.tier.write_back import RECLAIM_RETRIES_MAX, write_back
from swaptier_wire.checksum import page_checksum
from swaptier_wire.errors import InvalidRequest
from swaptier_wire.types import (
    NO_GENERATION,
    PAGE_BYTES,
    ZERO_PAGE,
    AreaOptions,
    LoadMode,
    LoadReply,
    Outcome,
    Reason,
    SlotReply,
)

NOISE = noise_of(5)
"""A page that takes exactly PAGE_BYTES."""


class Device(MemoryDevice):
    """A device whose failures are switched on by the test, and which says how it was written to."""

    def __init__(self) -> None:
        super().__init__()
        self.is_broken = False
        self.refused: set[int] = set()
        self.batches: list[int] = []

    def write(self, pages: Sequence[tuple[int, StoredPage]]) -> None:
        """Fail, or do as a device does."""
        if self.is_broken or self.refused & {offset for offset, _ in pages}:
            raise DeviceError(DeviceFault.FULL)
        self.batches.append(len(pages))
        super().write(pages)


class Pages:
    """A tier whose pool takes so many incompressible pages."""

    def __init__(self, pages: int, percent: int = 50, durability: Durability = Durability.MEMORY) -> None:
        self.devices: dict[str, Device] = {}
        limits = TierLimits(pages * PAGE_BYTES, percent)
        self.tier = Tier(limits, 1, self._device_for, durability=durability)

    def _device_for(self, name: str) -> Device:
        return self.devices.setdefault(name, Device())

    def area(self, name: str, quota: int | None = None, *, writeback: bool = True) -> Area:
        """Open an area with a quota in pages."""
        options = AreaOptions(pool_bytes_max=None if quota is None else quota * PAGE_BYTES, writeback=writeback)
        return self.tier.swapon(HOST, name, 4096, options)[0]

    def pooled(self, area: Area) -> list[int]:
        """The slots whose pages are in the pool."""
        self.tier.check_invariants()
        return [offset for offset in range(area.slots) if area.held(offset).state is SlotState.POOLED]


def put_all(area: Area, *offsets: int, page: bytes = NOISE, generation: int = 1) -> list[SlotReply]:
    return [put(area, offset, generation, page) for offset in offsets]


# The pool's limit


def test_a_pool_below_its_limit_is_left_alone() -> None:
    pages = Pages(4)
    area = pages.area("swap")
    put_all(area, 0, 1, 2, 3)
    assert pages.tier.shrink() == 0
    assert pages.pooled(area) == [0, 1, 2, 3]


def test_a_pool_that_met_its_limit_is_shrunk_to_its_threshold_oldest_pages_first() -> None:
    pages = Pages(4)
    area = pages.area("swap")
    assert put_all(area, 3, 2, 1, 0, 7)[-1] == SlotReply(Outcome.DEVICE, Reason.POOL_LIMIT)
    assert pages.tier.shrink() == 2
    assert pages.pooled(area) == [0, 1]
    assert not pages.tier.pool.wants_shrink
    assert area.counters.written_back_pages == 2
    assert put_all(area, 8)[0].outcome is Outcome.STORED, "and the pool takes pages again"
    for offset in (3, 2, 7):
        reply = load(area, offset, 1, LoadMode.SHARED, require_generation=True)
        assert (reply.outcome, reply.page) == (Outcome.DEVICE, NOISE)


def test_a_page_that_was_looked_at_stays_for_another_round() -> None:
    pages = Pages(4)
    area = pages.area("swap")
    put_all(area, 0, 1, 2, 3)
    load(area, 0, 1, LoadMode.SHARED)
    put_all(area, 7)
    pages.tier.shrink()
    assert pages.pooled(area) == [0, 3]


def test_same_filled_pages_are_not_written_back_to_make_room() -> None:
    pages = Pages(1, percent=0)
    area = pages.area("swap")
    put_all(area, 0, page=ZERO_PAGE)
    put_all(area, 1, 2)
    assert pages.tier.shrink() == 1
    assert pages.pooled(area) == [0]


def test_one_call_does_a_bounded_part_of_the_work() -> None:
    pages = Pages(200, percent=0)
    area = pages.area("swap")
    put_all(area, *range(201))
    assert pages.tier.shrink(pages_max=40) == 2 * shrinker.CLUSTER_PAGES
    assert pages.tier.pool.wants_shrink
    while pages.tier.pool.wants_shrink:
        pages.tier.shrink(pages_max=40)
    assert pages.pooled(area) == []
    assert max(pages.devices["swap"].batches) == shrinker.CLUSTER_PAGES


def test_areas_give_up_pages_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shrinker, "CLUSTER_PAGES", 1)
    pages = Pages(6, percent=50)
    left, right = pages.area("left"), pages.area("right")
    put_all(left, 0, 1, 2, 3)
    put_all(right, 0, 1, 2)
    assert pages.tier.shrink() == 3
    assert [pages.pooled(left), pages.pooled(right)] == [[2, 3], [1]]
    put_all(left, 4)
    assert put(right, 1, 2, NOISE).outcome is Outcome.STORED
    put_all(left, 5, 6, 7)
    assert pages.tier.shrink() == 3
    assert [len(pages.pooled(left)), len(pages.pooled(right))] == [3, 0], "right was first this time"


def test_who_has_used_up_a_quota_gives_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Down to the threshold of the quota; then everybody in turn."""
    monkeypatch.setattr(shrinker, "CLUSTER_PAGES", 1)
    pages = Pages(8, percent=50)
    modest, greedy = pages.area("modest"), pages.area("greedy", quota=4)
    put_all(modest, 0, 1, 2, 3)
    put_all(greedy, 0, 1, 2, 3)
    put_all(modest, 4)
    assert pages.tier.shrink() == 4
    assert [len(pages.pooled(modest)), len(pages.pooled(greedy))] == [3, 1]


def test_who_may_not_write_back_is_never_asked() -> None:
    pages = Pages(4, percent=0)
    kept, other = pages.area("kept", writeback=False), pages.area("other")
    put_all(kept, 0, 1)
    put_all(other, 0, 1)
    assert put_all(kept, 2) == [SlotReply(Outcome.REJECTED, Reason.POOL_LIMIT)]
    assert pages.tier.shrink() == 2
    assert [pages.pooled(kept), pages.pooled(other)] == [[0, 1], []]
    assert not pages.tier.pool.wants_shrink, "nobody is left who could give"


def test_a_device_that_refuses_is_given_up_after_some_failures_and_keeps_every_page() -> None:
    pages = Pages(2, percent=0)
    area = pages.area("swap")
    put_all(area, 0, 1)
    pages.devices["swap"].is_broken = True
    assert put_all(area, 2) == [SlotReply(Outcome.REJECTED, Reason.DEVICE_ERROR)]
    assert pages.tier.shrink() == 0
    assert pages.pooled(area) == [0, 1]
    assert not pages.tier.pool.wants_shrink
    assert area.counters.reject_reclaim_fail == 2 * RECLAIM_RETRIES_MAX
    assert area.counters.device_errors[DeviceFault.FULL] == RECLAIM_RETRIES_MAX + 1
    pages.devices["swap"].is_broken = False
    put_all(area, 3)
    assert pages.tier.pool.wants_shrink, "the next page that is refused is reason to try again"
    assert pages.tier.shrink() == 2


def test_one_broken_device_does_not_keep_the_others_from_giving() -> None:
    pages = Pages(8, percent=50)
    broken, whole = pages.area("broken"), pages.area("whole")
    put_all(broken, 0, 1)
    put_all(whole, *range(6))
    pages.devices["broken"].is_broken = True
    put_all(whole, 7)
    assert pages.tier.shrink() == 4
    assert [len(pages.pooled(broken)), len(pages.pooled(whole))] == [2, 2]


# An area's quota


def test_an_area_at_its_quota_writes_its_own_oldest_pages_back() -> None:
    pages = Pages(100)
    other, area = pages.area("other"), pages.area("swap", quota=2)
    put_all(other, 0, 1, 2)
    assert [reply.outcome for reply in put_all(area, 0, 1, 2)] == [Outcome.STORED] * 3
    assert [pages.pooled(other), pages.pooled(area)] == [[0, 1, 2], [1, 2]]
    assert pages.tier.pool.limit_hits == 0


def test_an_area_whose_device_refuses_is_held_to_its_quota() -> None:
    pages = Pages(100)
    area = pages.area("swap", quota=2)
    put_all(area, 0, 1)
    pages.devices["swap"].refused = {0, 1}
    assert put_all(area, 2) == [SlotReply(Outcome.DEVICE, Reason.AREA_LIMIT)]
    assert pages.pooled(area) == [0, 1]
    assert (area.counters.rejects[Reason.AREA_LIMIT], area.counters.reject_reclaim_fail) == (1, 1)


def test_a_page_larger_than_the_quota_pushes_nobody_out() -> None:
    pages = Pages(100)
    area, _ = pages.tier.swapon(HOST, "swap", 8, AreaOptions(pool_bytes_max=PAGE_BYTES - 1))
    put_all(area, 0, page=(b"short; " * PAGE_BYTES)[:PAGE_BYTES])
    assert put_all(area, 1) == [SlotReply(Outcome.DEVICE, Reason.AREA_LIMIT)]
    assert pages.pooled(area) == [0]


def test_a_quota_of_nothing_keeps_same_filled_pages_only() -> None:
    """As memory.zswap.max = 0."""
    pages = Pages(100)
    area = pages.area("swap", quota=0)
    assert put_all(area, 0) == [SlotReply(Outcome.DEVICE, Reason.AREA_LIMIT)]
    assert put_all(area, 1, page=ZERO_PAGE) == [SlotReply(Outcome.STORED)]


def test_without_writeback_a_page_above_the_quota_is_rejected() -> None:
    """As memory.zswap.writeback = 0: the folio stays dirty on the host."""
    pages = Pages(100)
    area = pages.area("swap", quota=1, writeback=False)
    put_all(area, 0)
    assert put_all(area, 1) == [SlotReply(Outcome.REJECTED, Reason.AREA_LIMIT)]
    assert not write_back(area, 0)
    assert pages.pooled(area) == [0]
    assert pages.devices["swap"].written() == {}
    assert load(area, 1, 1, LoadMode.SHARED, require_generation=True).reason is Reason.REFUSED_STORE


# The end


def test_a_drain_writes_everything_back_in_parts_and_says_how_far_it_came() -> None:
    pages = Pages(100)
    area, kept = pages.area("swap"), pages.area("kept", writeback=False)
    put_all(area, *range(5))
    put_all(area, 5, page=ZERO_PAGE)
    put_all(kept, 0, 1)
    load(area, 0, 1, LoadMode.CLAIM, request_id=7)
    *parts, last = pages.tier.drain(4)
    assert [part.written for part in parts] == [4, 6]
    assert last == DrainProgress(written=6, failed=0, kept=2)
    assert pages.pooled(area) == []
    assert area.device_pages == 6
    assert pages.devices["swap"].batches == [4, 2]


def test_what_a_device_does_not_take_at_a_drain_is_counted_and_the_rest_is_written() -> None:
    pages = Pages(100)
    area = pages.area("swap")
    put_all(area, *range(8))
    pages.devices["swap"].refused = {2, 3}
    *_, last = pages.tier.drain()
    assert last == DrainProgress(written=6, failed=2)
    assert pages.pooled(area) == [2, 3]


def test_a_device_that_takes_nothing_at_a_drain_is_given_up() -> None:
    pages = Pages(200)
    broken, whole = pages.area("broken"), pages.area("whole")
    put_all(broken, *range(100))
    put_all(whole, *range(3))
    pages.devices["broken"].is_broken = True
    *_, last = pages.tier.drain()
    assert last == DrainProgress(written=3, failed=100)
    assert broken.counters.device_errors[DeviceFault.FULL] == 1 + RECLAIM_RETRIES_MAX


def test_an_area_that_is_closed_during_a_drain_is_left_alone() -> None:
    """Its pages are nobody's any more, and its place on the device may be another's."""
    pages = Pages(100)
    closed, other = pages.area("closed"), pages.area("other")
    put_all(closed, *range(5))
    put_all(other, 0)
    drain = pages.tier.drain(2)
    assert next(drain).written == 2
    pages.tier.drop_area("closed")
    *_, last = drain
    assert last == DrainProgress(written=3)
    assert pages.devices["closed"].batches == [2]
    pages.tier.check_invariants()


def test_an_empty_tier_is_drained_at_once() -> None:
    assert list(Pages(1).tier.drain()) == [DrainProgress()]


# Write-through


def test_a_batch_is_written_through_in_one_write() -> None:
    pages = Pages(100, durability=Durability.WRITE_THROUGH)
    area = pages.area("swap")
    replies = store_many(area, range(20), [1] * 20, [NOISE] * 20, [page_checksum(NOISE)] * 20)
    assert {reply.outcome for reply in replies} == {Outcome.STORED}
    assert pages.devices["swap"].batches == [20]
    assert [len(pages.pooled(area)), len(pages.devices["swap"].written())] == [20, 20]


def test_a_batch_that_the_device_refuses_is_kept_nowhere() -> None:
    """One that the pool alone has would be acknowledged and lost with the server."""
    pages = Pages(100, durability=Durability.WRITE_THROUGH)
    area = pages.area("swap")
    put_all(area, 0)
    pages.devices["swap"].refused = {3}
    checksum = page_checksum(NOISE)
    replies = store_many(area, [0, 1, 2, 3], [1, 1, 0, 1], [NOISE] * 4, [checksum, checksum, checksum, checksum])
    assert [reply.outcome for reply in replies] == [
        Outcome.STORED,
        Outcome.REJECTED,
        Outcome.STALE_GENERATION,
        Outcome.REJECTED,
    ], "what needs no write is answered as ever"
    assert pages.pooled(area) == [0]
    assert pages.tier.pool.bytes == PAGE_BYTES


def test_what_was_written_through_leaves_the_pool_without_another_write() -> None:
    pages = Pages(4, durability=Durability.WRITE_THROUGH)
    area = pages.area("swap")
    put_all(area, *range(5))
    written = pages.devices["swap"].batches
    assert pages.tier.shrink() == 2
    assert pages.devices["swap"].batches == written
    *_, last = pages.tier.drain()
    assert last.written == 2


def test_an_exclusive_load_takes_what_was_written_through_along() -> None:
    """Gone when the reply leaves: a repeat reads the device as never written, or is told."""
    pages = Pages(4, durability=Durability.WRITE_THROUGH)
    area = pages.area("swap")
    put_all(area, 0, 1)
    assert load(area, 0, 1, LoadMode.EXCLUSIVE, require_generation=True).outcome is Outcome.HIT
    assert (pages.tier.pool.bytes, list(pages.devices["swap"].written())) == (PAGE_BYTES, [1])
    repeat = load(area, 0, 1, LoadMode.EXCLUSIVE)
    assert (repeat.outcome, repeat.generation, repeat.page) == (Outcome.DEVICE, NO_GENERATION, ZERO_PAGE)
    assert load(area, 0, 1, LoadMode.EXCLUSIVE, require_generation=True) == LoadReply(Outcome.LOST, Reason.TAKEN)
    pages.tier.check_invariants()


def test_an_exclusive_load_leaves_a_page_that_was_written_back() -> None:
    """The host takes it for clean and backed, as a page that any swap device answered."""
    pages = Pages(4, durability=Durability.WRITE_THROUGH)
    area = pages.area("swap")
    put_all(area, 0)
    assert write_back(area, 0)
    for _ in range(2):
        assert load(area, 0, 1, LoadMode.EXCLUSIVE, require_generation=True).page == NOISE


def test_an_area_that_may_not_write_back_cannot_be_had_where_everything_is_written_through() -> None:
    with pytest.raises(InvalidRequest, match="without writeback, and this server writes every page through"):
        Pages(4, durability=Durability.WRITE_THROUGH).area("swap", writeback=False)
