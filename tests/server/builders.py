"""How the tests of the tier and of its swap file put a page into an area."""

from swaptier_server.tier.area import Area
from swaptier_server.tier.store import store
from swaptier_server.tier.swap_file import Client
from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import SlotReply

HOST = Client("host", 1)


def put(area: Area, offset: int, generation: int, page: bytes) -> SlotReply:
    """Store *page*, with the checksum that it has."""
    return store(area, offset, generation, page, page_checksum(page))
