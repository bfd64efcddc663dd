"""Which areas give up pages when the pool is full or they were closed, and how all leave it when the server stops.

Pure; each call does a bounded part of the work, so its caller can let others run in between. Rules of conduct:
  - The tenant that has borrowed most pays first, and gives no page of its reserved share. Of its areas, those that
    have used up their own quota give first, then all in turn, a cluster of pages each.
  - The pool is shrunk to its accept threshold and no further. An area that cannot give up pages is a failure, and after
    RECLAIM_RETRIES_MAX failures, or when no area has a page to give, the attempt is over until a page is refused again.

Models: shrink_worker() in mm/zswap.c. There, a turn is one page, being passed over (second chance) is a failure too,
and no quota comes first.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from swaptier_server.tier.area import Area
from swaptier_server.tier.counters import LeaseEnd
from swaptier_server.tier.leases import Leases
from swaptier_server.tier.pool import Pool
from swaptier_server.tier.slot import Slot
from swaptier_server.tier.write_back import CLUSTER_PAGES, RECLAIM_RETRIES_MAX, write_back_all, write_back_oldest
from swaptier_wire.types import PAGE_BYTES

SHRINK_PAGES_MAX: Final = 64
"""Pages written in one call, unless said otherwise: half a millisecond on a device that is a file."""


class DrainProgress(NamedTuple):
    """How far a drain has come, in pages since it began."""

    written: int = 0
    """On the device, and safe if that outlives the server."""
    failed: int = 0
    """Given up: the device refuses them."""
    kept: int = 0
    """Not tried: their areas have no writeback."""


def shrink(pool: Pool, areas: Mapping[str, Area], pages_max: int) -> int:
    """Bring *pool*, which *areas* share, down to its accept threshold, if it refused pages; return how many went.

    Stops after *pages_max* pages or some more; `pool.wants_shrink` says whether there is more to do.
    """
    written = failures = 0
    while pool.wants_shrink and written < pages_max:
        excess, entries = pool.excess_bytes, pool.excess_entries
        is_above = excess > 0 or entries > 0
        area = _next_area(pool, areas) if is_above and failures < RECLAIM_RETRIES_MAX else None
        if area is None:
            pool.wants_shrink = False
            break
        if excess > 0:
            done = write_back_oldest(area, min(excess, area.account.pool_bytes.over), CLUSTER_PAGES)
        else:
            pages = min(CLUSTER_PAGES, entries, area.account.pool_entries.over)
            done = write_back_oldest(area, pages * PAGE_BYTES, pages)
        area.settle()
        written += done.written
        failures += done.written == 0
    return written


def drain(
    leases: Leases, areas: Mapping[str, Area], area_of: Callable[[Slot], Area], pages_max: int
) -> Iterator[DrainProgress]:
    """Write every entry back, *pages_max* at a time; yield how far it came after each part.

    Hand-offs end: what was claimed and not acknowledged is written back too. An area whose device refuses is given up
    with all that it still has in the pool. Meanwhile no request may be applied; an area may be closed.
    """
    done = DrainProgress()
    while leases:
        for slot in leases.first(pages_max):
            area_of(slot).take_back(slot, LeaseEnd.DRAINED)
        if leases:
            yield done
    for area in list(areas.values()):
        if not area.options.writeback:
            done = done._replace(kept=done.kept + area.stored_pages)
            continue
        for pooled in area.known_slots.pooled(pages_max):
            if area.is_closed:
                break
            part = write_back_all(area, pooled)
            area.settle()
            done = done._replace(written=done.written + part.written)
            if part.failed:
                done = done._replace(failed=done.failed + area.stored_pages)
                break
            yield done
    yield done


def _borrowed(pool: Pool, area: Area) -> int:
    """Return what the area's tenant has borrowed of what the pool lends too much of."""
    account = area.account
    return account.pool_bytes.over if pool.excess_bytes > 0 else account.pool_entries.over


def _next_area(pool: Pool, areas: Mapping[str, Area]) -> Area | None:
    """Return the area whose turn it is, of those that have something to give."""
    able = [area for area in areas.values() if area.options.writeback and area.lru]
    above = [_borrowed(pool, area) for area in able]
    most = max(above, default=0)
    able = [area for area, borrowed in zip(able, above, strict=True) if borrowed == most > 0]
    asked = [area for area in able if area.has_used_up_quota] or able
    if not asked:
        return None
    names = [area.name for area in asked]
    # An area that is gone, or has nothing to give now, had the last turn: then the first begins again.
    turn = (names.index(pool.shrunk_last) + 1) % len(names) if pool.shrunk_last in names else 0
    pool.shrunk_last = names[turn]
    return asked[turn]


class ClosedAreas:
    """Closed areas of which something is left, those of each tenant in the order they were closed.

    The tenants take turns: what one has closed, however much it is, keeps no other charged for what that has closed.
    """

    def __init__(self, forget: Callable[[Area, int], int], is_left: Callable[[Area], bool]) -> None:
        """Let *forget* take so much, or some more, of an area, and return how much, as long as it *is_left*."""
        self._forget: Final = forget
        self._is_left: Final = is_left
        self._of: Final[dict[str, deque[Area]]] = {}
        """By tenant; whose turn it is first."""

    def __bool__(self) -> bool:
        return bool(self._of)

    def __iter__(self) -> Iterator[Area]:
        return (area for areas in self._of.values() for area in areas)

    def add(self, area: Area) -> None:
        """Take an area that was closed."""
        self._of.setdefault(area.account.name, deque()).append(area)

    def forget(self, most: int, tenant: str | None = None) -> None:
        """Forget so much of the areas of *tenant*, or of the one whose turn it is, who is the last then.

        Raises:
            DeviceError: the device of the first that is left cannot forget. Nothing of it changed.
        """
        tenant = next(iter(self._of), None) if tenant is None else tenant
        areas = None if tenant is None else self._of.pop(tenant, None)
        if tenant is None or areas is None:
            return
        try:
            while areas and most > 0:
                most -= self._forget(areas[0], most)
                if not self._is_left(areas[0]):
                    areas.popleft()
        finally:
            if areas:
                self._of[tenant] = areas
