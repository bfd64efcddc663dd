"""The swapcache: uncompressed folios bound to slots, at most one a slot, found by every fault on the slot.

Pure. A folio enters locked and under HAS_CACHE, and leaves locked. The path that inserts it reads it; a path
that finds it waits for the lock, then rechecks that the folio is still in the cache for the slot, because the lock's
last holder may have removed it.

Models: mm/swap_state.c (add_to_swap_cache(), __read_swap_cache_async(), delete_from_swap_cache()).
"""

from collections.abc import Sequence
from typing import NamedTuple

from swaptier_client.mm import backing
from swaptier_client.mm.effects import Acknowledge, Invalidate, Load, Path, Wait
from swaptier_client.mm.folio import Folio
from swaptier_client.mm.host import Host, end_if_unused, put_folio, try_charge
from swaptier_client.mm.lost_reply import batch
from swaptier_client.mm.swap_map import PrepareResult, SwapSlot
from swaptier_wire.types import BATCH_SLOTS_MAX, ZERO_PAGE, LoadMode, LoadReply, Outcome


class ReadFolio(NamedTuple):
    """A folio that a fault holds a reference to."""

    folio: Folio
    was_read: bool
    """This fault read it from the tier; else another path did."""
    generation: int
    """Of the slot when the read began."""
    in_cache: bool = True
    """It was in the swapcache when the read ended. By now it may be out of it, and its slot another page's."""


def found(folio: Folio, slot: SwapSlot) -> ReadFolio:
    """Take a reference to the slot's swapcache folio, as a lookup does. Models: swap_cache_get_folio()."""
    return ReadFolio(folio.get(), was_read=False, generation=slot.generation)


def insert(slot: SwapSlot, folio: Folio) -> None:
    """Bind *folio* to *slot*, whose HAS_CACHE the caller set. Paths that wait for the pin find it now.

    Models: add_to_swap_cache().
    """
    assert slot.is_pinned and folio.is_locked and folio.entry is None
    slot.folio = folio
    slot.reader = None
    folio.entry = slot.entry
    slot.wake()


def remove(host: Host, slot: SwapSlot) -> bool:
    """Unbind the slot's folio. True: the slot has no use left and the caller must free it.

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


def free_slots(host: Host, slots: list[SwapSlot]) -> Path[None]:
    """Invalidate *slots* in the tier, then make them reusable. Each is pinned and its count is 0.

    The order is the invariant: as long as the tier may hold the old page, no new page may get the slot. A slot
    whose invalidation failed stays pinned; swapoff tries again.

    Raises:
        SwapTierError: some invalidations failed; those slots stay pinned.

    Models: zswap_invalidate() and swap_range_free() at the last swap_free().
    """
    failure: BaseException | None = None
    for start in range(0, len(slots), BATCH_SLOTS_MAX):
        failure = (yield from _free_batch(host, slots[start : start + BATCH_SLOTS_MAX])) or failure
    if failure is not None:
        raise failure


def _free_batch(host: Host, slots: list[SwapSlot]) -> Path[BaseException | None]:
    held: list[SwapSlot] = []
    for slot in slots:
        if slot.in_pool or slot.on_device or slot.in_doubt:
            slot.is_freeing = True
            held.append(slot)
        else:
            _release(host, slot)
    host.orphans.update(slot for slot in held if slot.in_pool)
    failure: BaseException | None = None
    requests = tuple(Invalidate(slot.entry, slot.generation) for slot in held)
    replies = (yield from batch(requests)) if requests else []
    for slot, reply in zip(held, replies, strict=True):
        slot.is_freeing = False
        if isinstance(reply, BaseException):
            failure = backing.note_failure(host, slot, reply)
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

    True: the caller must free the slot. A mapped folio is dirty from now on: it has no other copy. One that
    is busy stays; reclaim will find it. Models: folio_free_swap(), free_swap_cache().
    """
    folio = slot.folio
    if folio is None or slot.count or not folio.trylock():
        return False
    remove(host, slot)
    folio.dirty = True
    folio.unlock()
    end_if_unused(host, folio)
    return True


def read(host: Host, slot: SwapSlot, folio: Folio, neighbours: Sequence[SwapSlot]) -> Path[ReadFolio | None]:
    """Read *slot* into the new *folio*, unless the slot has one by now; return its folio. None: fault again.

    With it, read ahead those *neighbours* that are swapped out and for which there is memory to spare. The folio may be
    unlocked, not uptodate, or gone from the swapcache by the time the caller holds its lock.

    Raises:
        SwapTierError: as thrown in by the load; the slot is as it was.

    Models: __read_swap_cache_async() and swap_read_folio().
    """
    # Recheck: allocating may have slept, and another fault may have been first, or have lost the page.
    if slot.lost is not None:
        folio.unlock()
        put_folio(host, folio)
        return None
    result = host.device(slot.entry).prepare(slot)
    if result is not PrepareResult.OK:
        folio.unlock()
        put_folio(host, folio)
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
            backing.take_load_reply(host, begun.slot, begun.folio, begun.load, reply)
            backing.doubt_if_restarted(host, begun.slot, begun.folio, restarts[begun.slot.entry.type])
        elif isinstance(reply, BaseException):
            backing.note_failure(host, begun.slot, reply)
        is_empty = isinstance(reply, BaseException) or begun.folio.source is Outcome.CLAIMED
        if is_empty and remove(host, begun.slot):
            unused.append(begun.slot)
        begun.folio.unlock()
        if begun.folio is not folio:
            put_folio(host, begun.folio)
    is_empty = isinstance(replies[0], BaseException) or folio.source is Outcome.CLAIMED
    if is_empty or unused:
        # Freeing may fail, and the caller then gets no folio: hold none meanwhile.
        put_folio(host, folio)
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
        if not is_swapped_out or slot.is_zero or slot.lost is not None or not try_charge(host):
            continue
        prepared = host.device(slot.entry).prepare(slot)
        assert prepared is PrepareResult.OK
        reads.append(_begin_read(host, slot, Folio(None, is_locked=True, readahead=True)))
        host.counters.swap_ra += 1
    return reads


def wait_for_pin(host: Host, slot: SwapSlot, result: PrepareResult) -> Path[None]:
    """Sleep until the pin of *slot* is dropped; return at once if there is nothing to wait for.

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
