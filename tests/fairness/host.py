"""A host of the fairness bench: its pages, and its batches as messages of the stream or as unary calls.

Touches gRPC. Messages are made once and only their generations change, so that clients take little of their core.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from grpc import aio
from tests.server.pki import bearer

from swaptier.v1 import swaptier_pb2 as pb
from swaptier.v1 import swaptier_pb2_grpc
from swaptier_server.rpc.server import channel_options
from swaptier_wire import request_codec
from swaptier_wire.batches import Header, Invalidates, Loads, Lookups, RequestBatches, Stores
from swaptier_wire.channels import open_channel
from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import BATCH_SLOTS_MAX, PAGE_BYTES, ZERO_PAGE, LoadMode

Stream = aio.StreamStreamCall[pb.ExchangeRequest, pb.ExchangeResponse]

PAGES: Final = [
    bytes((number * 7 + byte * byte) % 251 for byte in range(PAGE_BYTES // 2)) + bytes(PAGE_BYTES // 2)
    for number in range(BATCH_SLOTS_MAX)
]
"""Pages that lz4 makes half as long, about, as those of programs are."""
CHECKSUMS: Final = [page_checksum(page) for page in PAGES]
ZERO_CHECKSUM: Final = page_checksum(ZERO_PAGE)


class Host:
    """One area of one tenant."""

    def __init__(self, address: str, tenant: str, area: str) -> None:
        """Talk to the server at *address* over a connection of its own."""
        options = [*channel_options(BATCH_SLOTS_MAX), ("grpc.use_local_subchannel_pool", 1)]
        self._metadata: Final = bearer(tenant)
        self._channel: Final = open_channel(address, options=options)
        self._stub: Final = swaptier_pb2_grpc.SwapTierServiceStub(self._channel)
        self._header: Final = Header(f"host-of-{area}", 1, 5, area)

    async def swapon(self, slots: int) -> None:
        """Open the area."""
        header = request_codec.encode_header(self._header)
        await self._stub.Swapon(pb.SwaponRequest(header=header, slots=slots), metadata=self._metadata)

    async def swapoff(self) -> None:
        """Close the area."""
        header = request_codec.encode_header(self._header)
        await self._stub.Swapoff(pb.SwapoffRequest(header=header), metadata=self._metadata)

    async def look_up(self) -> None:
        """Ask for one slot in a call of its own."""
        request = pb.LookupRequest(header=request_codec.encode_header(self._header))
        request.batch.offsets.append(0)
        await self._stub.Lookup(request, metadata=self._metadata)

    async def see_server(self) -> None:
        """Ask for something that needs no area; return when the server has answered."""
        request = pb.LookupRequest()
        with suppress(aio.AioRpcError):
            await self._stub.Lookup(request, metadata=self._metadata)

    def stream(self) -> Stream:
        """Return a new stream."""
        return self._stub.Exchange(metadata=self._metadata)

    async def close(self) -> None:
        """End what is open."""
        await self._channel.close()

    def lookup(self) -> pb.ExchangeRequest:
        """Return the message that looks one slot up."""
        return request_codec.encode_exchange_request(RequestBatches(self._header, lookup=Lookups([0])))

    def stores(self, offsets: Sequence[int], generation: int) -> pb.ExchangeRequest:
        """Return the message that stores a page of PAGES in each of *offsets*."""
        chosen = [offset % len(PAGES) for offset in offsets]
        pages, checksums = [PAGES[one] for one in chosen], [CHECKSUMS[one] for one in chosen]
        batch = Stores(list(offsets), [generation] * len(chosen), pages, checksums)
        return request_codec.encode_exchange_request(RequestBatches(self._header, store=batch))

    def zero_stores(self, offsets: Sequence[int]) -> pb.ExchangeRequest:
        """Return the message that stores zeros in each of *offsets*, which take no memory of the pool."""
        slots = len(offsets)
        batch = Stores(list(offsets), [1] * slots, [ZERO_PAGE] * slots, [ZERO_CHECKSUM] * slots)
        return request_codec.encode_exchange_request(RequestBatches(self._header, store=batch))

    def loads(self, offsets: Sequence[int], mode: LoadMode = LoadMode.SHARED) -> pb.ExchangeRequest:
        """Return the message that loads *offsets*."""
        slots = len(offsets)
        batch = Loads(list(offsets), [1] * slots, [mode] * slots, [0] * slots)
        return request_codec.encode_exchange_request(RequestBatches(self._header, load=batch))

    def invalidates(self, offsets: Sequence[int], generation: int) -> pb.ExchangeRequest:
        """Return the message that frees *offsets*."""
        batch = Invalidates(list(offsets), [generation] * len(offsets))
        return request_codec.encode_exchange_request(RequestBatches(self._header, invalidate=batch))


def raise_generations(message: pb.ExchangeRequest, generation: int) -> pb.ExchangeRequest:
    """Return the *message* of stores with another *generation* for all of them."""
    message.store.generations[:] = [generation] * len(message.store.offsets)
    return message
