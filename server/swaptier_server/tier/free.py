"""How a client makes the tier forget a page: it acknowledges a hand-off, or invalidates a slot.

Pure; every function is one atomic step. The contracts are Acknowledge's and Invalidate's in `swaptier.proto`. Rules of
conduct:
  - An acknowledgement counts only while its lease runs. One that comes later finds the page the tier's again, or
    another claimant's, and changes nothing: LEASE_ENDED is the fence.
  - An invalidation of a generation below the slot's is late and changes nothing (R4 of KERNEL.md section 5).

Models: zswap_invalidate() in mm/zswap.c, at the last swap_free(). An acknowledgement has no kernel model: there, the
return of a function cannot be lost.
"""

from swaptier_server.tier.area import Area
from swaptier_server.tier.counters import LeaseEnd
from swaptier_server.tier.slot import HANDED_OFF_STATES, SlotEvent
from swaptier_wire.types import Outcome, SlotReply


def acknowledge(area: Area, offset: int, generation: int, request_id: int) -> SlotReply:
    """End the hand-off of *generation* to the claim *request_id*: the tier forgets its copy.

    Answers ACKNOWLEDGED, also to a repeat, STALE_GENERATION when the slot has seen a higher generation, or LEASE_ENDED
    when no such hand-off is under way. In the last two, nothing changed: if the slot holds a page, the page stays,
    claimed anew or not.

    The device keeps its bytes, written through or not, as at an invalidation: that spares a write a page, and what
    stays is the one tombstone that outlives the server. The next server finds the page under its generation, refuses
    late stores of older ones and answers a late repeat of its own as the first time. No load gets it by mistake:
    before it loads this slot again, the host has stored a higher generation.

    A device that frees on read drops a page that it handed off now, when it is certain that it was read.
    """
    slot = area.known_slots.get(offset)
    if slot is not None and generation < slot.generation:
        outcome = Outcome.STALE_GENERATION
    elif slot is None or generation != slot.generation or slot.claimant != request_id:
        outcome = Outcome.LEASE_ENDED
    elif slot.state not in HANDED_OFF_STATES:
        # The claimant that acknowledged stays known until the next store, whatever else became of the slot.
        area.counters.repeated_acknowledges += 1
        return SlotReply(Outcome.ACKNOWLEDGED)
    else:
        outcome = Outcome.ACKNOWLEDGED
        area.end_lease(slot, LeaseEnd.ACKNOWLEDGED)
        area.counters.acknowledged_entries += slot.entry is not None
        area.end_page(slot)
        slot.step(SlotEvent.ACKNOWLEDGED)
        if area.options.device_free_on_read and slot.is_backed:
            area.drop_from_device(slot)
    area.counters.acknowledges[outcome] += 1
    return SlotReply(outcome)


def invalidate(area: Area, offset: int, generation: int) -> SlotReply:
    """Forget the slot's page up to *generation*, handed off or not; the device keeps its bytes.

    Answers INVALIDATED, MISS (there was no pool entry) or STALE_GENERATION (the slot has seen a higher one).

    Models: zswap_invalidate() at the last swap_free().
    """
    slot = area.slot(offset)
    if generation < slot.generation:
        outcome = Outcome.STALE_GENERATION
    else:
        outcome = Outcome.MISS if slot.entry is None else Outcome.INVALIDATED
        if slot.state in HANDED_OFF_STATES:
            area.end_lease(slot, LeaseEnd.INVALIDATED)
        area.end_page(slot)
        slot.step(SlotEvent.INVALIDATED)
        if generation > slot.generation:
            # The host stored up to here, and these stores have not arrived. When they do, they are late.
            slot.generation = generation
            slot.store_reply = None
    area.counters.invalidates[outcome] += 1
    return SlotReply(outcome)
