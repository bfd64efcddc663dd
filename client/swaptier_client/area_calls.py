"""The unary calls about one area: open it, close it, ask for its counters; and the opening of its stream.

Touches the network (grpc.aio). A status becomes the SwapTierError it stands for; nothing is tried twice.
"""

import asyncio
from collections.abc import Awaitable
from typing import NamedTuple, TypeAlias, TypeVar

from grpc import aio

from swaptier.v1 import swaptier_pb2 as pb
from swaptier.v1 import swaptier_pb2_grpc as pb_grpc
from swaptier_wire import status
from swaptier_wire.batches import Header
from swaptier_wire.errors import InvalidRequest, TierUnreachable
from swaptier_wire.reply_codec import AreaStat, decode_stat
from swaptier_wire.request_codec import encode_header, encode_options
from swaptier_wire.types import PAGE_BYTES, AreaOptions

T = TypeVar("T")
Sent = TypeVar("Sent")
Got = TypeVar("Got")

ExchangeCall: TypeAlias = "aio.StreamStreamCall[pb.ExchangeRequest, pb.ExchangeResponse]"


class HostArea(NamedTuple):
    """The area a host opens, and the host's identity."""

    client_id: str
    client_epoch: int
    """Rises each time the host starts; a higher one takes the area over."""
    name: str
    slots: int
    options: AreaOptions = AreaOptions()

    def header(self, request_id: int = 0) -> Header:
        """Return the header of a request about this area."""
        return Header(self.client_id, self.client_epoch, request_id, self.name)


class AreaCalls:
    """Calls about *area* over a connected channel, each answered within *deadline_seconds*.

    *metadata* goes with every one of them: it identifies the caller.
    """

    def __init__(
        self,
        channel: aio.Channel,
        area: HostArea,
        deadline_seconds: float,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._stub = pb_grpc.SwapTierServiceStub(channel)
        self._area = area
        self._header = encode_header(area.header())
        self._deadline_seconds = deadline_seconds
        self._metadata = metadata

    async def swapon(self, seen_server_epoch: int = 0, seen_incarnation: int = 0) -> pb.SwaponResponse:
        """Open the area, or find it open; return the server's answer.

        *seen_server_epoch* and *seen_incarnation* are those of the last answer about this area, 0 without one: a server
        that does not have the area, or has another opening of it, says of its pages that a restart lost them.

        Raises:
            SwapTierError: as the contract's Swapon.
        """
        request = pb.SwaponRequest(
            header=self._header,
            slots=self._area.slots,
            options=encode_options(self._area.options),
            seen_server_epoch=seen_server_epoch,
            seen_incarnation=seen_incarnation,
        )
        response = await self._answer(self._stub.Swapon, request)
        if response.page_size_bytes != PAGE_BYTES:
            raise InvalidRequest(
                f"the server's pages have {response.page_size_bytes} bytes and this host's {PAGE_BYTES}. No page was "
                "sent; compare the versions of client and server"
            )
        return response

    async def swapoff(self) -> int:
        """Close the area; return how many pages the pool still held.

        Raises:
            SwapTierError: as the contract's Swapoff.
        """
        return (await self._answer(self._stub.Swapoff, pb.SwapoffRequest(header=self._header))).dropped_pages

    async def stat(self) -> AreaStat:
        """Return what the area holds, and its counters.

        Raises:
            SwapTierError: as the contract's Stat.
        """
        return decode_stat(await self._answer(self._stub.Stat, pb.StatRequest(header=self._header)))

    def exchange(self) -> ExchangeCall:
        """Start the ordered stream."""
        return self._stub.Exchange(metadata=self._metadata)

    async def _answer(self, call: "aio.UnaryUnaryMultiCallable[Sent, Got]", request: Sent) -> Got:
        """Return the answer to *request*, or raise its status as our error."""
        try:
            return await call(request, timeout=self._deadline_seconds, metadata=self._metadata)
        except aio.AioRpcError as error:
            raise status.from_rpc_error(error) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # This task was not cancelled: gRPC raises this in a call whose channel was closed under it.
            raise TierUnreachable("the connection was closed; whether the request took effect is unknown") from None


def status_now(call: "aio.StreamStreamCall[Sent, Got]") -> aio.AioRpcError:
    """Return the status *call* has just ended with, from within its done callback.

    A write that fails because the server ended the stream overwrites the server's status with INTERNAL "Internal error
    from Core" (grpc/grpc issue 36066, open as of grpcio 1.85), and with it whether the unanswered requests had an
    effect. The done callback runs before that.
    """
    trailing_metadata = _ready(call.trailing_metadata())
    return aio.AioRpcError(_ready(call.code()), aio.Metadata(), trailing_metadata, details=_ready(call.details()))


def _ready(value: Awaitable[T]) -> T:
    """Return the result of an awaitable that does not have to wait."""
    steps = value.__await__()
    try:
        next(steps)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # a generator's return value has no type in StopIteration
    raise AssertionError("the call has not ended")
