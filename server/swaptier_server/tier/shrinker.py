"""Who gives up pages when the pool is full, and how everything leaves it when the server stops.

Pure; each call does a bounded part of the work, so whoever calls can let others run in between. Rules of conduct:
  - Those who have used up their own quota are asked first, then everyone in turn, a cluster of pages each.
  - The pool is shrunk to its accept threshold and no further. Who cannot give up pages is a failure, and after
    RECLAIM_RETRIES_MAX failures, or when nobody has a page to give, the attempt is over until a page is refused again.

Models: shrink_worker() in mm/zswap.c. There, a turn is one page, being passed over (second chance) is a failure too,
and nobody is asked first.
"""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from swaptier_server.tier.area import Area
from swaptier_server.tier.counters import LeaseEnd
from swaptier_server.tier.leases import Leases
from swaptier_server.tier.pool import Pool
from swaptier_server.tier.slot import SlotState
from swaptier_server.tier.write_back import RECLAIM_RETRIES_MAX, write_back_all, write_back_oldest

CLUSTER_PAGES: Final = 32
"""Pages an area gives up in its turn, in one write. Models: SWAP_CLUSTER_MAX."""
SHRINK_PAGES_MAX: Final = 256
"""Pages written in one call, unless said otherwise: a few milliseconds on a device that is a file."""


class DrainProgress(NamedTuple):
    """How far a drain has come, in pages since it began."""

    written: int = 0
    """On the device, and safe if that outlives the server."""
    failed: int = 0
    """Given up: the device refuses them."""
    kept: int = 0
    """Not tried: their areas have no writeback."""


class Shrinker:
    """Moves pages from the pool to the devices. Remembers whose turn it is."""

    def __init__(self, pool: Pool, leases: Leases, areas: Mapping[str, Area]) -> None:
        """Look after *pool*, which *areas* share, as they do *leases*; the mapping stays the tier's own."""
        self._pool: Final = pool
        self._leases: Final = leases
        self._areas: Final = areas
        self._last = ""
        """Name of the area whose turn was last."""

    def shrink(self, pages_max: int) -> int:
        """Bring the pool down to its accept threshold, if it refused pages; return how many were written back.

        Stops after *pages_max* pages or some more; `pool.wants_shrink` says whether there is more to do.
        """
        pool, written, failures = self._pool, 0, 0
        while pool.wants_shrink and written < pages_max:
            excess = pool.bytes - pool.accept_bytes
            area = self._next() if excess > 0 and failures < RECLAIM_RETRIES_MAX else None
            if area is None:
                pool.wants_shrink = False
                break
            done = write_back_oldest(area, excess, CLUSTER_PAGES)
            written += done.written
            failures += done.written == 0
        return written

    def drain(self, pages_max: int) -> Iterator[DrainProgress]:
        """Write every entry back, *pages_max* at a time; yield how far it came after each part.

        Hand-offs end: what was claimed and not acknowledged is written back too. An area whose device refuses is given
        up with all that it still has in the pool. Meanwhile no request may be applied; an area may be closed.
        """
        while (slot := self._leases.next_to_end()) is not None:
            self._areas[slot.area].take_back(slot, LeaseEnd.DRAINED)
        done = DrainProgress()
        for area in list(self._areas.values()):
            if not area.options.writeback:
                done = done._replace(kept=done.kept + area.stored_pages)
                continue
            slots = [slot for slot in area.known_slots.values() if slot.state is SlotState.POOLED]
            for start in range(0, len(slots), pages_max):
                if area.is_closed:
                    break
                part = write_back_all(area, slots[start : start + pages_max])
                done = done._replace(written=done.written + part.written)
                if part.failed:
                    done = done._replace(failed=done.failed + area.stored_pages)
                    break
                yield done
        yield done

    def _next(self) -> Area | None:
        """Return the area whose turn it is, of those that have something to give."""
        able = [area for area in self._areas.values() if area.options.writeback and area.lru]
        asked = [area for area in able if area.has_used_up_quota] or able
        if not asked:
            return None
        names = [area.name for area in asked]
        # An area that is gone, or has nothing to give now, had the last turn: then the first begins again.
        turn = (names.index(self._last) + 1) % len(names) if self._last in names else 0
        self._last = names[turn]
        return asked[turn]
