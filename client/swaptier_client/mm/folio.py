"""Folios: the uncompressed pages of a host, and the clock list that reclaim walks.

Pure. Order-0 only: a folio is one page. `dirty` is a claim about backing: a clean swapcache folio has a copy elsewhere
and may be dropped; a dirty one has none, and dropping it loses the page (KERNEL.md 3.3).

Models: struct folio, folio_trylock(), folio_lock(), folio_unlock() and the anon LRU; one clock list with a referenced
bit instead of active, inactive and generations.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from swaptier_client.mm.counters import DetectedLoss
from swaptier_client.mm.effects import Path, SwapEntry, Wait, WaitQueue
from swaptier_wire.types import Outcome

if TYPE_CHECKING:
    from swaptier_client.mm.process import Process


class Folio:
    """One uncompressed page and what guards it.

    Life: allocated (charged, locked) by a fault; read into; mapped, or put in the swapcache, or both; freed when its
    last reference, mapping and swapcache membership are gone. `lock` guards swapcache membership, `dirty` and
    `uptodate`; the mappings change only in atomic steps.
    """

    __slots__ = (
        "backed_checksum",
        "content",
        "dirty",
        "entry",
        "is_locked",
        "lock_queue",
        "mappings",
        "read_error",
        "readahead",
        "referenced",
        "refs",
        "source",
        "uptodate",
    )

    def __init__(self, content: bytes | None) -> None:
        self.content = content
        """Exactly PAGE_BYTES once uptodate; None while being read."""
        self.uptodate = content is not None
        self.is_locked = False
        self.lock_queue: WaitQueue | None = None
        """Made by the first waiter."""
        self.dirty = False
        """No copy of these bytes exists elsewhere. A mapped page's writes stand in its PTEs' dirty bits until unmap."""
        self.entry: SwapEntry | None = None
        """The slot this folio is in the swapcache for."""
        self.mappings: list[tuple[Process, int]] = []
        """Who maps it, as (process, address). Models the reverse map."""
        self.refs = 1
        """Paths that hold it across a yield; mappings and the swapcache are not counted here."""
        self.referenced = False
        """Touched since the clock hand last passed."""
        self.readahead = False
        """Read on speculation and not yet asked for. Models: PG_readahead."""
        self.source: Outcome | None = None
        """How its bytes came: the outcome of the load, None for a page that was never read. Evidence, not state."""
        self.read_error: DetectedLoss | None = None
        """Why the read failed; set instead of uptodate."""
        self.backed_checksum: int | None = None
        """Checksum of these bytes as the tier last gave or took them for this page. Only counters read it."""

    @property
    def is_private(self) -> bool:
        """Read by a fault that has not yet mapped it: nobody else can see it."""
        return not self.mappings and self.entry is None

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
        """Drop the lock and wake who waits for it."""
        assert self.is_locked
        self.is_locked = False
        if self.lock_queue is not None:
            self.lock_queue.wake_all()


class ClockList:
    """The clock: folios in the order the hand will meet them.

    A folio is on the list from allocation to its end, except while reclaim has isolated it.
    """

    __slots__ = ("folios",)

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

    def putback(self, folio: Folio) -> None:
        """Return an isolated folio to the end of the list; the caller then drops isolate()'s reference."""
        self.add(folio)
