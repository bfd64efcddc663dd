"""What the tier holds and has counted, at one moment between two requests.

Pure, but for `LoopSnapshots`, which brings a snapshot from the event loop to another thread. The tier is changed by the
event loop only, and never in the middle of a turn, so a snapshot taken as a turn of its own sees no request half
done: its sums agree with each other, and no dictionary changes while it is walked. It costs about 30 us for each area.
"""

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import NamedTuple

from swaptier_server.tier.counters import CounterRow
from swaptier_server.tier.device import DeviceFault
from swaptier_server.tier.tier import Tier

SNAPSHOT_SECONDS_MAX = 2.0
"""How long a scrape waits for the event loop. A batch takes some milliseconds; a loop that needs seconds hangs."""


class AreaSnapshot(NamedTuple):
    """One area."""

    name: str
    stored_pages: int
    same_filled_pages: int
    pool_bytes: int
    handed_off_pages: int
    device_pages: int
    counters: tuple[CounterRow, ...]


class TierSnapshot(NamedTuple):
    """The whole tier."""

    areas: tuple[AreaSnapshot, ...]
    pool_bytes_max: int
    pool_limit_hits: int
    is_accepting: bool
    areas_expired: int
    is_ready: bool
    device_fault: DeviceFault | None
    """Why the device takes no pages now; None while it does."""


class LoopSnapshots:
    """Takes snapshots on the event loop for other threads. Made on the loop."""

    def __init__(self, take: Callable[[], TierSnapshot]) -> None:
        self._take = take
        self._loop = asyncio.get_running_loop()

    def from_thread(self) -> TierSnapshot | None:
        """Return a snapshot, or None when the event loop hangs or is gone. Not to be called on the loop."""
        future: concurrent.futures.Future[TierSnapshot] = concurrent.futures.Future()

        def take() -> None:
            if not future.set_running_or_notify_cancel():
                return  # the scrape gave up
            try:
                future.set_result(self._take())
            except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the scrape that waits for it
                future.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(take)
        except RuntimeError:  # closed
            return None
        try:
            return future.result(SNAPSHOT_SECONDS_MAX)
        except TimeoutError:
            future.cancel()
            return None


def take_snapshot(tier: Tier, *, areas_expired: int, is_ready: bool, device_fault: DeviceFault | None) -> TierSnapshot:
    """Return what *tier* holds and has counted now. Called on the event loop."""
    return TierSnapshot(
        areas=tuple(
            AreaSnapshot(
                name=area.name,
                stored_pages=area.stored_pages,
                same_filled_pages=area.same_filled_pages,
                pool_bytes=area.pool_bytes,
                handed_off_pages=area.handed_off_pages,
                device_pages=area.device_pages,
                counters=tuple(area.counters.rows()),
            )
            for area in tier.areas.values()
        ),
        pool_bytes_max=tier.pool.bytes_max,
        pool_limit_hits=tier.pool.limit_hits,
        is_accepting=not tier.pool.reached_full,
        areas_expired=areas_expired,
        is_ready=is_ready,
        device_fault=device_fault,
    )
