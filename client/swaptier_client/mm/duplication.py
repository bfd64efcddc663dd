"""Duplication: pages held compressed in the tier and uncompressed on the host at once. KERNEL.md 6.1.

Pure; time comes in. The cause is derived from the slot's state, never stored: call `observe(slot)`
after every change of a slot, and the ledger integrates page-seconds between observations with one clock.
"""

from collections.abc import Callable, Iterator
from enum import IntEnum

from swaptier_client.mm.folio import Folio, PresentPte
from swaptier_client.mm.swap_map import SwapSlot
from swaptier_wire.types import PAGE_BYTES


class DuplicationCause(IntEnum):
    """Why a page is held twice."""

    LOAD_SHARED = 0
    """A shared load: the tier kept its copy."""
    LOAD_SHARED_STALE = 1
    """As above, but the folio was written in place: the entry is an older version, still taking memory."""
    LOAD_INFLIGHT = 2
    """The folio is being filled."""
    STORE_INFLIGHT = 3
    """The folio was stored and is not yet dropped."""
    STORE_RESCUED = 4
    """The folio was stored and then taken back by a fault."""
    LEASE = 5
    """A claim that is not yet acknowledged."""


def duplication_cause(slot: SwapSlot) -> DuplicationCause | None:
    """Tell why *slot* is duplicated now, or None if it is not.

    A duplicate needs a live entry in the pool and a folio bound to the slot: in the swapcache for it, or held by the
    fault that pins it. A mapped page whose slot was freed is bound to nothing.
    """
    folio = slot.folio or slot.reader
    if not slot.in_pool or folio is None:
        return None
    if not folio.uptodate:
        return DuplicationCause.LOAD_INFLIGHT if folio.read_error is None else None
    if slot.claim_id:
        return DuplicationCause.LEASE
    if slot.is_storing and not folio.mappings:
        return DuplicationCause.STORE_INFLIGHT
    if folio.dirty or folio_is_written_in_place(folio):
        return DuplicationCause.LOAD_SHARED_STALE
    if slot.is_storing or slot.was_rescued:
        return DuplicationCause.STORE_RESCUED
    return DuplicationCause.LOAD_SHARED


def folio_is_written_in_place(folio: Folio) -> bool:
    """Tell whether a process wrote through a mapping of *folio* since that mapping was made."""
    for process, address in folio.mappings:
        pte = process.page_table[address]
        if isinstance(pte, PresentPte) and pte.dirty:
            return True
    return False


class DuplicationLedger:
    """Gauges, peak and integral of duplicated pages, by cause."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._changed_ns = now_ns()
        self._pages = [0] * len(DuplicationCause)
        self._page_ns = [0] * len(DuplicationCause)
        self.waste_bytes = 0
        """Sum of the lengths of the duplicated entries: what exclusive loads would free."""
        self._waste_by_slot: dict[SwapSlot, int] = {}
        self.pages_peak = 0

    def observe(self, slot: SwapSlot) -> None:
        """Account for *slot* as it is now. Call after every change to it or to its folio."""
        cause = duplication_cause(slot)
        if cause == slot.duplication and (cause is None or self._waste_by_slot[slot] == slot.entry_bytes):
            return
        self._integrate()
        if slot.duplication is not None:
            self._pages[slot.duplication] -= 1
            self.waste_bytes -= self._waste_by_slot.pop(slot)
        slot.duplication = cause
        if cause is not None:
            self._pages[cause] += 1
            self._waste_by_slot[slot] = slot.entry_bytes
            self.waste_bytes += slot.entry_bytes
            self.pages_peak = max(self.pages_peak, self.pages_total)

    def pages(self, cause: DuplicationCause) -> int:
        """Pages duplicated now for *cause*."""
        return self._pages[cause]

    @property
    def pages_total(self) -> int:
        """Pages duplicated now."""
        return sum(self._pages)

    @property
    def bytes(self) -> int:
        """Memory that duplicated pages take now, both copies."""
        return self.pages_total * PAGE_BYTES + self.waste_bytes

    def page_seconds(self, cause: DuplicationCause) -> float:
        """Integral of pages(cause) over time until now, in page-seconds."""
        self._integrate()
        return self._page_ns[cause] / 1e9

    def rows(self) -> Iterator[tuple[DuplicationCause, int, float]]:
        """Yield (cause, pages now, page-seconds so far)."""
        for cause in DuplicationCause:
            yield cause, self.pages(cause), self.page_seconds(cause)

    def _integrate(self) -> None:
        now = self._now_ns()
        elapsed = now - self._changed_ns
        if elapsed:
            self._changed_ns = now
            for cause, pages in enumerate(self._pages):
                if pages:
                    self._page_ns[cause] += pages * elapsed
