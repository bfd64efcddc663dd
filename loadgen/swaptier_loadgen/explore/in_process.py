"""The tier's side of an effect, in one process: what the stream and the server do between a yield and its reply.

Pure. One area of the real tier stands behind each swap device of a host.
"""

from collections.abc import Sequence

from swaptier_client.mm.effects import (
    Acknowledge,
    Batch,
    Invalidate,
    Load,
    Lookup,
    Reply,
    Request,
    RequestReply,
    Store,
)
from swaptier_server.tier.area import Area
from swaptier_wire.types import page_checksum


class InProcessTiers:
    """Performs a host's requests on the areas behind its swap devices, each at once and whole."""

    def __init__(self, areas: Sequence[Area]) -> None:
        self.areas = tuple(areas)

    def perform(self, effect: Request | Batch) -> Reply:
        """Apply *effect* and return what the coroutine that yielded it is to be sent.

        Raises:
            SwapTierError: the area refused the request whole; nothing changed. Definite.
        """
        if isinstance(effect, Batch):
            return [self.perform_one(request) for request in effect.requests]
        return self.perform_one(effect)

    def perform_one(self, request: Request) -> RequestReply:
        """Apply one request; see perform()."""
        area = self.areas[request.entry.type]
        offset = request.entry.offset
        match request:
            case Load():
                area.check_load([offset], [request.mode])
                return area.load(
                    offset,
                    request.generation,
                    request.mode,
                    request_id=request.request_id,
                    require_generation=request.require_generation,
                )
            case Store():
                area.check_store([offset], [request.generation])
                return area.store(offset, request.generation, request.page, page_checksum(request.page))
            case Lookup():
                area.check_offsets([offset])
                return area.lookup(offset)
            case Invalidate():
                area.check_offsets([offset])
                return area.invalidate(offset, request.generation)
            case Acknowledge():
                area.check_acknowledge([offset])
                return area.acknowledge(offset, request.generation, request.request_id)
