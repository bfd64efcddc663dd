"""Stores: what is kept of a page, where, and what its repeat is answered. The contract is Store's in `swaptier.proto`.

Pure; every function is one atomic step. Rules of conduct:
  - A slot's generation is the highest it has seen. Only a store of a higher one is applied (R1 of KERNEL.md section 5),
    and the repeat of one whose page the device took and has no more.
  - A store that is applied ends the slot's older page before anything can go wrong: an older page never comes back.
  - The answer is made when everything it promises is so: with write-through, when the device has the page too.
  - What is written through is the durable half of the pool's entry, not a second page: what takes one takes both.
  - Stores of one batch that need the device go to it together, and fail together.

Models: zswap_store() in mm/zswap.c, and swap_writepage() when it declines. Left out: large folios. Write-through is
frontswap's, which zswap lost with 71024cb4a0bf.
"""

from collections.abc import Sequence
from typing import NamedTuple

from swaptier_server.tier.area import Area
from swaptier_server.tier.counters import LeaseEnd
from swaptier_server.tier.device import DeviceError
from swaptier_server.tier.page import StoredPage, stored_page
from swaptier_server.tier.read_back import device_has
from swaptier_server.tier.slices import Slices, in_slices, to_its_end
from swaptier_server.tier.slot import HANDED_OFF_STATES, Slot, SlotEvent, SlotState
from swaptier_server.tier.write_back import CLUSTER_PAGES, write_back_oldest
from swaptier_wire.checksum import page_checksum
from swaptier_wire.errors import InvalidRequest
from swaptier_wire.types import NO_GENERATION, PAGE_BYTES, Outcome, Reason, SlotReply


class _Write(NamedTuple):
    """A store that waits for the device. Its slot holds nothing; if the pool takes the page, its bytes are charged."""

    slot: Slot
    stored: StoredPage
    refusal: Reason
    """Why the pool does not take it; NONE when it does."""


def check_store(area: Area, offsets: Sequence[int], generations: Sequence[int]) -> None:
    """Refuse a batch of stores as `check_offsets()` does, or one with a generation that nothing can have.

    Raises:
        UnknownArea, InvalidRequest: definite.
    """
    area.check_offsets(offsets)
    area.account.make_device_room(len(offsets))
    if NO_GENERATION in generations:
        offset = offsets[list(generations).index(NO_GENERATION)]
        raise InvalidRequest(
            f"the store to offset {offset} of area {area.name!r} has generation {NO_GENERATION}, which means bytes "
            "that nobody stored; nothing of the request was applied. Generations start at 1"
        )


def store(area: Area, offset: int, generation: int, page: bytes, checksum: int) -> SlotReply:
    """Store one page; see store_many()."""
    return store_many(area, [offset], [generation], [page], [checksum])[0]


def store_many(
    area: Area, offsets: Sequence[int], generations: Sequence[int], pages: Sequence[bytes], checksums: Sequence[int]
) -> list[SlotReply]:
    """Store pages in one go; see store_in_slices()."""
    return to_its_end(store_in_slices(area, offsets, generations, pages, checksums))


def store_in_slices(
    area: Area, offsets: Sequence[int], generations: Sequence[int], pages: Sequence[bytes], checksums: Sequence[int]
) -> Slices[list[SlotReply]]:
    """Keep one page, exactly PAGE_BYTES long, for each of *offsets*, all different: in the pool, or else on the device.

    Answers each with STORED, DEVICE, REJECTED, STALE_GENERATION or ERROR. In the first three the slot's older page is
    gone and a hand-off of it is over; the other two change nothing. A repeat is answered as the first was. What needs
    the device goes to it in a slice of its own, the last.

    Models: zswap_store(), and swap_writepage() when it declines.
    """
    writes: list[_Write] = []

    def admit(offset: int, generation: int, page: bytes, checksum: int) -> SlotReply | None:
        return _admit(area, offset, generation, page, checksum, writes)

    replies = yield from in_slices(admit, offsets, generations, pages, checksums)
    settled = iter(_settle(area, writes) if writes else ())
    if writes:
        yield len(writes)
    return [reply if reply is not None else next(settled) for reply in replies]


def _admit(
    area: Area, offset: int, generation: int, page: bytes, checksum: int, writes: list[_Write]
) -> SlotReply | None:
    """Apply a store as far as it goes without the device: answer it, or append it to *writes* and return None."""
    if page_checksum(page) != checksum:
        area.counters.stores[Outcome.ERROR] += 1
        return SlotReply(Outcome.ERROR, Reason.CHECKSUM)
    slot = area.slot(offset)
    if generation <= slot.generation and not _has_lost_what_is_repeated(area, slot, generation, checksum):
        return _answer_late_store(area, slot, generation, checksum)
    stored = stored_page(page, checksum, generation)
    # The older page goes first. It could never be served again, and its bytes may be what the new one needs.
    if slot.entry is not None:
        area.counters.duplicate_entries += 1
    if slot.state in HANDED_OFF_STATES:
        area.end_lease(slot, LeaseEnd.SUPERSEDED)
    area.end_page(slot)
    slot.claimant = None
    slot.generation = generation
    slot.store_checksum = checksum
    refusal = _pool_refusal(area, stored)
    if refusal is Reason.NONE and not area.writes_through:
        area.keep_entry(slot, stored)
        return _answer(area, slot, SlotReply(Outcome.STORED, Reason.NONE, stored.length))
    if refusal is not Reason.NONE:
        area.counters.rejects[refusal] += 1
        if not area.options.writeback:
            return _reject(area, slot, refusal)
    if not area.has_device_page(slot):
        if refusal is Reason.NONE and stored.length:
            area.uncharge(stored.length)
        area.counters.rejects[Reason.DEVICE_LIMIT] += 1
        area.account.device_refusals += 1
        return _reject(area, slot, Reason.DEVICE_LIMIT)
    # Until it is settled the slot is as one whose store was refused: it holds nothing, and is not looked at.
    slot.step(SlotEvent.STORE_REFUSED)
    writes.append(_Write(slot, stored, refusal))
    return None


def _settle(area: Area, writes: Sequence[_Write]) -> list[SlotReply]:
    """Give the device what waits for it, and answer."""
    try:
        area.device.write([(write.slot.offset, write.stored) for write in writes])
    except DeviceError as error:
        area.counters.device_errors[error.fault] += 1
        return [_settle_refused(area, write) for write in writes]
    return [_settle_written(area, write) for write in writes]


def _settle_written(area: Area, write: _Write) -> SlotReply:
    slot, stored, refusal = write
    slot.device_generation = slot.generation
    if refusal is Reason.NONE:
        area.keep_entry(slot, stored)
        return _answer(area, slot, SlotReply(Outcome.STORED, Reason.NONE, stored.length))
    slot.step(SlotEvent.STORED_ON_DEVICE)
    area.device_pages += 1
    return _answer(area, slot, SlotReply(Outcome.DEVICE, refusal))


def _settle_refused(area: Area, write: _Write) -> SlotReply:
    area.counters.rejects[Reason.DEVICE_ERROR] += 1
    if write.refusal is Reason.NONE and write.stored.length:
        area.uncharge(write.stored.length)
    # A failed write may have left the older page, or half of one.
    area.drop_unwritten([write.slot])
    return _reject(area, write.slot, Reason.DEVICE_ERROR)


def _reject(area: Area, slot: Slot, reason: Reason) -> SlotReply:
    """Answer that the tier does not have the page. What the device has of older ones goes too: it never comes back."""
    if slot.device_generation != NO_GENERATION:
        area.drop_from_device(slot)
    slot.step(SlotEvent.STORE_REFUSED)
    return _answer(area, slot, SlotReply(Outcome.REJECTED, reason))


def _answer(area: Area, slot: Slot, reply: SlotReply) -> SlotReply:
    slot.store_reply = reply
    area.counters.stores[reply.outcome] += 1
    return reply


def _has_lost_what_is_repeated(area: Area, slot: Slot, generation: int, checksum: int) -> bool:
    """Tell whether the store repeats one whose answer counts on the device, and the device does not have the page.

    The repeat has it, so it is applied as if it were the first.
    """
    if slot.store_reply is None or (generation, checksum) != (slot.generation, slot.store_checksum):
        return False
    return slot.state in (SlotState.POOLED, SlotState.ON_DEVICE) and slot.is_backed and not device_has(area, slot)


def _answer_late_store(area: Area, slot: Slot, generation: int, checksum: int) -> SlotReply:
    """Answer the store of a generation that the slot has seen: as the first time for a repeat, else refuse."""
    first = slot.store_reply
    if first is not None and generation == slot.generation and checksum == slot.store_checksum:
        area.counters.repeated_stores += 1
        return first if slot.entry is not None else first._replace(entry_bytes=0)
    area.counters.stores[Outcome.STALE_GENERATION] += 1
    return SlotReply(Outcome.STALE_GENERATION)


def _pool_refusal(area: Area, stored: StoredPage) -> Reason:
    """Account *stored* to the area and the pool and return NONE, or return why not."""
    length = stored.length
    if length == 0:
        # As since 6.12, where such pages never reach zswap: what takes no bytes is under no limit.
        return Reason.NONE
    if length >= PAGE_BYTES and not area.keeps_incompressible:
        return Reason.COMPRESS_POOR
    quota = area.options.pool_bytes_max
    if quota is not None and area.pool_bytes + length > quota and not _make_room(area, length, quota):
        return Reason.AREA_LIMIT
    return Reason.NONE if area.charge(length) else Reason.POOL_LIMIT


def _make_room(area: Area, length: int, quota: int) -> bool:
    """Write a cluster of the area's oldest pages back; return whether *length* bytes more then fit under its *quota*.

    Models: the shrink_memcg() that zswap_store() tries when obj_cgroup_may_zswap() says no.
    """
    if length > quota:
        return False
    write_back_oldest(area, area.pool_bytes + length - quota, CLUSTER_PAGES)
    return area.pool_bytes + length <= quota
