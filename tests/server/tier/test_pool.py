"""The pool's account: its limit, its threshold, its order."""

import pytest

from swaptier_server.tier import pool as pool_module
from swaptier_server.tier.account import UNBOUNDED, Account, Bound, Bounds
from swaptier_server.tier.page import Raw, StoredPage
from swaptier_server.tier.pool import Lru, Pool
from swaptier_server.tier.slot import Slot
from swaptier_wire.types import ZERO_PAGE


class LonePool(Pool):
    """A pool with one tenant."""

    def __init__(self, bytes_max: int, percent: int) -> None:
        bounds = Bounds(*(Bound(bytes_max if name == "pool_bytes" else UNBOUNDED) for name in Bounds._fields))
        super().__init__(bounds, percent)
        self._account = Account("", bounds)

    def take(self, length: int) -> bool:
        """Charge the tenant."""
        return self.charge(self._account, length)

    def give_back(self, length: int) -> None:
        """Uncharge the tenant."""
        self.uncharge(self._account, length)


def slot_of(length: int, offset: int = 0, area: str = "area") -> Slot:
    """A slot whose page takes *length* bytes."""
    slot = Slot(area, offset)
    slot.entry = StoredPage(Raw(ZERO_PAGE), length, 0, 1)
    return slot


def fill(pool: LonePool, *lengths: int) -> list[Slot]:
    """Add pages of these lengths, all of which must be taken."""
    slots = [slot_of(length, offset) for offset, length in enumerate(lengths)]
    for slot, length in zip(slots, lengths, strict=True):
        assert pool.take(length)
        pool.lru_of(slot.area).add(slot)
    return slots


def lru_with(*lengths: int) -> tuple[Lru, list[Slot]]:
    """A list with pages of these lengths, oldest first."""
    lru, slots = Lru(), [slot_of(length, offset) for offset, length in enumerate(lengths)]
    for slot in slots:
        lru.add(slot)
    return lru, slots


def test_the_pool_takes_pages_up_to_its_limit_exactly() -> None:
    pool = LonePool(1000, 90)
    fill(pool, 600, 400)
    assert pool.bytes == 1000
    assert not pool.reached_full
    assert pool.limit_hits == 0


def test_a_page_that_would_end_above_the_limit_is_refused_and_counted() -> None:
    pool = LonePool(1000, 90)
    fill(pool, 600, 400)
    assert not pool.take(1)
    assert (pool.bytes, pool.reached_full, pool.limit_hits) == (1000, True, 1)


def test_once_full_the_pool_refuses_until_it_is_down_at_its_threshold() -> None:
    pool = LonePool(1000, 90)
    fill(pool, 50, 51, 850)
    assert not pool.take(50), "950 and 50 fit, but 951 and 50 do not"
    pool.give_back(50)
    assert pool.bytes == 901
    assert not pool.take(10), "one byte above the threshold"
    assert pool.limit_hits == 1, "a refusal above the threshold is not a hit of the limit"
    pool.give_back(51)
    assert pool.bytes == 850
    assert pool.take(10)
    assert not pool.reached_full


def test_the_pool_accepts_again_at_its_threshold_and_not_only_below() -> None:
    pool = LonePool(1000, 90)
    fill(pool, 900, 100)
    assert not pool.take(1)
    pool.give_back(100)
    assert pool.bytes == pool.accept_bytes == 900
    assert pool.take(100)


def test_a_pool_at_its_threshold_still_refuses_what_does_not_fit() -> None:
    pool = LonePool(1000, 90)
    fill(pool, 900, 100)
    assert not pool.take(1)
    pool.give_back(100)
    assert not pool.take(101)
    assert pool.limit_hits == 2
    assert pool.reached_full


def test_a_threshold_of_100_percent_is_no_hysteresis() -> None:
    pool = LonePool(1000, 100)
    fill(pool, 999, 1)
    assert not pool.take(1)
    pool.give_back(1)
    assert pool.take(1)


def test_a_threshold_of_0_percent_waits_for_an_empty_pool() -> None:
    pool = LonePool(1000, 0)
    fill(pool, 999, 1)
    assert not pool.take(1)
    pool.give_back(999)
    assert not pool.take(1)
    pool.give_back(1)
    assert pool.take(1000)


def test_a_page_larger_than_the_whole_pool_does_not_block_smaller_ones() -> None:
    pool = LonePool(1000, 90)
    assert not pool.take(1001)
    assert pool.take(10)


def test_a_pool_of_no_bytes_takes_nothing() -> None:
    pool = LonePool(0, 90)
    assert not pool.take(1)


def test_every_page_that_a_full_pool_refuses_asks_for_it_to_be_shrunk() -> None:
    """Also one that would fit under the limit: else a pool that could not be shrunk once would stay full for ever."""
    pool = LonePool(1000, 90)
    fill(pool, 600, 399)
    assert not pool.wants_shrink
    pool.take(2)
    assert pool.wants_shrink
    pool.wants_shrink = False
    assert not pool.take(1)
    assert pool.wants_shrink


# What goes first


def test_a_newer_store_makes_a_page_the_newest() -> None:
    lru, (first, second, third) = lru_with(1, 2, 3)
    lru.discard(first)
    lru.add(first)
    assert list(lru) == [second, third, first]


def test_the_oldest_pages_go_until_enough_bytes_are_wanted_no_more() -> None:
    lru, (first, second, third) = lru_with(10, 20, 30)
    assert lru.take_victims(11, 100) == [first, second]
    assert list(lru) == [third]


def test_no_more_pages_go_than_may() -> None:
    lru, (first, second, third) = lru_with(10, 20, 30)
    assert lru.take_victims(1000, 2) == [first, second]
    assert lru.take_victims(1000, 0) == []
    assert lru.take_victims(0, 2) == []
    assert list(lru) == [third]


def test_a_page_that_somebody_looked_at_is_passed_over_once() -> None:
    lru, (first, second, third) = lru_with(10, 10, 10)
    first.is_referenced = True
    assert lru.take_victims(10, 100) == [second]
    assert list(lru) == [third, first]
    assert lru.take_victims(20, 100) == [third, first], "the second chance is the last"


def test_where_everybody_was_looked_at_nobody_goes_the_first_time() -> None:
    lru, slots = lru_with(10, 10, 10)
    for slot in slots:
        slot.is_referenced = True
    assert lru.take_victims(10, 100) == []
    assert lru.take_victims(10, 100) == slots[:1]


def test_a_search_for_victims_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many were looked at: the next search goes on where this one stopped."""
    monkeypatch.setattr(pool_module, "SCANS_MAX", 2)
    lru, slots = lru_with(10, 10, 10)
    for slot in slots:
        slot.is_referenced = True
    assert lru.take_victims(10, 100) == []
    assert [slot.is_referenced for slot in slots] == [False, False, True]


def test_every_area_has_a_list_of_its_own() -> None:
    pool = LonePool(1000, 90)
    left, right = slot_of(1, area="left"), slot_of(1, area="right")
    pool.lru_of("left").add(left)
    pool.lru_of("right").add(right)
    assert list(pool.lru_of("left")) == [left]
    assert set(pool.oldest_first()) == {left, right}
    pool.forget_lru("left")
    assert list(pool.oldest_first()) == [right]


# The books


def test_a_recount_finds_bytes_that_were_not_given_back() -> None:
    pool = LonePool(1000, 90)
    slots = fill(pool, 10, 20)
    pool.check_invariants(slots, 30)
    with pytest.raises(AssertionError, match="counts 30 bytes, its entries take 29"):
        pool.check_invariants(slots, 29)


def test_a_recount_finds_an_entry_that_is_not_on_its_lru() -> None:
    pool = LonePool(1000, 90)
    slots = fill(pool, 10, 20)
    with pytest.raises(AssertionError, match="LRU"):
        pool.check_invariants([*slots, slot_of(5)], 30)
    with pytest.raises(AssertionError, match="LRU"):
        pool.check_invariants(slots[:1], 30)
