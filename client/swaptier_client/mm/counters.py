"""What a host counts, by cause. KERNEL.md 3.8 and 6 are the definitions.

Pure. Kernel counters carry the kernel's names and meaning: tier traffic is not in pswpin/pswpout. Only what a host can
see is here; stale reads and lost updates are the oracle's (`swaptier_loadgen.oracle`), because a host that is
handed stale bytes cannot know.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import StrEnum


class InstallFailure(StrEnum):
    """Why a page that was read could not be mapped. Models: the rows of KERNEL.md 1.3 that exist for order-0 pages."""

    LOCK_CONTENDED = "lock_contended"
    """folio_lock_or_retry() found the folio locked: VM_FAULT_RETRY. The data is owed."""
    PTE_CHANGED = "pte_changed"
    """pte_same() failed: another thread was first, or the PTE was zapped, moved or re-flagged meanwhile."""
    READ_ERROR = "read_error"
    """The folio is not uptodate: SIGBUS. The tier keeps an entry it could not read."""


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
    stores: int = 0
    """Store requests answered."""
    loads: int = 0
    """Load requests answered."""
    store_rescued: int = 0
    """Folios a fault took back while reclaim was writing them."""
    zswpin: int = 0
    zswpout: int = 0
    pswpin: int = 0
    pswpout: int = 0

    def rows(self) -> Iterator[tuple[str, str, int]]:
        """Yield (name, cause, value); cause is empty for a counter that has none."""
        for spec in fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, dict):
                for cause, count in value.items():
                    yield spec.name, cause, count
            else:
                yield spec.name, "", value
