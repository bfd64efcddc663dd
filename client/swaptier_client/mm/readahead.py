"""Swap readahead: which neighbours of a faulting slot to read with it; `read()` then reads them.

Pure. Every page read ahead goes into the swapcache, so under an exclusive load a wrong guess is a dirty page that must
be compressed again, and under a shared one it is dropped for free (KERNEL.md 3.9). The bypass reads nothing ahead, and
neither does a fault under `no-bypass` on a synchronous device; swapoff reads ahead everywhere.

Models: swap_cluster_readahead(), swap_vma_readahead(), swap_vma_ra_win() and __swapin_nr_pages() in mm/swap_state.c.
Left out: the clamp of the window to one page table page.
"""

from collections.abc import Sequence
from enum import StrEnum

from swaptier_client.mm.folio import Folio, Process, SwapPte
from swaptier_client.mm.swap_map import SwapDevice, SwapSlot

PAGE_CLUSTER = 3
"""log2 of the widest window. Models: vm.page-cluster."""

PAGE_CLUSTER_MAX = 5
"""Models: SWAP_RA_ORDER_CEILING."""

HITS_AT_START = 4
"""So that the first faults read ahead at all. Models: the initial swapin_readahead_hits."""

SMALLEST_WINDOW = 4


class ReadaheadMode(StrEnum):
    """Which neighbours."""

    NONE = "none"
    CLUSTER = "cluster"
    """Neighbours on the device: an aligned window of slots."""
    VMA = "vma"
    """Neighbours in the address space, in the direction the faults move."""


class Readahead:
    """The adaptive window: it grows while what was read ahead is asked for, and shrinks by half when it is not.

    One per host, as the kernel's is one per host (cluster) or per VMA (vma): a process here is one VMA, and processes
    of a host share the window.
    """

    def __init__(self, mode: ReadaheadMode = ReadaheadMode.NONE, page_cluster: int = PAGE_CLUSTER) -> None:
        assert 0 <= page_cluster <= PAGE_CLUSTER_MAX
        self.mode = mode
        self.pages_max = 1 << page_cluster
        self._hits = HITS_AT_START
        self._window = 0
        self._previous = 0
        """Where the last fault was: a slot for CLUSTER, an address for VMA."""

    def state(self) -> tuple[int, int, int]:
        """Return all that the next window depends on."""
        return self._hits, self._window, self._previous

    def note_lookup(self, folio: Folio) -> bool:
        """Tell whether *folio*, which a fault found in the swapcache, was read ahead and not asked for until now.

        Models: swap_cache_get_folio().
        """
        was_read_ahead, folio.readahead = folio.readahead, False
        self._hits += was_read_ahead
        return was_read_ahead

    def neighbours(
        self, devices: Sequence[SwapDevice], process: Process, address: int, slot: SwapSlot
    ) -> list[SwapSlot]:
        """Return the slots worth reading with *slot*, nearest first in their order, without it."""
        match self.mode:
            case ReadaheadMode.NONE:
                return []
            case ReadaheadMode.CLUSTER:
                return self._cluster(devices[slot.entry.type], slot)
            case ReadaheadMode.VMA:
                return self._vma(devices, process, address, slot)

    def _cluster(self, device: SwapDevice, slot: SwapSlot) -> list[SwapSlot]:
        offset = slot.entry.offset
        window = self._next_window(offset)
        start = offset & ~(window - 1)
        return [other for other in device.slots[start : start + window] if other is not slot]

    def _vma(self, devices: Sequence[SwapDevice], process: Process, address: int, slot: SwapSlot) -> list[SwapSlot]:
        previous = self._previous
        window = self._next_window(address)
        if address == previous + 1:
            left = address
        elif address == previous - 1:
            left = address - window + 1
        else:
            left = address - (window - 1) // 2
        ptes = (process.page_table.get(at) for at in range(left, left + window))
        entries = [pte.entry for pte in ptes if isinstance(pte, SwapPte) and pte.entry != slot.entry]
        return [devices[entry.type].slots[entry.offset] for entry in entries]

    def _next_window(self, position: int) -> int:
        """Return the window for a fault at *position*, 1 to pages_max, a power of two. Models: __swapin_nr_pages()."""
        hits, self._hits = self._hits, 0
        window = hits + 2
        if window == 2:
            # Nothing read ahead was asked for: read ahead only if the faults walk on.
            if abs(position - self._previous) != 1:
                window = 1
        else:
            window = max(SMALLEST_WINDOW, 1 << (window - 1).bit_length())
        window = max(min(window, self.pages_max), self._window // 2)
        self._window = window
        self._previous = position
        return window
