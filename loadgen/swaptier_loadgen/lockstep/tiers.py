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
from swaptier_server.tier.free import acknowledge, invalidate
from swaptier_server.tier.load import check_load, load, lookup
from swaptier_server.tier.store import check_store, store
from swaptier_server.tier.swap_file import Client
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.checksum import page_checksum
from swaptier_wire.errors import SwapTierError
from swaptier_wire.types import AreaOptions


class InProcessTiers:
    """Performs a host's requests on the areas behind its swap devices, each at once and whole."""

    def __init__(self, areas: Sequence[Area]) -> None:
        self.areas = areas

    def perform(self, effect: Request | Batch) -> Reply:
        """Apply *effect* and return what the path that yielded it is to be sent.

        Raises:
            SwapTierError: the request failed; in a batch the error stands in its reply's place.
        """
        if isinstance(effect, Batch):
            return [self._perform_or_error(request) for request in effect.requests]
        return self.perform_one(effect)

    def _perform_or_error(self, request: Request) -> RequestReply | BaseException:
        try:
            return self.perform_one(request)
        except SwapTierError as error:
            return error

    def perform_one(self, request: Request) -> RequestReply:
        """Apply one request; see perform()."""
        area = self.areas[request.entry.type]
        offset = request.entry.offset
        match request:
            case Load():
                check_load(area, [offset], [request.mode])
                return load(
                    area,
                    offset,
                    request.generation,
                    request.mode,
                    request_id=request.request_id,
                    require_generation=request.require_generation,
                )
            case Store():
                check_store(area, [offset], [request.generation])
                return store(area, offset, request.generation, request.page, page_checksum(request.page))
            case Lookup():
                area.check_offsets([offset])
                return lookup(area, offset)
            case Invalidate():
                area.check_offsets([offset])
                return invalidate(area, offset, request.generation)
            case Acknowledge():
                area.check_offsets([offset])
                return acknowledge(area, offset, request.generation, request.request_id)


def one_area(name: str, slots: int, pool_bytes_max: int, *, device_free_on_read: bool = False) -> InProcessTiers:
    """Return a new tier with one open area of *slots* slots."""
    tier = Tier(TierLimits(pool_bytes_max=pool_bytes_max), epoch=1)
    area, _ = tier.swapon(Client(name, 1), name, slots, AreaOptions(device_free_on_read=device_free_on_read))
    return InProcessTiers([area])
