"""What a host counts, by cause. KERNEL.md 3.8 and 6 are the definitions.

Pure. Kernel counters carry the kernel's names and meaning: tier traffic is not in pswpin/pswpout. Only what a host can
see is here; stale reads and lost updates are the oracle's (`swaptier_loadgen.host.oracle`), because a host that is
handed stale bytes cannot know.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import StrEnum


class InstallFailure(StrEnum):
    """Why a page that was read could not be mapped: the rows of KERNEL.md 1.3 that exist for order-0 pages."""

    LOCK_CONTENDED = "lock_contended"
    """folio_lock_or_retry() found the folio locked: VM_FAULT_RETRY. Owed."""
    RETRY_NOWAIT = "retry_nowait"
    """The same for a caller that must not wait (FAULT_FLAG_RETRY_NOWAIT). Owed."""
    KILLED = "killed"
    """A fatal signal came while waiting for the lock, and a peer or a remote accessor still needs the page. Owed."""
    PAGE_TABLE_GONE = "page_table_gone"
    """pte_offset_map_lock() found no page table: collapsed or freed, to be faulted again. Owed."""
    SOFT_DIRTY = "soft_dirty"
    """The entry's soft-dirty bit was changed: pte_same() compares it. Owed."""
    UFFD_WP = "uffd_wp"
    """The entry was write-protected through userfaultfd. Owed."""
    MOVED = "moved"
    """UFFDIO_MOVE took the entry to another address, as before 0ea148a79919. Owed, to the new address."""
    ZAPPED = "zapped"
    """The entry is gone: MADV_DONTNEED, exit. Not owed: the owner discarded the page."""
    ALREADY_MAPPED = "already_mapped"
    """Another thread completed first. Not owed, unless the slot was reused and what was read is another page."""
    READ_ERROR = "read_error"
    """The folio is not uptodate: SIGBUS. The tier keeps an entry it could not read."""


INJECTABLE = tuple(
    cause for cause in InstallFailure if cause not in (InstallFailure.ALREADY_MAPPED, InstallFailure.READ_ERROR)
)
"""Causes that can be brought about on purpose. The others need a second fault, or a damaged entry."""


class DetectedLoss(StrEnum):
    """Why a process was told (SIGBUS) that its page is gone."""

    MISS_MUST_EXIST = "miss_must_exist"
    EPOCH = "epoch"
    CHECKSUM = "crc"
    DECOMPRESS = "decompress"
    STOREBACK_REJECTED = "storeback_rejected"
    UNREACHABLE = "unreachable"


def _by_cause(causes: type[StrEnum]) -> dict[str, int]:
    """Every cause at 0, so that a first event is an increase."""
    return dict.fromkeys((str(cause) for cause in causes), 0)


@dataclass(slots=True)
class HostCounters:
    """Counters of one host since it started. Integers only grow; `rows()` flattens them for export."""

    faults: int = 0
    """Swap faults completed: the page was mapped by this fault."""
    fault_retries: int = 0
    """Swap faults that returned VM_FAULT_RETRY or found the PTE changed, and were taken again."""
    minor_faults: int = 0
    """Faults on a page never touched before: a zero page, no swap."""
    install_failures: dict[str, int] = field(default_factory=lambda: _by_cause(InstallFailure))
    """A page was read and could not be mapped, by cause."""
    install_failures_owed: int = 0
    """Of these, after a load that took the only copy, or would have: the process still needs the data."""
    detected_loss: dict[str, int] = field(default_factory=lambda: _by_cause(DetectedLoss))
    """Pages the process was told are gone."""
    discarded: int = 0
    """Loaded pages thrown away because their owner had dropped them. Not a corruption."""
    double_loads: int = 0
    """Loads from the pool of a page version that had been loaded before."""
    wasted_recompress: int = 0
    """Stores of bytes equal to those the tier was given, or gave, last for this page."""
    tier_miss_must_exist: int = 0
    """Loads answered from the device although the pool was given the page: silent staleness begins here."""
    storeback_stored: int = 0
    storeback_rejected: int = 0
    pin_waits: int = 0
    """swapcache_prepare() found HAS_CACHE set (-EEXIST): waited and faulted again."""
    pin_enoent: int = 0
    """swapcache_prepare() found the slot free (-ENOENT): faulted again."""
    claim_waits: int = 0
    """Loads answered CLAIMED: another claimant has the slot; asked again."""
    stores: int = 0
    """Store requests answered."""
    loads: int = 0
    """Load requests answered."""
    store_rescued: int = 0
    """Folios a fault took back while reclaim was writing them."""
    zswpin: int = 0
    """Pages loaded from the pool."""
    zswpout: int = 0
    """Pages stored to the pool."""
    pswpin: int = 0
    """Pages read from the device."""
    pswpout: int = 0
    """Pages the pool refused and the device took."""
    swpin_zero: int = 0
    """Pages of zeros restored without asking the tier."""
    swpout_zero: int = 0
    """Pages of zeros noted in the swap map instead of stored."""
    swap_ra: int = 0
    """Pages read ahead."""
    swap_ra_hit: int = 0
    """Of these, pages a fault then asked for."""

    def rows(self) -> Iterator[tuple[str, str, int]]:
        """Yield (name, cause, value); cause is empty for a counter that has none."""
        for spec in fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, dict):
                for cause, count in value.items():
                    yield spec.name, cause, count
            else:
                yield spec.name, "", value
