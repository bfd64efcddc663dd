"""Loads: whose bytes are answered, and who owns the page then. The contract is Load's in `swaptier.proto`.

Pure; every function is one atomic step. Rules of conduct:
  - A load that fails takes nothing and begins no hand-off.
  - SHARED copies. EXCLUSIVE takes a page that the pool answers, and with it the copy that was written through: that is
    the durable half of the entry and dies with it. CLAIM hands off what the slot holds now, wherever that is, and
    takes nothing: until it is acknowledged the bytes stay, and the same request id gets them again.
  - While a page is handed off no other load is answered (R6): its claimant may be writing to it already, and a second
    copy would be a second owner.

Models: zswap_load() in mm/zswap.c and the swap_read_folio() it falls through to; the hand-off is R2 to R6 of KERNEL.md
section 5. Left out: large folios.
"""

from collections.abc import Sequence

from swaptier_server.tier.area import Area
from swaptier_server.tier.counters import DeviceSource
from swaptier_server.tier.device import DeviceError
from swaptier_server.tier.page import DecodeError, SameFilled, StoredPage, decode
from swaptier_server.tier.read_back import device_has, read_back
from swaptier_server.tier.slot import HANDED_OFF_STATES, LOST_REASONS, POOL_STATES, Slot, SlotEvent, SlotState
from swaptier_server.tier.write_back import give_up_entry
from swaptier_wire.errors import LimitReached
from swaptier_wire.types import NO_GENERATION, LoadMode, LoadReply, Outcome, Reason, SlotReply

# A look into an enum class costs 40 ns, and these are on every load's way.
_POOLED, _SHARED, _CLAIM, _ERROR = SlotState.POOLED, LoadMode.SHARED, LoadMode.CLAIM, Outcome.ERROR


def check_load(area: Area, offsets: Sequence[int], modes: Sequence[LoadMode]) -> int:
    """Refuse a batch of loads as `check_offsets()` does, or one whose claims could begin more leases than allowed.

    Returns how many they could begin.

    Repeats of claims that are under way begin none, so they are never refused.

    Raises:
        UnknownArea, InvalidRequest, LimitReached: definite.
    """
    area.check_offsets(offsets)
    if _CLAIM not in modes:
        return 0
    claims = [area.known_slots.state(offset) for offset, mode in zip(offsets, modes, strict=True) if mode is _CLAIM]
    begun = sum(state in (SlotState.POOLED, SlotState.ON_DEVICE) for state in claims)
    if area.handed_off_pages + begun > area.leases_max:
        raise LimitReached(
            f"area {area.name!r} has {area.handed_off_pages} claims that were not acknowledged, and {begun} more "
            f"would pass its limit of {area.leases_max}; nothing of the request was applied. Acknowledge, or wait "
            f"{area.leases.duration_ns / 1e9:g} s for leases to end, then ask again"
        )
    if begun and not area.account.leases.may_take(begun):
        bound = area.account.leases.bound
        raise LimitReached(
            f"this tenant has {area.account.leases.used} claims that were not acknowledged, {bound.reserved} of the "
            f"server's {bound.most} are reserved for it, and others have the rest; nothing of the request was applied. "
            f"Acknowledge, or wait {area.leases.duration_ns / 1e9:g} s for leases to end, then ask again"
        )
    return begun


def lookup(area: Area, offset: int) -> SlotReply:
    """Answer whether the pool has an entry, handed off or not: HIT or MISS. Models: xa_load() on zswap's tree."""
    return SlotReply(Outcome.HIT if area.known_slots.state(offset) in POOL_STATES else Outcome.MISS)


def load(
    area: Area,
    offset: int,
    generation: int,
    mode: LoadMode,
    request_id: int = 0,
    *,
    require_generation: bool = False,
    pool_only: bool = False,
) -> LoadReply:
    """Return the page at *offset*: the pool's, else whatever the device has, else no bytes and why.

    Without *require_generation* this is the kernel's load: any generation is answered, and a slot without an entry is
    read from the device, silently stale or not. A device that gives another page than it was given is broken, and
    that is ERROR. With *require_generation*, bytes of exactly *generation* are answered or none:
    STALE_GENERATION when the slot holds another, LOST when it holds none, even where *pool_only* asks for MISS, since
    there is nothing to look for on the device.

    EXCLUSIVE takes a page that the pool answers (HIT, SAME_FILLED). If it was written through, the device reads as
    never written afterwards. To the next server, too, unless its device could not drop the page: nothing outlives it,
    no tombstone either, so a store of it that comes late after a restart is kept as if it were the first. That costs
    memory until the slot is stored or freed, and no page: the bytes are those of its generation. A page that the
    device answers stays there until it is overwritten, as on any swap device.

    CLAIM hands off the page that the slot holds, in the pool or on the device, to *request_id*; of what the slot does
    not hold, it gets what SHARED gets. Any other load of a page that is handed off answers CLAIMED; the claim's own
    repeat answers the same bytes, and its lease begins anew.

    Models: zswap_load() and, on a miss, swap_read_folio().
    """
    slot = area.known_slots.get(offset)
    wanted = generation if require_generation else None
    if slot is not None and slot.state is _POOLED:
        reply = _load_entry(area, slot, wanted, mode, request_id)
        if reply.outcome is _ERROR and slot.is_backed and device_has(area, slot):
            # What was written through is the page, whole: it is the one to answer, and to keep.
            give_up_entry(area, slot)
            reply = _load_without_entry(area, offset, slot, wanted, pool_only, mode, request_id)
    elif slot is not None and slot.state in HANDED_OFF_STATES:
        if mode is _CLAIM and slot.claimant == request_id:
            return _replay(area, slot, wanted, pool_only)
        if wanted is None or wanted == slot.generation:
            reply = LoadReply(Outcome.CLAIMED, generation=slot.generation)
        else:
            reply = _another_generation(area, slot.generation, wanted)
    else:
        reply = _load_without_entry(area, offset, slot, wanted, pool_only, mode, request_id)
    area.counters.loads[mode][reply.outcome] += 1
    return reply


# From the pool


def _load_entry(area: Area, slot: Slot, wanted: int | None, mode: LoadMode, request_id: int) -> LoadReply:
    """Answer from the pool; if that succeeds, do what the mode says with the entry."""
    entry = slot.entry
    assert entry is not None, f"{slot} has no entry"
    if wanted is not None and entry.generation != wanted:
        return _another_generation(area, entry.generation, wanted)
    reply = _read_entry(area, entry)
    if reply.outcome is _ERROR:
        return reply
    if mode is _SHARED:
        slot.is_referenced = True
    elif mode is _CLAIM:
        area.begin_lease(slot, request_id)
    else:
        area.end_page(slot)
        slot.step(SlotEvent.TAKEN_BY_LOAD)
        if area.writes_through:
            area.drop_from_device(slot)
    return reply


def _read_entry(area: Area, entry: StoredPage) -> LoadReply:
    """Answer the page of a pool entry, or ERROR. Changes nothing but counters."""
    try:
        page = decode(entry)
    except DecodeError as error:
        # Never a miss: the device behind it would answer with an older page (KERNEL.md 3.2).
        return _load_error(area, error.reason, entry.generation)
    if isinstance(entry.encoded, SameFilled):
        word = entry.encoded.word
        return LoadReply(Outcome.SAME_FILLED, Reason.NONE, entry.generation, entry.checksum, None, word)
    return LoadReply(Outcome.HIT, Reason.NONE, entry.generation, entry.checksum, page, None, entry.length)


# From the device


def _load_without_entry(
    area: Area,
    offset: int,
    slot: Slot | None,
    wanted: int | None,
    pool_only: bool,
    mode: LoadMode,
    request_id: int,
) -> LoadReply:
    """Answer a load that the pool cannot."""
    held = slot.generation if slot is not None and slot.state is SlotState.ON_DEVICE else NO_GENERATION
    if wanted is not None and held == NO_GENERATION:
        return _lost(area, slot, wanted)
    if wanted is not None and held != wanted:
        return _another_generation(area, held, wanted)
    if pool_only:
        return LoadReply(Outcome.MISS, generation=held)
    reply = _read_device(area, offset, slot, held)
    if reply.outcome is not Outcome.DEVICE:
        return reply
    if slot is not None and held != NO_GENERATION and mode is _CLAIM:
        area.begin_lease(slot, request_id)
    elif area.options.device_free_on_read:
        _free_on_read(area, offset, slot)
    return reply


def _read_device(area: Area, offset: int, slot: Slot | None, held: int) -> LoadReply:
    """Answer whatever the device has, or ERROR. Changes nothing but counters.

    *held* is the generation of the slot's current page if the device has that, else NO_GENERATION.
    """
    try:
        stored, page = read_back(area, offset, slot)
    except DeviceError:
        return _load_error(area, Reason.DEVICE_ERROR, held)
    except DecodeError as error:
        return _load_error(area, error.reason, held)
    if stored.generation == NO_GENERATION:
        source = DeviceSource.UNWRITTEN
    else:
        source = DeviceSource.CURRENT if stored.generation == held else DeviceSource.STALE
    area.counters.device_reads[source] += 1
    return LoadReply(Outcome.DEVICE, Reason.NONE, stored.generation, stored.checksum, page)


def _free_on_read(area: Area, offset: int, slot: Slot | None) -> None:
    """Let the device forget what it has given."""
    if slot is None:
        area.drop_offsets_from_device(offset)
        return
    area.drop_from_device(slot)
    if slot.state is SlotState.ON_DEVICE:
        area.end_page(slot)
        slot.step(SlotEvent.DROPPED_BY_DEVICE)


# Repeats of a claim, and no bytes


def _replay(area: Area, slot: Slot, wanted: int | None, pool_only: bool) -> LoadReply:
    """Answer a claim that was answered before. Its client lives and has nothing yet, so the lease begins anew."""
    if wanted is not None and slot.generation != wanted:
        return _another_generation(area, slot.generation, wanted)
    if slot.entry is not None:
        reply = _read_entry(area, slot.entry)
        if reply.outcome is _ERROR and slot.is_backed and device_has(area, slot):
            reply = _read_device(area, slot.offset, slot, slot.generation)
    elif pool_only:
        return LoadReply(Outcome.MISS, generation=slot.generation)
    else:
        reply = _read_device(area, slot.offset, slot, slot.generation)
    area.leases.begin(slot)
    area.counters.replayed_claims += 1
    return reply


def _another_generation(area: Area, held: int, wanted: int) -> LoadReply:
    """Answer that the slot holds *held* and not *wanted*, and if the tier knows how that can be, that."""
    if area.is_restored and wanted > held:
        # The host stored a newer page, which only an earlier server had.
        area.counters.lost[Reason.RESTARTED] += 1
        return LoadReply(Outcome.LOST, Reason.RESTARTED, held)
    return LoadReply(Outcome.STALE_GENERATION, generation=held)


def _lost(area: Area, slot: Slot | None, wanted: int) -> LoadReply:
    """Answer that the slot holds no page, and what became of it."""
    if area.is_restored and (slot is None or wanted > slot.generation):
        reason = Reason.RESTARTED
    else:
        reason = LOST_REASONS[SlotState.NEVER_STORED if slot is None else slot.state]
    area.counters.lost[reason] += 1
    return LoadReply(Outcome.LOST, reason)


def _load_error(area: Area, reason: Reason, generation: int) -> LoadReply:
    """Answer that the page cannot be had although it is held."""
    area.counters.load_errors[reason] += 1
    return LoadReply(Outcome.ERROR, reason, generation)
