"""Writeback: pages move from the pool to the device and stay the same pages.

Pure; every function is one atomic step, so nothing can come between the look at an entry and its end: the kernel, which
drops its lock to write, must recheck that the entry is still the same. Rules of conduct:
  - An entry leaves the pool when the device has it, never before. A device that fails leaves it where it was.
  - A page that is handed off is never written back: its claimant may already have changed it.
  - The generation stays, so a load that asks for it gets the device's page.

Models: zswap_writeback_entry() and shrink_memcg() in mm/zswap.c.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from swaptier_server.tier.area import Area
from swaptier_server.tier.device import DeviceError
from swaptier_server.tier.read_back import device_has
from swaptier_server.tier.slot import Slot, SlotEvent, SlotState
from swaptier_wire.types import NO_GENERATION

CLUSTER_PAGES: Final = 32
"""Pages an area gives up at once: in its turn, or for one store that would pass its quota. Models: SWAP_CLUSTER_MAX."""
RECLAIM_RETRIES_MAX: Final = 16
"""Failures after which a search for room is given up. Models: MAX_RECLAIM_RETRIES."""


class WrittenBack(NamedTuple):
    """What an attempt came to, in pages."""

    written: int = 0
    """Out of the pool, on the device."""
    failed: int = 0
    """Still in the pool: the device refused them."""


def write_back(area: Area, offset: int) -> bool:
    """Move the slot's pool entry to the device, as the same generation; False when none was moved.

    None is when there is none, when it is handed off, when it is same-filled (it takes no memory), when the area has
    no writeback, or when the device refuses.

    Models: zswap_writeback_entry().
    """
    slot = area.known_slots.get(offset)
    if not area.options.writeback or slot is None or slot.state is not SlotState.POOLED:
        return False
    if slot.entry is None or slot.entry.length == 0:
        return False
    return _write_back_slots(area, [slot]).written == 1


def write_back_oldest(area: Area, bytes_wanted: int, pages_max: int) -> WrittenBack:
    """Move the oldest entries that take *bytes_wanted* together to the device, *pages_max* at most.

    Those that were looked at are passed over once. If the device refuses, the entries are the newest then.

    Models: shrink_memcg().
    """
    if not area.options.writeback:
        return WrittenBack()
    victims = area.lru.take_victims(bytes_wanted, pages_max)
    done = _write_back_slots(area, victims)
    if done.failed:
        for slot in victims:
            area.lru.add(slot)
    return done


def write_back_all(area: Area, slots: Sequence[Slot]) -> WrittenBack:
    """Move the entries of these POOLED slots to the device: the server stops.

    If the device refuses them together, they are tried one by one, until RECLAIM_RETRIES_MAX failed.
    """
    done = _write_back_slots(area, slots, is_last=True)
    if not done.failed or len(slots) == 1:
        return done
    written = failed = 0
    for slot in slots:
        one = _write_back_slots(area, [slot], is_last=True)
        written += one.written
        failed += one.failed
        if failed == RECLAIM_RETRIES_MAX:
            break
    return WrittenBack(written, failed)


def _write_back_slots(area: Area, slots: Sequence[Slot], *, is_last: bool = False) -> WrittenBack:
    """Move the entries of POOLED *slots* to the device together: all of them or none; past its bound if *is_last*.

    One that the device took before is written anew if it is not there any more: here is the last that is certain.
    """
    unwritten = [
        (slot.offset, slot.entry)
        for slot in slots
        if slot.entry is not None and not (slot.is_backed and device_has(area, slot))
    ]
    if unwritten:
        if not _have_device_pages(area, slots, is_last=is_last):
            area.counters.reject_reclaim_fail += len(unwritten)
            return WrittenBack(failed=len(slots))
        try:
            area.device.write(unwritten)
        except DeviceError as error:
            area.counters.device_errors[error.fault] += 1
            area.counters.reject_reclaim_fail += len(unwritten)
            # A failed write may have left half a page; the pool still has the whole one.
            area.drop_unwritten([slot for slot in slots if not slot.is_backed])
            return WrittenBack(failed=len(slots))
    for slot in slots:
        slot.device_generation = slot.generation
        give_up_entry(area, slot)
    return WrittenBack(written=len(slots))


def give_up_entry(area: Area, slot: Slot) -> None:
    """Drop the entry of a POOLED *slot*, whose page the device has, from the pool."""
    assert slot.is_backed, f"{slot} is in the pool alone"
    area.end_page(slot)
    slot.step(SlotEvent.DROPPED_BY_POOL)
    area.device_pages += 1
    area.counters.written_back_pages += 1


def _have_device_pages(area: Area, slots: Sequence[Slot], *, is_last: bool) -> bool:
    """Tell whether the device has or may have a page for all of *slots*; if so that is charged from now on."""
    new = sum(slot.device_generation == NO_GENERATION for slot in slots)
    has_room = area.account.make_device_room(new) or is_last
    return has_room and all(area.has_device_page(slot, is_last=is_last) for slot in slots)
