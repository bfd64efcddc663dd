"""Does to an area what one message asks: all of it, or nothing.

Pure; the one place where a message meets the tier, for unary calls and the stream alike. Rules:
  - Everything is checked before anything is applied, so a message that is refused has changed nothing.
  - What is applied is applied in slices; see `swaptier_server.tier.slices`. Who runs them runs all of them.
"""

from functools import partial

from swaptier_server.tier.area import Area
from swaptier_server.tier.free import acknowledge, invalidate
from swaptier_server.tier.load import check_load, load, lookup
from swaptier_server.tier.slices import Slices, in_slices
from swaptier_server.tier.store import check_store, store_in_slices
from swaptier_wire.batches import ReplyBatches, RequestBatches


def apply(area: Area, request: RequestBatches) -> Slices[ReplyBatches]:
    """Apply the batches of *request*, decoded and thus well formed, to *area*; return a reply for each slot.

    Yields after each slice how many slots it was about. No other message is in progress in *area*.

    Raises:
        InvalidRequest, UnknownArea, LimitReached: nothing was applied. Definite.
    """
    _, stores, loads, lookups, acknowledgements, invalidations = request
    if stores is not None:
        check_store(area, stores.offsets, stores.generations)
    leases = 0 if loads is None else check_load(area, loads.offsets, loads.modes)
    for batch in (lookups, acknowledgements, invalidations):
        if batch is not None:
            area.check_offsets(batch.offsets)
    with area.message(leases):
        stored = loaded = found = acknowledged = invalidated = None
        if stores is not None:
            stored = yield from store_in_slices(area, *stores)
        if loads is not None:
            load_one = partial(load, area, require_generation=loads.require_generation, pool_only=loads.pool_only)
            columns = loads.offsets, loads.generations, loads.modes, loads.request_ids
            loaded = yield from in_slices(load_one, *columns)
        if lookups is not None:
            found = yield from in_slices(partial(lookup, area), lookups.offsets)
        if acknowledgements is not None:
            acknowledged = yield from in_slices(partial(acknowledge, area), *acknowledgements)
        if invalidations is not None:
            invalidated = yield from in_slices(partial(invalidate, area), *invalidations)
    return ReplyBatches(stored, loaded, found, acknowledged, invalidated)
