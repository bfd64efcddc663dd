"""Folios, the page table entries that map them, and the processes whose page tables these are: they name each other.

Pure. Order-0 only: a folio is one page. `dirty` is a claim about backing: a clean swapcache folio has a copy elsewhere
and may be dropped; a dirty one has none, and dropping it loses the page (KERNEL.md 3.3). No entry at an address is
pte_none: never touched, or zapped.

Models: struct folio, folio_trylock(), folio_lock(), folio_unlock(); swp_pte and pte_same(); struct mm_struct and
mmap_lock, with one virtual memory area that covers everything; the anon LRU as one clock list with a referenced bit
instead of active, inactive and generations.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import KW_ONLY, dataclass, field
from typing import NamedTuple, TypeAlias

from swaptier_client.mm.counters import DetectedLoss
from swaptier_client.mm.effects import Path, SwapEntry, Wait, WaitQueue
from swaptier_wire.types import Outcome


@dataclass(slots=True, eq=False, repr=False)
class Folio:
    """One uncompressed page and what guards it.

    Life: allocated (charged, locked) by a fault; read into; mapped, or put in the swapcache, or both; freed when its
    last reference, mapping and swapcache membership are gone. `lock` guards swapcache membership, `dirty` and
    `uptodate`; the mappings change only in atomic steps.
    """

    content: bytes | None
    """Exactly PAGE_BYTES once uptodate; None while being read."""
    uptodate: bool = field(init=False)
    is_locked: bool = False
    lock_queue: WaitQueue | None = None
    """Made by the first waiter."""
    dirty: bool = False
    """No copy of these bytes exists elsewhere. A mapped page's writes stand in its PTEs' dirty bits until unmap."""
    entry: SwapEntry | None = None
    """The slot this folio is in the swapcache for."""
    mappings: list[tuple[Process, int]] = field(default_factory=list)
    """(process, address) of each page table entry that maps it. Models the reverse map."""
    refs: int = 1
    """Paths that hold it across a yield; mappings and the swapcache are not counted here."""
    referenced: bool = False
    """Touched since the clock hand last passed."""
    readahead: bool = False
    """Read on speculation and not yet asked for. Models: PG_readahead."""
    source: Outcome | None = None
    """How its bytes came: the outcome of the load, None for a page that was never read. Evidence, not state."""
    read_error: DetectedLoss | None = None
    """Why the read failed; set instead of uptodate."""
    backed_checksum: int | None = None
    """Checksum of these bytes as the tier last gave or took them for this page. Only counters read it."""

    def __post_init__(self) -> None:
        self.uptodate = self.content is not None

    @property
    def is_private(self) -> bool:
        """Read by a fault that has not yet mapped it: no other path can see it."""
        return not self.mappings and self.entry is None

    def get(self) -> Folio:
        """Take a reference, which put_folio() drops. Models: folio_get()."""
        self.refs += 1
        return self

    def trylock(self) -> bool:
        """Take the lock if it is free."""
        if self.is_locked:
            return False
        self.is_locked = True
        return True

    def wait_unlocked(self) -> Path[None]:
        """Sleep until the lock is dropped once. Recheck everything: the folio may have left the swapcache.

        Models: folio_wait_locked().
        """
        if self.lock_queue is None:
            self.lock_queue = WaitQueue("folio")
        yield Wait(self.lock_queue)

    def unlock(self) -> None:
        """Drop the lock and wake its waiters."""
        assert self.is_locked
        self.is_locked = False
        if self.lock_queue is not None:
            self.lock_queue.wake_all()


class SwapPte(NamedTuple):
    """A page that is swapped out. A value: two are the same when every field is. Models: swp_pte."""

    entry: SwapEntry
    exclusive: bool
    """This process was the only one to map the page: it may be mapped writable again. Models: pte_swp_exclusive()."""
    soft_dirty: bool = False
    uffd_wp: bool = False


@dataclass(slots=True, eq=False)
class PresentPte:
    """A mapped page. An identity: two mappings are never the same one."""

    folio: Folio
    _: KW_ONLY
    writable: bool
    exclusive: bool
    """No other process may see writes to it. Models: PageAnonExclusive()."""
    dirty: bool
    """Written through this mapping since it was made."""
    soft_dirty: bool = False
    uffd_wp: bool = False


Pte: TypeAlias = SwapPte | PresentPte


def pte_same(current: Pte | None, orig: Pte) -> bool:
    """Tell whether the entry is still the one that was read before the lock was dropped: all bits, not only the slot.

    The slot alone cannot tell a slot that was freed and given to the same page again (ABA); nor can this. Only a
    pin, or the generation, can.
    """
    return current == orig


@dataclass(slots=True, eq=False)
class MmapLock:
    """Many readers or one writer; a waiting writer keeps new readers out. Models: mmap_lock (an rw_semaphore)."""

    readers: int = 0
    is_written: bool = False
    writers_waiting: int = 0
    queue: WaitQueue = field(default_factory=lambda: WaitQueue("mmap lock"))

    def read(self) -> Path[None]:
        """Take for reading; yields only when a writer has it or waits for it."""
        while self.is_written or self.writers_waiting:
            yield Wait(self.queue)
        self.readers += 1

    def read_done(self) -> None:
        """Release after read()."""
        assert self.readers > 0
        self.readers -= 1
        if self.readers == 0 and self.writers_waiting:
            self.queue.wake_all()

    def write(self) -> Path[None]:
        """Take for writing."""
        self.writers_waiting += 1
        while self.is_written or self.readers:
            yield Wait(self.queue)
        self.writers_waiting -= 1
        self.is_written = True

    def write_done(self) -> None:
        """Release after write()."""
        assert self.is_written
        self.is_written = False
        self.queue.wake_all()


@dataclass(slots=True, eq=False, repr=False)
class Process:
    """One address space. Addresses are virtual page numbers."""

    pid: int
    page_table: dict[int, Pte] = field(default_factory=dict)
    """No entry is pte_none. Changed only in atomic steps: the page table lock is the absence of a yield."""
    mmap_lock: MmapLock = field(default_factory=MmapLock)
    is_alive: bool = True


class ClockList:
    """The clock: folios in the order the hand will meet them.

    A folio is on the list from allocation to its end, except while reclaim has isolated it.
    """

    def __init__(self) -> None:
        self.folios: OrderedDict[Folio, None] = OrderedDict()

    def add(self, folio: Folio) -> None:
        """Put *folio* where the hand comes last. Models: folio_add_lru(), folio_putback_lru()."""
        self.folios[folio] = None

    def discard(self, folio: Folio) -> None:
        """Take *folio* off, if it is on."""
        self.folios.pop(folio, None)

    def isolate(self, wanted: int) -> list[Folio]:
        """Take up to *wanted* folios under the hand off the list, unlocked and untouched since the last pass.

        A referenced folio gets its second chance: the bit is cleared and the hand moves on. One call looks at
        each folio at most twice, so it ends even when everything is referenced or locked.

        Models: isolate_lru_folios() and folio_check_references().
        """
        isolated: list[Folio] = []
        for _ in range(2 * len(self.folios)):
            if len(isolated) == wanted or not self.folios:
                break
            folio, _ = self.folios.popitem(last=False)
            if folio.referenced or folio.is_locked:
                folio.referenced = False
                self.folios[folio] = None
                continue
            folio.refs += 1
            isolated.append(folio)
        return isolated

    def isolate_one(self, folio: Folio) -> bool:
        """Take *folio* off the list if it is on it and unlocked, touched or not. Models: folio_isolate_lru()."""
        if folio.is_locked or folio not in self.folios:
            return False
        del self.folios[folio]
        folio.refs += 1
        return True
