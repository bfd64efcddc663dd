"""Does to an area what one message asks: all of it, or nothing.

Pure; the one place where a message meets the tier, for unary calls and the stream alike. Rules:
  - Everything is checked before anything is applied, so a message that is refused has changed nothing.
  - There is no wait in here, so a message is one atomic step of the event loop, whatever happens to its call.
"""

from itertools import repeat

from swaptier_server.tier.area import Area
from swaptier_server.tier.free import acknowledge, invalidate
from swaptier_server.tier.load import check_load, load, lookup
from swaptier_server.tier.store import check_store, store_many
from swaptier_wire.batches import ReplyBatches, RequestBatches


def apply(area: Area, request: RequestBatches) -> ReplyBatches:
    """Apply the batches of *request*, decoded and thus well formed, to *area*; return a reply for each slot.

    Raises:
        InvalidRequest, UnknownArea: nothing was applied. Definite.
    """
    _, stores, loads, lookups, acknowledgements, invalidations = request
    if stores is not None:
        check_store(area, stores.offsets, stores.generations)
    if loads is not None:
        check_load(area, loads.offsets, loads.modes)
    for batch in (lookups, acknowledgements, invalidations):
        if batch is not None:
            area.check_offsets(batch.offsets)
    return ReplyBatches(
        store=None if stores is None else store_many(area, *stores),
        load=None
        if loads is None
        else [
            load(
                area,
                offset,
                generation,
                mode,
                request_id=request_id,
                require_generation=loads.require_generation,
                pool_only=loads.pool_only,
            )
            for offset, generation, mode, request_id in zip(
                loads.offsets, loads.generations, loads.modes, loads.request_ids, strict=True
            )
        ],
        lookup=None if lookups is None else [lookup(area, offset) for offset in lookups.offsets],
        acknowledge=None if acknowledgements is None else list(map(acknowledge, repeat(area), *acknowledgements)),
        invalidate=None if invalidations is None else list(map(invalidate, repeat(area), *invalidations)),
    )
