"""What an area counts, by cause. KERNEL.md 3.8 gives the words.

Pure. A counter counts what was answered; what a request did to a slot follows from it. `check_area()` adds them up:
every entry that came in is still held, or was replaced, taken, acknowledged, invalidated or written back; every
hand-off that was begun is under way, or is over for one cause.
"""

from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import Final, NamedTuple, TypeVar

from swaptier_server.tier.device import DeviceFault
from swaptier_server.tier.slot import LOST_REASONS
from swaptier_wire.types import (
    ACKNOWLEDGE_OUTCOMES,
    INVALIDATE_OUTCOMES,
    LOAD_OUTCOMES,
    STORE_OUTCOMES,
    LoadMode,
    Outcome,
    Reason,
)

_Cause = TypeVar("_Cause", bound=Enum)

REJECT_REASONS: Final = (
    *(Reason.POOL_LIMIT, Reason.COMPRESS_POOR, Reason.AREA_LIMIT, Reason.DEVICE_ERROR, Reason.DEVICE_LIMIT),
)
LOAD_MODES: Final = (LoadMode.SHARED, LoadMode.EXCLUSIVE, LoadMode.CLAIM)
LOAD_ERROR_REASONS: Final = (Reason.DECOMPRESS, Reason.CHECKSUM, Reason.DEVICE_ERROR)
LOST_REASONS_COUNTED: Final = (*LOST_REASONS.values(), Reason.RESTARTED)


class DeviceSource(StrEnum):
    """What a read from the device gave, against what the slot holds."""

    CURRENT = "current"
    """The slot's current page."""
    STALE = "stale"
    """A page of an earlier store; the current one is gone. Silent corruption, if it is mapped."""
    UNWRITTEN = "unwritten"
    """Zeros that were never stored. Likewise, unless the slot was never stored to."""


class LeaseEnd(StrEnum):
    """What ended a hand-off."""

    ACKNOWLEDGED = "acknowledged"
    """The client has the page."""
    EXPIRED = "expired"
    """No acknowledgement came in time, and the page is the tier's again."""
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

    def rows(self) -> list[CounterRow]:
        """Return every counter, label values in lower case."""
        loads = [
            CounterRow("tier_loads", (("mode", mode.name.lower()), ("outcome", outcome.name.lower())), value)
            for mode, outcomes in self.loads.items()
            for outcome, value in outcomes.items()
        ]
        return [
            *_rows("tier_stores", "outcome", self.stores),
            CounterRow("tier_repeated_stores", (), self.repeated_stores),
            *_rows("tier_rejects", "reason", self.rejects),
            CounterRow("tier_duplicate_entries", (), self.duplicate_entries),
            *loads,
            *_rows("tier_load_errors", "reason", self.load_errors),
            *_rows("tier_lost", "reason", self.lost),
            *_rows("tier_invalidates", "outcome", self.invalidates),
            *_rows("tier_device_reads", "source", self.device_reads),
            *_rows("tier_device_errors", "fault", self.device_errors),
            CounterRow("tier_replayed_claims", (), self.replayed_claims),
            CounterRow("tier_leases_begun", (), self.leases_begun),
            *_rows("tier_leases_ended", "cause", self.leases_ended),
            *_rows("tier_acknowledges", "outcome", self.acknowledges),
            CounterRow("tier_repeated_acknowledges", (), self.repeated_acknowledges),
            CounterRow("tier_written_back_pages", (), self.written_back_pages),
            CounterRow("tier_reject_reclaim_fail", (), self.reject_reclaim_fail),
        ]


def _rows(name: str, label: str, counts: Mapping[_Cause, int]) -> list[CounterRow]:
    return [CounterRow(name, ((label, cause.name.lower()),), value) for cause, value in counts.items()]
