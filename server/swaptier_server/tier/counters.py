"""What an area counts, by cause. KERNEL.md 3.8 gives the words.

Pure. A counter counts what was answered; what a request did to a slot follows from it, and `Area.check_invariants()`
holds the books: every entry that came in is still held, or was replaced, taken, acknowledged, invalidated or written
back; every hand-off that was begun is under way, or is over for one cause.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from swaptier_server.tier.device import DeviceFault
from swaptier_wire.types import LoadMode, Outcome, Reason

STORE_OUTCOMES: Final = (
    Outcome.STORED,
    Outcome.DEVICE,
    Outcome.REJECTED,
    Outcome.STALE_GENERATION,
    Outcome.ERROR,
)
REJECT_REASONS: Final = (Reason.POOL_LIMIT, Reason.COMPRESS_POOR, Reason.AREA_LIMIT, Reason.DEVICE_ERROR)
LOAD_MODES: Final = (LoadMode.SHARED, LoadMode.EXCLUSIVE, LoadMode.CLAIM)
LOAD_OUTCOMES: Final = (
    Outcome.HIT,
    Outcome.SAME_FILLED,
    Outcome.DEVICE,
    Outcome.MISS,
    Outcome.LOST,
    Outcome.STALE_GENERATION,
    Outcome.CLAIMED,
    Outcome.ERROR,
)
LOAD_ERROR_REASONS: Final = (Reason.DECOMPRESS, Reason.CHECKSUM, Reason.DEVICE_ERROR)
LOST_REASONS_COUNTED: Final = (
    Reason.NEVER_STORED,
    Reason.TAKEN,
    Reason.FREED,
    Reason.RESTARTED,
    Reason.REFUSED_STORE,
)
ACKNOWLEDGE_OUTCOMES: Final = (Outcome.ACKNOWLEDGED, Outcome.STALE_GENERATION, Outcome.LEASE_ENDED)
INVALIDATE_OUTCOMES: Final = (Outcome.INVALIDATED, Outcome.MISS, Outcome.STALE_GENERATION)


class DeviceSource(StrEnum):
    """What a read from the device gave, against what the slot holds."""

    CURRENT = "current"
    """The slot's current page."""
    STALE = "stale"
    """A page of an earlier store; the current one is gone. Silent corruption, if anyone maps it."""
    UNWRITTEN = "unwritten"
    """Zeros that nobody stored. Likewise, unless the slot was never stored to."""


class LeaseEnd(StrEnum):
    """What ended a hand-off."""

    ACKNOWLEDGED = "acknowledged"
    """The client has the page."""
    EXPIRED = "expired"
    """Nobody acknowledged in time, and the page is the tier's again."""
    SUPERSEDED = "superseded"
    """A newer store."""
    INVALIDATED = "invalidated"
    """The host said that the slot is free."""
    DRAINED = "drained"
    """The server stopped, and the page was the tier's again."""


class CounterRow(NamedTuple):
    """One counter's value, ready for export."""

    name: str
    """As on /metrics, without prefix and suffix."""
    labels: tuple[tuple[str, str], ...]
    """Label names and values, in order; empty when it has none."""
    value: int


class AreaCounters:
    """Counters of one area since it was opened. Integers only grow; every cause that can occur stands at 0 first."""

    __slots__ = (
        "acknowledged_entries",
        "acknowledges",
        "device_errors",
        "device_reads",
        "duplicate_entries",
        "invalidates",
        "leases_begun",
        "leases_ended",
        "load_errors",
        "loads",
        "lost",
        "reject_reclaim_fail",
        "rejects",
        "repeated_acknowledges",
        "repeated_stores",
        "replayed_claims",
        "stores",
        "written_back_pages",
    )

    def __init__(self) -> None:
        self.stores: dict[Outcome, int] = dict.fromkeys(STORE_OUTCOMES, 0)
        """Stores answered, without repeats: STORED is the kernel's zswpout."""
        self.repeated_stores: int = 0
        """Stores of a generation and checksum that were already applied: answered again, not applied again."""
        self.rejects: dict[Reason, int] = dict.fromkeys(REJECT_REASONS, 0)
        """Pages refused, by cause: by the pool (zswap: pool_limit_hit, reject_compress_poor), then by the device."""
        self.duplicate_entries: int = 0
        """Stores that found a live entry of an older page, and ended it (zswap: duplicate_entry)."""
        self.loads: dict[LoadMode, dict[Outcome, int]] = {mode: dict.fromkeys(LOAD_OUTCOMES, 0) for mode in LOAD_MODES}
        """Loads answered, without replays: HIT and SAME_FILLED are the kernel's zswpin."""
        self.replayed_claims: int = 0
        """Claims asked again while their lease ran: answered again with the same bytes."""
        self.load_errors: dict[Reason, int] = dict.fromkeys(LOAD_ERROR_REASONS, 0)
        """Loads answered ERROR, by cause (zswap: decompress_fail)."""
        self.lost: dict[Reason, int] = dict.fromkeys(LOST_REASONS_COUNTED, 0)
        """Loads answered LOST, by what became of the page."""
        self.invalidates: dict[Outcome, int] = dict.fromkeys(INVALIDATE_OUTCOMES, 0)
        """Invalidations answered."""
        self.device_reads: dict[DeviceSource, int] = dict.fromkeys(DeviceSource, 0)
        """Loads answered with the device's bytes, replays among them, by what they were."""
        self.device_errors: dict[DeviceFault, int] = dict.fromkeys(DeviceFault, 0)
        """Reads and writes that the device failed, by why; a write of a whole batch is one."""
        self.leases_begun: int = 0
        """Hand-offs: claims that were answered with a page that the slot holds. Replays renew and are none."""
        self.leases_ended: dict[LeaseEnd, int] = dict.fromkeys(LeaseEnd, 0)
        """Hand-offs that are over, by what ended them."""
        self.acknowledges: dict[Outcome, int] = dict.fromkeys(ACKNOWLEDGE_OUTCOMES, 0)
        """Acknowledgements answered, without repeats; LEASE_ENDED are those that came too late."""
        self.repeated_acknowledges: int = 0
        """Acknowledgements of a hand-off that was acknowledged already."""
        self.acknowledged_entries: int = 0
        """Of the pages acknowledged, those that the pool had."""
        self.written_back_pages: int = 0
        """Entries that the pool gave up because the device has them now (zswap: written_back_pages, vmstat: zswpwb)."""
        self.reject_reclaim_fail: int = 0
        """Entries that should have been written back and could not (zswap: reject_reclaim_fail)."""

    def rows(self) -> Iterator[CounterRow]:
        """Yield every counter, label values in lower case."""
        for outcome, value in self.stores.items():
            yield CounterRow("tier_stores", (("outcome", outcome.name.lower()),), value)
        yield CounterRow("tier_repeated_stores", (), self.repeated_stores)
        for reason, value in self.rejects.items():
            yield CounterRow("tier_rejects", (("reason", reason.name.lower()),), value)
        yield CounterRow("tier_duplicate_entries", (), self.duplicate_entries)
        for mode, outcomes in self.loads.items():
            for outcome, value in outcomes.items():
                labels = (("mode", mode.name.lower()), ("outcome", outcome.name.lower()))
                yield CounterRow("tier_loads", labels, value)
        for reason, value in self.load_errors.items():
            yield CounterRow("tier_load_errors", (("reason", reason.name.lower()),), value)
        for reason, value in self.lost.items():
            yield CounterRow("tier_lost", (("reason", reason.name.lower()),), value)
        for outcome, value in self.invalidates.items():
            yield CounterRow("tier_invalidates", (("outcome", outcome.name.lower()),), value)
        for source, value in self.device_reads.items():
            yield CounterRow("tier_device_reads", (("source", source.value),), value)
        for fault, value in self.device_errors.items():
            yield CounterRow("tier_device_errors", (("fault", fault.value),), value)
        yield from self._hand_off_rows()
        yield CounterRow("tier_written_back_pages", (), self.written_back_pages)
        yield CounterRow("tier_reject_reclaim_fail", (), self.reject_reclaim_fail)

    def _hand_off_rows(self) -> Iterator[CounterRow]:
        yield CounterRow("tier_replayed_claims", (), self.replayed_claims)
        yield CounterRow("tier_leases_begun", (), self.leases_begun)
        for cause, value in self.leases_ended.items():
            yield CounterRow("tier_leases_ended", (("cause", cause.value),), value)
        for outcome, value in self.acknowledges.items():
            yield CounterRow("tier_acknowledges", (("outcome", outcome.name.lower()),), value)
        yield CounterRow("tier_repeated_acknowledges", (), self.repeated_acknowledges)
