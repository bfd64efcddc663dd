"""Folio locks, the mmap lock, the clock list and whole-entry comparison, each alone."""

import pytest

from swaptier_client.mm.effects import SwapEntry, Wait
from swaptier_client.mm.folio import ClockList, Folio, MmapLock, PresentPte, SwapPte, pte_same
from swaptier_wire.types import ZERO_PAGE

ENTRY = SwapPte(SwapEntry(0, 3), exclusive=True)


class Sleeper:
    """Counts how often it is woken."""

    woken = 0

    def wake(self) -> None:
        """Count."""
        self.woken += 1


def folios(count: int) -> tuple[ClockList, list[Folio]]:
    """Return a clock with *count* folios, in the order the hand will meet them."""
    lru = ClockList()
    made = [Folio(ZERO_PAGE) for _ in range(count)]
    for folio in made:
        lru.add(folio)
    return lru, made


def test_the_hand_takes_the_oldest_first() -> None:
    """And holds a reference to what it takes."""
    lru, (first, second, third) = folios(3)
    assert lru.isolate(2) == [first, second]
    assert (first.refs, third.refs) == (2, 1)
    assert list(lru.folios) == [third]


def test_a_referenced_folio_gets_one_more_round() -> None:
    """The bit is cleared as the hand passes; the others go first, then it goes."""
    lru, (first, second) = folios(2)
    first.referenced = True
    assert lru.isolate(2) == [second, first]
    assert not first.referenced


def test_a_locked_folio_is_passed_over() -> None:
    """However often the hand comes round, and the round ends."""
    lru, (first, second) = folios(2)
    assert first.trylock() and second.trylock()
    assert lru.isolate(2) == []
    assert list(lru.folios) == [first, second]


def test_one_folio_is_isolated_wherever_it_is_on_the_list() -> None:
    """Touched or not; not if it is locked, and not twice."""
    lru, (first, second) = folios(2)
    second.referenced = True
    assert lru.isolate_one(second)
    assert not lru.isolate_one(second)
    first.trylock()
    assert not lru.isolate_one(first)
    lru.add(second)
    assert list(lru.folios) == [first, second]


def test_a_lock_is_taken_once_and_its_end_wakes_everybody() -> None:
    """Each woken one must try again: a wake-up is a hint."""
    folio = Folio(None)
    assert folio.trylock() and not folio.trylock()
    effect = next(folio.wait_unlocked())
    assert isinstance(effect, Wait)
    sleepers = [Sleeper(), Sleeper()]
    for sleeper in sleepers:
        effect.queue.park(sleeper.wake)
    folio.unlock()
    assert [sleeper.woken for sleeper in sleepers] == [1, 1]
    assert folio.trylock()
    folio.unlock()
    assert [sleeper.woken for sleeper in sleepers] == [1, 1], "once for each time they slept"


def test_a_folio_without_content_is_not_uptodate() -> None:
    """And is private while nobody maps it and no cache has it."""
    folio = Folio(None)
    assert not folio.uptodate and folio.is_private
    folio.entry = ENTRY.entry
    assert not folio.is_private


@pytest.mark.parametrize(
    "other",
    [
        ENTRY._replace(entry=SwapEntry(0, 4)),
        ENTRY._replace(entry=SwapEntry(1, 3)),
        ENTRY._replace(exclusive=False),
        ENTRY._replace(soft_dirty=True),
        ENTRY._replace(uffd_wp=True),
        None,
        PresentPte(Folio(ZERO_PAGE), writable=True, exclusive=True, dirty=True),
    ],
)
def test_any_difference_makes_another_entry(other: SwapPte | PresentPte | None) -> None:
    """pte_same() compares all bits."""
    assert not pte_same(other, ENTRY)
    assert pte_same(SwapPte(SwapEntry(0, 3), exclusive=True), ENTRY), "a value, not an identity"


def test_two_mappings_of_one_page_are_two_entries() -> None:
    """A mapped page's entry is an identity: unmapped and mapped again, it is another one."""
    folio = Folio(ZERO_PAGE)
    one, two = (PresentPte(folio, writable=True, exclusive=True, dirty=False) for _ in range(2))
    assert pte_same(one, one) and not pte_same(one, two)


def test_the_mmap_lock_lets_readers_share_and_a_waiting_writer_in() -> None:
    """Two faults at once; a fork waits for both; a third fault waits for the fork."""
    lock = MmapLock()
    assert list(lock.read()) == [] and list(lock.read()) == []
    writer = lock.write()
    next(writer)
    reader = lock.read()
    next(reader)
    lock.read_done()
    with pytest.raises(AssertionError):
        lock.write_done()
    next(writer)
    lock.read_done()
    assert list(writer) == [] and lock.is_written
    next(reader)
    lock.write_done()
    assert list(reader) == [] and lock.readers == 1
