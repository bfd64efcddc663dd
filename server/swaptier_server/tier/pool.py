"""How many bytes of pages the tier keeps in memory, whether it takes another, and which can go first.

Pure. One pool is shared by all areas, and divided among tenants as `account` says. Rules of conduct:
  - `bytes` is the sum of the stored lengths, and never above `bytes_max`, not even while a store is under way.
  - A same-filled page takes no bytes, so it never comes here: no limit applies to it and it is not on the LRU.
  - A page that is handed off takes bytes and is not on the LRU: it is not written back while its lease runs.

Models: zswap_check_limits(), and the list_lru of each memcg with its second chance, in mm/zswap.c. KERNEL.md 3.7 is
the specification.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final

from swaptier_server.tier.account import Account, Bounds, Part
from swaptier_server.tier.slot import Slot

SCANS_MAX: Final = 1024
"""Slots looked at in search of a victim, in one go: about 0.3 ms."""


class Lru:
    """The slots of one area that take pool bytes and may be written back, oldest first."""

    def __init__(self) -> None:
        # Not a dict: the first key of one whose first keys were deleted is found only by walking over the holes.
        self._slots: OrderedDict[Slot, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def add(self, slot: Slot) -> None:
        """Put *slot* on the list as the newest."""
        self._slots[slot] = None

    def discard(self, slot: Slot) -> None:
        """Take *slot* off the list, if it is there."""
        self._slots.pop(slot, None)

    def take_victims(self, bytes_wanted: int, pages_max: int) -> list[Slot]:
        """Take off the oldest slots that hold *bytes_wanted* together, *pages_max* at most; return them.

        A slot that a load looked at is passed over once, and is the newest then. It may be that all are passed over,
        or that the search ends before: then fewer come, or none.

        Models: shrink_memcg_cb(). There the bit is also set by the store, which gives every page one round more.
        """
        victims: list[Slot] = []
        for _ in range(min(len(self._slots), SCANS_MAX)):
            if bytes_wanted <= 0 or len(victims) >= pages_max:
                break
            slot = next(iter(self._slots))
            if slot.is_referenced:
                slot.is_referenced = False
                self._slots.move_to_end(slot)
                continue
            assert slot.entry is not None, f"{slot} is on the LRU without an entry"
            del self._slots[slot]
            victims.append(slot)
            bytes_wanted -= slot.entry.length
        return victims


class Pool:
    """The pool's account. The pages themselves hang on their slots.

    What is lent is as a pool of the kernel's, full and accepting; a page within its tenant's share is always taken.
    """

    def __init__(self, bounds: Bounds, accept_threshold_percent: int) -> None:
        self._bytes: Final = bounds.pool_bytes
        self._entries: Final = bounds.pool_entries
        self.accept_threshold_percent: Final = accept_threshold_percent
        self.reached_full: bool = False
        """The limit was met, and no store since then found the pool down at its accept threshold."""
        self.limit_hits: int = 0
        """Stores that did not fit under the limit (zswap: pool_limit_hit). A refusal above the threshold is none."""
        self.wants_shrink: bool = False
        """A page was refused because the pool is full, and it was not shrunk since, nor in vain."""
        self.shrunk_last: str = ""
        """Name of the area that gave up pages last; see `shrinker`."""
        self._lrus: dict[str, Lru] = {}

    @property
    def bytes(self) -> int:
        """What its entries take."""
        return self._bytes.used

    @property
    def bytes_max(self) -> int:
        """What they may take."""
        return self._bytes.most

    @property
    def accept_bytes(self) -> int:
        """Once full, the pool lends again when it has lent no more than this (zswap: accept_threshold_percent)."""
        return self._bytes.lendable * self.accept_threshold_percent // 100

    @property
    def excess_bytes(self) -> int:
        """What it has lent above its accept threshold."""
        return self._bytes.lent - self.accept_bytes

    @property
    def excess_entries(self) -> int:
        """How many entries it has lent above its accept threshold."""
        return self._entries.lent - self._entries.lendable * self.accept_threshold_percent // 100

    def charge(self, account: Account, length: int) -> bool:
        """Account an entry of *length* bytes, at least 1, to a tenant; return False when the pool refuses it.

        Models: zswap_check_limits(); `wants_shrink` is its queue_work().
        """
        size, entries = account.pool_bytes, account.pool_entries
        is_lent = size.used + length > self._bytes.reserved or entries.used >= self._entries.reserved
        if is_lent and not self._may_lend(size, entries, length):
            self.wants_shrink = True
            return False
        size.take(length)
        entries.take(1)
        if self._bytes.used > self._bytes.most or self._entries.used > self._entries.most:
            # Shares were made anew for more tenants when more than is left had been lent: it is taken back now.
            self.wants_shrink = True
        return True

    def _may_lend(self, size: Part, entries: Part, length: int) -> bool:
        """Tell whether the pool lends what an entry of *length* bytes needs beside these parts of its tenant."""
        # The kernel refuses once it *is* at the limit, so one store may overshoot it by a page. Here a store that
        # would end above the limit is the one that hits it, so that `bytes <= bytes_max` always holds and a bound
        # given to an operator is a bound. The two differ by at most one page at the edge.
        if not (size.may_take(length) and entries.may_take(1)):
            self.limit_hits += 1
            self.reached_full = True
        elif self.reached_full and self.excess_bytes <= 0 and self.excess_entries <= 0:
            self.reached_full = False
        return not self.reached_full

    def uncharge(self, account: Account, length: int) -> None:
        """Give back an entry that was charged."""
        account.pool_bytes.take(-length)
        account.pool_entries.take(-1)

    def lru_of(self, area: str) -> Lru:
        """Return the LRU of *area*, empty if it had none."""
        return self._lrus.setdefault(area, Lru())

    def forget_lru(self, area: str) -> None:
        """Drop the LRU of an area that ends."""
        self._lrus.pop(area, None)

    def oldest_first(self) -> Iterator[Slot]:
        """Yield the slots that may be written back, area by area, each in the order they were stored."""
        for lru in self._lrus.values():
            yield from lru

    def check_invariants(self, on_lru: Iterable[Slot], held_bytes: int) -> None:
        """Recount, given every slot that must be on an LRU and the bytes of every entry.

        Raises:
            AssertionError: the account does not agree with the slots. A defect of the tier.
        """
        listed = list(self.oldest_first())
        assert len(listed) == len(set(listed)) and set(listed) == set(on_lru), "the LRUs and the entries disagree"
        assert self.bytes == held_bytes, f"the pool counts {self.bytes} bytes, its entries take {held_bytes}"
        assert 0 <= self.bytes <= self.bytes_max, f"the pool holds {self.bytes} bytes, its limit is {self.bytes_max}"
