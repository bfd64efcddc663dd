"""The two words of the kernel's swap race stress."""

import pytest

from swaptier_loadgen.host.content import Contents, PageId, cut
from swaptier_loadgen.host.counter_words import CounterWords
from swaptier_wire.types import ZERO_PAGE

PAGE = PageId(0, 1, 5)
CONTENTS = Contents(3, list(cut(b"what real memory looks like " * 1000)))


def added(words: CounterWords, times: int) -> bytes:
    content = ZERO_PAGE
    for _ in range(times):
        content = CONTENTS.page(PAGE, words.add(PAGE, content))
    return content


def test_a_page_that_kept_every_addition_is_right() -> None:
    """Counter and index are what they must be."""
    words = CounterWords()
    words.check(PAGE, added(words, 20))
    assert words.counters_wrong == words.index_words_wrong == 0


@pytest.mark.parametrize(
    ("content", "counters", "index_words"),
    [(CONTENTS.page(PAGE, 19), 1, 0), (ZERO_PAGE, 1, 1), (CONTENTS.page(PAGE._replace(address=6), 20), 0, 1)],
    ids=["lost update", "zeros", "another page"],
)
def test_a_page_that_went_astray_is_counted(content: bytes, counters: int, index_words: int) -> None:
    """An addition lost is data loss; another page's words are a misload."""
    words = CounterWords()
    added(words, 20)
    words.check(PAGE, content)
    assert (words.counters_wrong, words.index_words_wrong) == (counters, index_words)


def test_a_lost_addition_stays_lost() -> None:
    """Later additions count on from what was read, so that the end shows it."""
    words = CounterWords()
    added(words, 3)
    stale = CONTENTS.page(PAGE, 1)
    words.check(PAGE, CONTENTS.page(PAGE, words.add(PAGE, stale)))
    assert words.counters_wrong == 1


def test_a_discarded_page_starts_over() -> None:
    """Its zeros are no loss."""
    words = CounterWords()
    added(words, 3)
    words.forget(PAGE)
    words.check(PAGE, ZERO_PAGE)
    words.check(PAGE, added(words, 2))
    assert words.counters_wrong == words.index_words_wrong == 0
