"""The swapcache: uncompressed folios bound to slots, at most one a slot, found by everyone who faults on it.

Pure. A folio enters locked and under HAS_CACHE, and leaves locked. Who inserts reads; who finds waits for the lock and
then rechecks that the folio is still in the cache for the slot, because the lock's last holder may have dropped it.

Models: mm/swap_state.c (add_to_swap_cache(), __read_swap_cache_async(), delete_from_swap_cache()).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from swaptier_client.mm.counters import DetectedLoss
from swaptier_client.mm.effects import Acknowledge, Invalidate, Load, Path, Wait, batch
from swaptier_client.mm.folio import Folio
from swaptier_client.mm.swap_map import PrepareResult, SwapSlot
from swaptier_wire.types import BATCH_SLOTS_MAX, ZERO_PAGE, LoadMode, LoadReply, Outcome, Reason

if TYPE_CHECKING:
    from swaptier_client.mm.host import Host


class ReadFolio(NamedTuple):
    """A folio that a fault holds a reference to."""

    folio: Folio
    was_read: bool
    """This fault read it from the tier; else somebody else did."""
    generation: int
    """Of the slot when the read began."""
    in_cache: bool = True
    """It was in the swapcache when the read ended. By now it may be out of it, and its slot another page's."""


def get(folio: Folio) -> Folio:
    """Take a reference. Models: folio_get()."""
    folio.refs += 1
    return folio


def found(folio: Folio, slot: SwapSlot) -> ReadFolio:
    """Take a reference to the slot's swapcache folio, as a lookup does. Models: swap_cache_get_folio()."""
    return ReadFolio(get(folio), was_read=False, generation=slot.generation)


def insert(slot: SwapSlot, folio: Folio) -> None:
    """Bind *folio* to *slot*, whose HAS_CACHE the caller set. Whoever waits for the pin finds the folio now.

    Models: add_to_swap_cache().
    """
    assert slot.is_pinned and folio.is_locked and folio.entry is None
    slot.folio = folio
    slot.reader = None
    folio.entry = slot.entry
    slot.wake()


def remove(host: Host, slot: SwapSlot) -> bool:
    """Unbind the slot's folio. True: nobody uses the slot any more and the caller must free it.

    Models: delete_from_swap_cache(), __remove_mapping().
    """
    folio = slot.folio
    assert folio is not None and folio.is_locked
    slot.folio = None
    slot.is_storing = slot.was_rescued = False
    folio.entry = None
    last = host.device(slot.entry).unpin(slot)
    host.duplication.observe(slot)
    return last


def free_slot(host: Host, slot: SwapSlot) -> Path[None]:
    """Tell the tier that *slot* is free, then make it reusable; see free_slots()."""
    yield from free_slots(host, [slot])


def free_slots(host: Host, slots: list[SwapSlot]) -> Path[None]:
    """Tell the tier that *slots* are free, then make them reusable. Each is pinned and its count is 0.

    The order is the invariant: as long as the tier may hold the old page, no new page may get the slot. A slot
    that the tier could not be told of stays pinned; swapoff tries again.

    Raises:
        SwapTierError: the tier could not be told of some slots; those stay pinned.

    Models: zswap_invalidate() and swap_range_free() at the last swap_free().
    """
    failure: BaseException | None = None
    for start in range(0, len(slots), BATCH_SLOTS_MAX):
        failure = (yield from _free_batch(host, slots[start : start + BATCH_SLOTS_MAX])) or failure
    if failure is not None:
        raise failure


def _free_batch(host: Host, slots: list[SwapSlot]) -> Path[BaseException | None]:
    told: list[SwapSlot] = []
    for slot in slots:
        if slot.in_pool or slot.on_device or slot.in_doubt:
            slot.is_freeing = True
            told.append(slot)
        else:
            _release(host, slot)
    host.orphans.update(slot for slot in told if slot.in_pool)
    failure: BaseException | None = None
    requests = tuple(Invalidate(slot.entry, slot.generation) for slot in told)
    replies = (yield from batch(requests)) if requests else []
    for slot, reply in zip(told, replies, strict=True):
        slot.is_freeing = False
        if isinstance(reply, BaseException):
            failure = host.note_failure(slot, reply)
            slot.wake()
        else:
            slot.in_pool = slot.on_device = slot.in_doubt = False
            host.orphans.discard(slot)
            host.device(slot.entry).note_answer()
            _release(host, slot)
    return failure


def _release(host: Host, slot: SwapSlot) -> None:
    slot.entry_bytes = slot.claim_id = 0
    host.device(slot.entry).release(slot)
    host.duplication.observe(slot)


def try_to_free(host: Host, slot: SwapSlot) -> bool:
    """Unbind the folio of a slot that no page table names, unless another path has it locked.

    True: the caller must free the slot. A folio that somebody maps is dirty from now on: it has no other copy. One that
    is busy stays; reclaim will find it. Models: folio_free_swap(), free_swap_cache().
    """
    folio = slot.folio
    if folio is None or slot.count or not folio.trylock():
        return False
    remove(host, slot)
    folio.dirty = True
    folio.unlock()
    host.end_if_unused(folio)
    return True


def read(host: Host, slot: SwapSlot, neighbours: Sequence[SwapSlot] = ()) -> Path[ReadFolio | None]:
    """Return the slot's swapcache folio with a reference, reading it in if it is not there. None: fault again.

    With it, read ahead those *neighbours* that are swapped out and for which there is memory to spare. The folio may be
    unlocked, not uptodate, or gone from the swapcache by the time the caller holds its lock.

    Raises:
        SwapTierError: as thrown in by the load; the slot is as it was.
        OutOfMemory: definite, nothing was read.

    Models: swapin_readahead(), __read_swap_cache_async() and swap_read_folio().
    """
    if slot.folio is not None:
        return found(slot.folio, slot)
    folio = yield from host.alloc_folio()
    # Recheck: allocating may have slept, and another fault may have been first, or have lost the page.
    if slot.lost is not None:
        host.free_folio(folio)
        return None
    result = host.device(slot.entry).prepare(slot)
    if result is not PrepareResult.OK:
        host.free_folio(folio)
        if slot.folio is not None:
            return found(slot.folio, slot)
        yield from wait_for_pin(host, slot, result)
        return None
    if slot.is_zero:
        insert(slot, folio)
        host.lru.add(folio)
        fill_with_zeros(host, folio)
        folio.unlock()
        return ReadFolio(folio, was_read=True, generation=slot.generation)
    reads = [_begin_read(host, slot, folio), *_begin_readahead(host, neighbours)]
    restarts = [device.restarts for device in host.devices]
    replies = yield from batch(tuple(read.load for read in reads))
    unused: list[SwapSlot] = []
    for begun, reply in zip(reads, replies, strict=True):
        if isinstance(reply, LoadReply):
            take_reply(host, begun.slot, begun.folio, begun.load, reply)
            doubt_if_restarted(host, begun.slot, begun.folio, restarts[begun.slot.entry.type])
        elif isinstance(reply, BaseException):
            host.note_failure(begun.slot, reply)
        is_empty = isinstance(reply, BaseException) or begun.folio.source is Outcome.CLAIMED
        if is_empty and remove(host, begun.slot):
            unused.append(begun.slot)
        begun.folio.unlock()
        if begun.folio is not folio:
            host.put_folio(begun.folio)
    is_empty = isinstance(replies[0], BaseException) or folio.source is Outcome.CLAIMED
    if is_empty or unused:
        # Freeing may fail, and the caller then gets no folio: hold none meanwhile.
        host.put_folio(folio)
    yield from free_slots(host, unused)
    for begun in reads:
        yield from acknowledge(host, begun.slot, begun.folio)
    if isinstance(replies[0], BaseException):
        raise replies[0]
    if is_empty or unused:
        return None
    return ReadFolio(folio, was_read=True, generation=reads[0].load.generation)


class _Read(NamedTuple):
    slot: SwapSlot
    folio: Folio
    load: Load


def _begin_read(host: Host, slot: SwapSlot, folio: Folio) -> _Read:
    """Put the locked *folio* into the swapcache of the pinned *slot*, and name the load that fills it."""
    insert(slot, folio)
    host.lru.add(folio)
    host.duplication.observe(slot)
    return _Read(slot, folio, load_of(host, slot, host.policy.swapcache_mode))


def _begin_readahead(host: Host, neighbours: Sequence[SwapSlot]) -> list[_Read]:
    """Begin reading those *neighbours* that are swapped out, while there is memory. A speculation reclaims nothing."""
    reads: list[_Read] = []
    for slot in neighbours:
        is_swapped_out = slot.count > 0 and not slot.has_cache
        if not is_swapped_out or slot.is_zero or slot.lost is not None or not host.try_charge():
            continue
        prepared = host.device(slot.entry).prepare(slot)
        assert prepared is PrepareResult.OK
        folio = Folio(None)
        folio.is_locked = folio.readahead = True
        reads.append(_begin_read(host, slot, folio))
        host.counters.swap_ra += 1
    return reads


def wait_for_pin(host: Host, slot: SwapSlot, result: PrepareResult) -> Path[None]:
    """Sleep until who pinned *slot* is done; return at once if there is nothing to wait for.

    Models: swapcache_wq. The kernel sleeps one jiffy if no wake-up comes; here every unpin wakes.
    """
    if result is PrepareResult.FREE:
        host.counters.pin_enoent += 1
    else:
        host.counters.pin_waits += 1
        # A pinned slot with no users is being freed: no entry names it any more, so there is nothing to wait for.
        if slot.is_pinned and slot.count:
            yield Wait(slot.wait_queue())


def load_of(host: Host, slot: SwapSlot, mode: LoadMode) -> Load:
    """Name a load of the slot's current version. A claim that has not ended is repeated under its own request id."""
    request_id = slot.claim_id or host.next_request_id()
    if mode is LoadMode.CLAIM:
        slot.claim_id = request_id
    must_match = host.policy.requires_generation or slot.in_doubt
    return Load(slot.entry, slot.generation, mode, request_id, require_generation=must_match)


def acknowledge(host: Host, slot: SwapSlot, folio: Folio) -> Path[None]:
    """End the slot's claim, if it has one: its swapcache *folio*, dirty from now on, has the page.

    The tier is not waited for. Should the acknowledgement be lost, the tier has an older copy until the slot is stored
    again or freed, which is why the slot stays in doubt.
    """
    # A store that is under way supersedes the hand-off, and what it names is not the version that was claimed.
    if slot.claim_id and slot.folio is folio and folio.uptodate and not slot.is_storing:
        claim = Acknowledge(slot.entry, slot.generation, slot.claim_id)
        folio.dirty = True
        slot.claim_id = 0
        slot.in_pool, slot.in_doubt = False, True
        host.duplication.observe(slot)
        yield claim


def fill_with_zeros(host: Host, folio: Folio) -> None:
    """Fill the locked *folio* of a slot that is known to be zeros. Models: swap_read_folio_zeromap()."""
    folio.content = ZERO_PAGE
    folio.uptodate = True
    host.counters.swpin_zero += 1


def take_reply(host: Host, slot: SwapSlot, folio: Folio, asked: Load, reply: LoadReply) -> None:
    """Fill the locked *folio* from *reply*. Afterwards it is uptodate, or `read_error` says why not. Atomic.

    A miss reads the device and is uptodate whatever the device returned: a slot the device was never given reads as
    zeros, and nobody here can tell. That is where silent staleness lives. An error never reads the device instead.

    Models: swap_read_folio() and zswap_load().
    """
    counters = host.counters
    counters.loads += 1
    host.device(slot.entry).note_answer()
    folio.source = reply.outcome
    content = reply.content()
    if reply.outcome is Outcome.CLAIMED:
        # Another claimant has the page, and may give it back or end it: nothing is lost, ask again.
        counters.claim_waits += 1
        slot.claim_id = 0
    elif content is None:
        folio.read_error = _loss_of(reply.reason)
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


def doubt_if_restarted(host: Host, slot: SwapSlot, folio: Folio, restarts: int) -> None:
    """Doubt what a reply said of *slot* if its tier started anew since *restarts*, when the load was made. Atomic.

    The reply may be the word of a server that is gone, with a page that nobody else has now. tier_restarted() could not
    see it: the folio had no page yet. In the swapcache it becomes dirty, so that reclaim stores it again.
    """
    if host.device(slot.entry).restarts == restarts:
        return
    slot.in_doubt = True
    if slot.folio is folio and folio.uptodate:
        folio.dirty = True
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
            # The tier has an older page instead, which it has still to be told to forget.
            slot.lost, slot.in_doubt = folio.read_error, True
        case Outcome.HIT | Outcome.SAME_FILLED if is_settled:
            slot.in_pool, slot.on_device, slot.in_doubt = True, False, False
        case Outcome.DEVICE if is_settled and reply.generation == slot.generation:
            slot.in_pool, slot.on_device, slot.in_doubt = False, True, False


def _loss_of(reason: Reason) -> DetectedLoss:
    match reason:
        case Reason.CHECKSUM:
            return DetectedLoss.CHECKSUM
        case Reason.DECOMPRESS:
            return DetectedLoss.DECOMPRESS
        case Reason.RESTARTED:
            return DetectedLoss.EPOCH
        case _:
            return DetectedLoss.MISS_MUST_EXIST
