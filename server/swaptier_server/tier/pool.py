"""How many bytes of pages the tier keeps in memory, whether it takes another, and which it kept longest.

Pure. One pool is shared by all areas. Rules of conduct:
  - `bytes` is the sum of the stored lengths, and never above `bytes_max`, not even while a store is under way.
  - A same-filled page takes no bytes, so it never comes here: no limit applies to it and it is not on the LRU.

Models: zswap_check_limits() and the LRU of mm/zswap.c. KERNEL.md 3.7 is the specification. Left out until writeback
is built: the shrink worker and its second chance.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from swaptier_server.tier.slot import Slot


class Pool:
    """The pool's account. The pages themselves hang on their slots."""

    __slots__ = ("_lru", "accept_bytes", "bytes", "bytes_max", "limit_hits", "reached_full")

    def __init__(self, bytes_max: int, accept_threshold_percent: int) -> None:
        self.bytes: int = 0
        self.bytes_max: Final = bytes_max
        self.accept_bytes: Final = bytes_max * accept_threshold_percent // 100
        """Once full, the pool takes pages again when it holds no more than this (zswap: accept_threshold_percent)."""
        self.reached_full: bool = False
        """The limit was met, and no store since then found the pool down at its accept threshold."""
        self.limit_hits: int = 0
        """Stores that did not fit under the limit (zswap: pool_limit_hit). A refusal above the threshold is none."""
        self._lru: dict[Slot, None] = {}

    def add(self, slot: Slot, length: int) -> bool:
        """Account *length* bytes, at least 1, to *slot* as the newest; return False when the pool refuses them.

        Models: zswap_check_limits() and zswap_lru_add().
        """
        # The kernel refuses once it *is* at the limit, so one store may overshoot it by a page. Here a store that
        # would end above the limit is the one that hits it, so that `bytes <= bytes_max` always holds and a bound
        # given to an operator is a bound. The two differ by at most one page at the edge.
        if self.bytes + length > self.bytes_max:
            self.limit_hits += 1
            self.reached_full = True
        elif self.reached_full and self.bytes <= self.accept_bytes:
            self.reached_full = False
        if self.reached_full:
            return False
        self.bytes += length
        self._lru[slot] = None
        return True

    def remove(self, slot: Slot, length: int) -> None:
        """Give back the *length* bytes that were added for *slot*."""
        del self._lru[slot]
        self.bytes -= length

    def oldest_first(self) -> Iterator[Slot]:
        """Yield the slots that hold pool bytes in the order they were stored: a load does not renew, as in zswap."""
        return iter(self._lru)

    def check_invariants(self, holders: Iterable[Slot]) -> None:
        """Recount, given every slot that must be on the LRU.

        Raises:
            AssertionError: the account does not agree with the slots. A defect of the tier.
        """
        held = set(holders)
        assert self._lru.keys() == held, "the LRU and the entries disagree"
        lengths = sum(slot.entry.length for slot in held if slot.entry is not None)
        assert self.bytes == lengths, f"the pool counts {self.bytes} bytes, its entries take {lengths}"
        assert 0 <= self.bytes <= self.bytes_max, f"the pool holds {self.bytes} bytes, its limit is {self.bytes_max}"
