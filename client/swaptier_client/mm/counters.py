"""What a host counts, by cause. KERNEL.md 3.8 and 6 are the definitions.

Pure. Kernel counters carry the kernel's names and meaning: tier traffic is not in pswpin/pswpout. Only what a host can
see is here; stale reads and lost updates are the oracle's (`swaptier_loadgen.host.oracle`), because a host that is
handed stale bytes cannot know.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Annotated


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
    """Why a process got SIGBUS: its page is gone."""

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
    """Counters of one host since it started. Integers only grow; `rows()` flattens them for export.

    A counter that is annotated with a sentence is served under /metrics with that sentence as its help.
    """

    faults: Annotated[int, "Swap faults that mapped their page."] = 0
    fault_retries: Annotated[int, "Swap faults that had to be taken again."] = 0
    """Swap faults that returned VM_FAULT_RETRY or found the PTE changed, and were taken again."""
    minor_faults: Annotated[int, "First touches of a page: zeros, no swap."] = 0
    install_failures: Annotated[dict[str, int], "Pages read that could not be mapped, by cause."] = field(
        default_factory=lambda: _by_cause(InstallFailure)
    )
    install_failures_owed: Annotated[int, "Install failures whose data was still needed."] = 0
    """Of these, after a load that took the only copy, or would have: the process still needs the data."""
    detected_loss: dict[str, int] = field(default_factory=lambda: _by_cause(DetectedLoss))
    """Accesses that ended with SIGBUS because the page is gone."""
    discarded: Annotated[int, "Loads thrown away because nobody needed the page any more."] = 0
    double_loads: Annotated[int, "Loads of a page version that had been loaded before."] = 0
    wasted_recompress: Annotated[int, "Stores of bytes the tier had been given before."] = 0
    """Stores of bytes equal to those the tier was given, or gave, last for this page."""
    tier_miss_must_exist: Annotated[
        int, "Loads answered from the device although the pool had been given the page."
    ] = 0
    """Loads answered from the device although the pool was given the page: silent staleness begins here."""
    storeback_stored: int = 0
    storeback_rejected: int = 0
    pin_waits: Annotated[int, "Faults that found the slot pinned (-EEXIST) and waited."] = 0
    """swapcache_prepare() found HAS_CACHE set (-EEXIST): waited and faulted again."""
    pin_enoent: Annotated[int, "Faults that found the slot free (-ENOENT)."] = 0
    """swapcache_prepare() found the slot free (-ENOENT): faulted again."""
    claim_waits: int = 0
    """Loads answered CLAIMED: another claimant has the slot; asked again."""
    stores: Annotated[int, "Store requests answered."] = 0
    loads: Annotated[int, "Load requests answered."] = 0
    store_rescued: Annotated[int, "Folios taken back while reclaim wrote them."] = 0
    zswpin: Annotated[int, "Pages read from the pool, as the kernel's zswpin."] = 0
    zswpout: Annotated[int, "Pages the pool took, as the kernel's zswpout."] = 0
    pswpin: Annotated[int, "Pages read from the device, as the kernel's pswpin."] = 0
    pswpout: Annotated[int, "Pages written to the device, as the kernel's pswpout."] = 0
    """Pages the pool refused and the device took."""
    swpin_zero: Annotated[int, "Pages of zeros restored without asking the tier, as the kernel's swpin_zero."] = 0
    swpout_zero: Annotated[int, "Pages of zeros noted on the host instead of stored, as the kernel's swpout_zero."] = 0
    swap_ra: Annotated[int, "Pages read ahead, as the kernel's swap_ra."] = 0
    swap_ra_hit: Annotated[int, "Of these, pages a fault then asked for, as the kernel's swap_ra_hit."] = 0

    def rows(self) -> Iterator[tuple[str, str, int]]:
        """Yield (name, cause, value); cause is empty for a counter that has none."""
        for spec in fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, dict):
                for cause, count in value.items():
                    yield spec.name, cause, count
            else:
                yield spec.name, "", value
