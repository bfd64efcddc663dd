"""The pool's account: its limit, its threshold, its order."""

import pytest

from swaptier_server.tier.page import Raw, StoredPage
from swaptier_server.tier.pool import Pool
from swaptier_server.tier.slot import Slot
from swaptier_wire.types import ZERO_PAGE


def slot_of(length: int, offset: int = 0) -> Slot:
    """A slot whose page takes *length* bytes."""
    slot = Slot("area", offset)
    slot.entry = StoredPage(Raw(ZERO_PAGE), length, 0, 1)
    return slot


def fill(pool: Pool, *lengths: int) -> list[Slot]:
    """Add pages of these lengths, all of which must be taken."""
    slots = [slot_of(length, offset) for offset, length in enumerate(lengths)]
    for slot, length in zip(slots, lengths, strict=True):
        assert pool.add(slot, length)
    return slots


def test_the_pool_takes_pages_up_to_its_limit_exactly() -> None:
    pool = Pool(1000, 90)
    fill(pool, 600, 400)
    assert pool.bytes == 1000
    assert not pool.reached_full
    assert pool.limit_hits == 0


def test_a_page_that_would_end_above_the_limit_is_refused_and_counted() -> None:
    pool = Pool(1000, 90)
    fill(pool, 600, 400)
    assert not pool.add(slot_of(1), 1)
    assert (pool.bytes, pool.reached_full, pool.limit_hits) == (1000, True, 1)


def test_once_full_the_pool_refuses_until_it_is_down_at_its_threshold() -> None:
    pool = Pool(1000, 90)
    first, second, _third = fill(pool, 50, 51, 850)
    assert not pool.add(slot_of(50), 50), "950 and 50 fit, but 951 and 50 do not"
    pool.remove(first, 50)
    assert pool.bytes == 901
    assert not pool.add(slot_of(10), 10), "one byte above the threshold"
    assert pool.limit_hits == 1, "a refusal above the threshold is not a hit of the limit"
    pool.remove(second, 51)
    assert pool.bytes == 850
    assert pool.add(slot_of(10), 10)
    assert not pool.reached_full


def test_the_pool_accepts_again_at_its_threshold_and_not_only_below() -> None:
    pool = Pool(1000, 90)
    _kept, removed = fill(pool, 900, 100)
    assert not pool.add(slot_of(1), 1)
    pool.remove(removed, 100)
    assert pool.bytes == pool.accept_bytes == 900
    assert pool.add(slot_of(100), 100)


def test_a_pool_at_its_threshold_still_refuses_what_does_not_fit() -> None:
    pool = Pool(1000, 90)
    _kept, removed = fill(pool, 900, 100)
    assert not pool.add(slot_of(1), 1)
    pool.remove(removed, 100)
    assert not pool.add(slot_of(101), 101)
    assert pool.limit_hits == 2
    assert pool.reached_full


def test_a_threshold_of_100_percent_is_no_hysteresis() -> None:
    pool = Pool(1000, 100)
    _kept, removed = fill(pool, 999, 1)
    assert not pool.add(slot_of(1), 1)
    pool.remove(removed, 1)
    assert pool.add(slot_of(1), 1)


def test_a_threshold_of_0_percent_waits_for_an_empty_pool() -> None:
    pool = Pool(1000, 0)
    most, least = fill(pool, 999, 1)
    assert not pool.add(slot_of(1), 1)
    pool.remove(most, 999)
    assert not pool.add(slot_of(1), 1)
    pool.remove(least, 1)
    assert pool.add(slot_of(1000), 1000)


def test_a_page_larger_than_the_whole_pool_does_not_block_smaller_ones() -> None:
    pool = Pool(1000, 90)
    assert not pool.add(slot_of(1001), 1001)
    assert pool.add(slot_of(10), 10)


def test_a_pool_of_no_bytes_takes_nothing() -> None:
    pool = Pool(0, 90)
    assert not pool.add(slot_of(1), 1)


def test_the_oldest_page_comes_first_and_a_newer_store_makes_it_the_newest() -> None:
    pool = Pool(1000, 90)
    first, second, third = fill(pool, 1, 2, 3)
    assert list(pool.oldest_first()) == [first, second, third]
    pool.remove(first, 1)
    assert pool.add(first, 1)
    assert list(pool.oldest_first()) == [second, third, first]


def test_a_recount_finds_bytes_that_were_not_given_back() -> None:
    pool = Pool(1000, 90)
    slots = fill(pool, 10, 20)
    pool.check_invariants(slots)
    pool.bytes += 1
    with pytest.raises(AssertionError, match="counts 31 bytes, its entries take 30"):
        pool.check_invariants(slots)


def test_a_recount_finds_an_entry_that_is_not_on_the_lru() -> None:
    pool = Pool(1000, 90)
    slots = fill(pool, 10, 20)
    with pytest.raises(AssertionError, match="LRU"):
        pool.check_invariants([*slots, slot_of(5)])
    with pytest.raises(AssertionError, match="LRU"):
        pool.check_invariants(slots[:1])
