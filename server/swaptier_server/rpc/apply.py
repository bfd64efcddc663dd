"""Does to an area what one message asks: all of it, or nothing.

Pure; the one place where a message meets the tier, for unary calls and the stream alike. Rules:
  - Everything is checked before anything is applied, so a message that is refused has changed nothing.
  - There is no wait in here, so a message is one atomic step of the event loop, whatever happens to its call.
"""

from swaptier_server.tier.tier import Area
from swaptier_wire.batches import ReplyBatches, RequestBatches


def apply(area: Area, request: RequestBatches) -> ReplyBatches:
    """Apply the batches of *request*, decoded and thus well formed, to *area*; return a reply for each slot.

    Raises:
        InvalidRequest, UnknownArea: nothing was applied. Definite.
    """
    _, store, load, lookup, acknowledge, invalidate = request
    if store is not None:
        area.check_store(store.offsets, store.generations)
    if load is not None:
        area.check_load(load.offsets, load.modes)
    if lookup is not None:
        area.check_offsets(lookup.offsets)
    if acknowledge is not None:
        area.check_acknowledge(acknowledge.offsets)
    if invalidate is not None:
        area.check_offsets(invalidate.offsets)
    return ReplyBatches(
        store=None if store is None else area.store_many(*store),
        load=None
        if load is None
        else [
            area.load(
                offset,
                generation,
                mode,
                request_id=request_id,
                require_generation=load.require_generation,
                pool_only=load.pool_only,
            )
            for offset, generation, mode, request_id in zip(
                load.offsets, load.generations, load.modes, load.request_ids, strict=True
            )
        ],
        lookup=None if lookup is None else list(map(area.lookup, lookup.offsets)),
        acknowledge=None if acknowledge is None else list(map(area.acknowledge, *acknowledge)),
        invalidate=None if invalidate is None else list(map(area.invalidate, *invalidate)),
    )
