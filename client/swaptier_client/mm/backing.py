"""Backing: what a host knows of the copy that its tiers keep, from their replies, from failures and from restarts.

Pure and atomic: nothing here waits. A reply is believed only of the version that was asked for, and of the server that
was asked; where an outcome is unknown the slot is in doubt, until a load that asks for its generation settles it.

Models: what follows swap_read_folio(), zswap_load() and zswap_store(), whose returns are never lost, late or in doubt.
"""

from swaptier_client.mm.counters import DetectedLoss
from swaptier_client.mm.effects import Load, RequestReply
from swaptier_client.mm.folio import Folio
from swaptier_client.mm.host import Host
from swaptier_client.mm.swap_map import SwapSlot
from swaptier_wire.errors import SwapTierError
from swaptier_wire.types import LoadMode, LoadReply, Outcome, Reason, SlotReply

LOSSES = {
    Reason.CHECKSUM: DetectedLoss.CHECKSUM,
    Reason.DECOMPRESS: DetectedLoss.DECOMPRESS,
    Reason.RESTARTED: DetectedLoss.EPOCH,
}
"""What a load that brought no page says of it. Any other reason: a page that must exist is missing."""


def take_load_reply(host: Host, slot: SwapSlot, folio: Folio, asked: Load, reply: LoadReply) -> None:
    """Fill the locked *folio* from *reply*. Afterwards it is uptodate, or `read_error` says why not. Atomic.

    A miss reads the device and is uptodate whatever the device returned: a slot the device was never given reads as
    zeros, and the host cannot know. This is where silent staleness begins. An error never reads the device instead.
    Bytes of another generation than was required are an error: the tier is broken that gives them.

    Models: swap_read_folio() and zswap_load().
    """
    counters = host.counters
    counters.loads += 1
    host.device(slot.entry).note_answer()
    content = reply.content()
    if content is not None and asked.require_generation and reply.generation != asked.generation:
        reply, content = LoadReply(Outcome.ERROR, Reason.DEVICE_ERROR, reply.generation), None
    folio.source = reply.outcome
    if reply.outcome is Outcome.CLAIMED:
        # Another claimant has the page, and may give it back or end it: nothing is lost, ask again.
        counters.claim_waits += 1
        slot.claim_id = 0
    elif content is None:
        folio.read_error = LOSSES.get(reply.reason, DetectedLoss.MISS_MUST_EXIST)
    else:
        folio.content = content
        folio.uptodate = True
        folio.backed_checksum = reply.checksum
    if slot.generation == asked.generation:
        # Else, without a pin, the slot is another page's by now, and the reply says nothing of that one.
        _settle(slot, folio, asked, reply)
    if reply.outcome in (Outcome.HIT, Outcome.SAME_FILLED):
        counters.zswpin += 1
        slot.pool_loads += 1
        counters.double_loads += slot.pool_loads > 1
        slot.entry_bytes = reply.entry_bytes
        if asked.mode is LoadMode.EXCLUSIVE:
            # The folio is now the only copy: dirty, so that reclaim writes it instead of dropping it.
            folio.dirty = True
            # Without a pin the slot may be another page's by now; then this took that page, and we cannot know.
            slot.in_pool = slot.in_pool and reply.generation != slot.generation
    elif reply.outcome is Outcome.DEVICE:
        counters.pswpin += 1
        counters.tier_miss_must_exist += reply.generation != asked.generation
        if host.policy.device_free_on_read and reply.generation == slot.generation:
            # The device dropped what it read out, so this is the only copy, and dirty, as in b430e9d1c6d4.
            folio.dirty = True
            slot.on_device = False
    host.duplication.observe(slot)


def _settle(slot: SwapSlot, folio: Folio, asked: Load, reply: LoadReply) -> None:
    """Learn from *reply* what became of the page that *slot* is in doubt about, or that it is lost for good.

    A load that did not ask for its generation was sent before the doubt arose, and its reply does not end it.
    """
    is_settled = slot.in_doubt and asked.require_generation
    match reply.outcome:
        case Outcome.LOST:
            slot.in_pool = slot.on_device = slot.in_doubt = False
            slot.lost = folio.read_error
        case Outcome.STALE_GENERATION:
            # The tier has an older page instead, which has still to be invalidated.
            slot.lost, slot.in_doubt = folio.read_error, True
        case Outcome.HIT | Outcome.SAME_FILLED if is_settled:
            slot.in_pool, slot.on_device, slot.in_doubt = True, False, False
        case Outcome.DEVICE if is_settled and reply.generation == slot.generation:
            slot.in_pool, slot.on_device, slot.in_doubt = False, True, False


def take_store_reply(host: Host, slot: SwapSlot, reply: RequestReply) -> None:
    """Remember what the tier keeps after a store, and count it."""
    assert isinstance(reply, SlotReply)
    host.device(slot.entry).note_answer()
    host.counters.stores += 1
    if reply.outcome not in (Outcome.STORED, Outcome.DEVICE, Outcome.REJECTED):
        # Damaged or late: the tier changed nothing, and an older page that it has is still there to be freed.
        return
    slot.in_doubt = False
    slot.claim_id = 0
    slot.in_pool = reply.outcome is Outcome.STORED
    slot.on_device = reply.outcome is Outcome.DEVICE
    slot.entry_bytes = reply.entry_bytes
    host.counters.zswpout += slot.in_pool
    host.counters.pswpout += slot.on_device
    host.duplication.observe(slot)


def note_failure(host: Host, slot: SwapSlot, error: BaseException) -> BaseException:
    """Remember what *error* leaves open about *slot* and its tier, and return it."""
    host.device(slot.entry).note_failure(error)
    slot.in_doubt |= not (isinstance(error, SwapTierError) and error.definite)
    return error


def tier_restarted(host: Host, type_: int) -> None:
    """React to a new epoch of the tier behind a device: what it held in memory may be gone.

    Every slot in use is in doubt from now on, so that its next load brings its own generation or a known loss,
    never the bytes of a device that was never given the page. A clean page in memory may be the only copy now, and
    becomes dirty: reclaim stores it again instead of dropping it. A store under way finds out by `restarts`.
    """
    host.devices[type_].restarts += 1
    for slot in host.devices[type_].slots:
        if slot.in_pool or slot.on_device:
            slot.in_doubt = True
            if slot.folio is not None and slot.folio.uptodate:
                slot.folio.dirty = True
                host.duplication.observe(slot)


def doubt_if_restarted(host: Host, slot: SwapSlot, folio: Folio, restarts: int) -> None:
    """Doubt what a reply said of *slot* if its tier started anew since *restarts*, when the load was made. Atomic.

    The reply may come from a server that is gone, with a page that has no other copy now. tier_restarted() could not
    see it: the folio had no page yet. In the swapcache it becomes dirty, so that reclaim stores it again.
    """
    if host.device(slot.entry).restarts == restarts:
        return
    slot.in_doubt = True
    if slot.folio is folio and folio.uptodate:
        folio.dirty = True
    host.duplication.observe(slot)
