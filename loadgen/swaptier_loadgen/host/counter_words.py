"""The two words of the kernel's swap race stress, and what they say at the end: a counter and the page's own index.

Pure, and independent of the oracle. Every emulated thread adds one to the counter *it read*, so an update that was lost
stays missing for good, and the counter of a page whose data was lost never comes to the number of additions.

Models: test-thread-swap-race.c of ryncsn/emm-test-project, which checks that the counter equals the number of workers
("data loss") and that the word beside it is still the page's index ("misload"). Here both words are in the stamp that
every page carries: its version is the counter, its address the index.
"""

from collections import Counter

from swaptier_loadgen.host.content import PageId, read_stamp


class CounterWords:
    """Additions made to every page of one host, and how many pages show another number at the end."""

    def __init__(self) -> None:
        self._additions: Counter[PageId] = Counter()
        self.counters_wrong = 0
        """Pages whose counter is not the number of additions: data loss."""
        self.index_words_wrong = 0
        """Pages that hold another page's words, or none: misload."""

    def add(self, page: PageId, content: bytes) -> int:
        """Return what the counter of *page*, read as *content*, is after one addition, which the caller writes."""
        self._additions[page] += 1
        stamp = read_stamp(content)
        return 1 if stamp is None else stamp.version + 1

    def forget(self, page: PageId) -> None:
        """Note that *page* was discarded, and reads zeros again."""
        self._additions.pop(page, None)

    def check(self, page: PageId, content: bytes) -> None:
        """Compare both words of *page* with what they must be when all threads are done."""
        if page not in self._additions:
            return
        stamp = read_stamp(content)
        self.counters_wrong += (0 if stamp is None else stamp.version) != self._additions[page]
        self.index_words_wrong += stamp is None or stamp.page != page
