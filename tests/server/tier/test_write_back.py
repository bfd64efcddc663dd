"""Writeback: a page moves from the pool to the device and stays the same page."""

from collections.abc import Sequence

from tests.builders import page_of
from tests.server.builders import put

from swaptier_server.tier.area import Area
from swaptier_server.tier.device import DeviceError, MemoryDevice
from swaptier_server.tier.free import invalidate
from swaptier_server.tier.load import load
from swaptier_server.tier.page import StoredPage
from swaptier_server.tier.slot import SlotState
from swaptier_server.tier.swap_file import Client
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_server.tier.write_back import write_back
from swaptier_wire.types import AreaOptions, LoadMode, Outcome, fill_page

PAGE = page_of(1)


class BrokenDevice(MemoryDevice):
    """A device that takes nothing."""

    def write(self, pages: Sequence[tuple[int, StoredPage]]) -> None:
        """Fail."""
        raise DeviceError


def open_area(device: MemoryDevice | None = None) -> tuple[Tier, Area]:
    tier = Tier(TierLimits(pool_bytes_max=1 << 20), 1, lambda _name: device or MemoryDevice())
    area, _ = tier.swapon(Client("host", 1), "swap", 4, AreaOptions())
    return tier, area


def test_a_page_written_back_is_read_from_the_device_as_the_generation_it_was_stored_as() -> None:
    """The pool's bytes are given back, and a load that asks for the generation gets it."""
    tier, area = open_area()
    put(area, 0, 5, PAGE)
    assert write_back(area, 0)
    tier.check_invariants()
    assert (tier.pool.bytes, area.stored_pages, area.device_pages, area.counters.written_back_pages) == (0, 0, 1, 1)
    reply = load(area, 0, 5, LoadMode.EXCLUSIVE, require_generation=True)
    assert (reply.outcome, reply.generation, reply.page) == (Outcome.DEVICE, 5, PAGE)


def test_what_is_not_in_the_pool_or_takes_no_memory_is_not_written_back() -> None:
    """An empty slot, a freed one, one already on the device, a same-filled page."""
    _, area = open_area()
    assert not write_back(area, 0)
    put(area, 0, 1, PAGE)
    write_back(area, 0)
    assert not write_back(area, 0)
    invalidate(area, 0, 1)
    assert not write_back(area, 0)
    zeros = fill_page(0)
    put(area, 1, 1, zeros)
    assert not write_back(area, 1)


def test_a_page_that_the_device_does_not_take_stays_in_the_pool() -> None:
    """Writeback may fail; the page may not go with it."""
    tier, area = open_area(BrokenDevice())
    put(area, 0, 1, PAGE)
    assert not write_back(area, 0)
    tier.check_invariants()
    assert area.held(0).state is SlotState.POOLED
    assert load(area, 0, 1, LoadMode.SHARED).page == PAGE


def test_a_later_store_replaces_the_page_on_the_device() -> None:
    """The device keeps the older bytes, but nobody is given them while the pool has the newer page."""
    tier, area = open_area()
    put(area, 0, 1, PAGE)
    write_back(area, 0)
    newer = PAGE[::-1]
    put(area, 0, 2, newer)
    tier.check_invariants()
    assert load(area, 0, 2, LoadMode.SHARED).page == newer
    assert area.device.read(0).generation == 1
