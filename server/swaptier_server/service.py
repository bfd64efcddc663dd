"""The SwapTierService: each RPC decoded, applied to the tier, encoded. The contract is in `swaptier.proto`.

Touches gRPC. Rules of conduct:
  - No handler awaits between decoding a request and having its answer, so no cancellation can split one.
  - Nothing is refused here by hand: what is refused is raised as an error of `swaptier_wire.errors`, and the guard, or
    the stream for one of its messages, turns it into what the client gets.
"""

from collections.abc import AsyncIterator, Callable
from typing import TypeAlias, TypeVar

from grpc import aio

from swaptier.v1 import swaptier_pb2 as pb
from swaptier.v1 import swaptier_pb2_grpc
from swaptier_server.activity import ClientActivity, StreamActivity
from swaptier_server.apply import apply
from swaptier_server.logs import get_log
from swaptier_server.tier.tier import Area, Client, Tier
from swaptier_server.traffic import Traffic
from swaptier_wire import reply_codec, request_codec, status
from swaptier_wire.batches import Header, Replies, Request
from swaptier_wire.errors import ServerDefect, SwapTierError
from swaptier_wire.types import BATCH_SLOTS_MAX, PAGE_BYTES

_Context: TypeAlias = "aio.ServicerContext[object, object]"
_Result = TypeVar("_Result")


class SwapTierService(swaptier_pb2_grpc.SwapTierServiceServicer):
    """Serves one tier."""

    def __init__(self, tier: Tier, activity: ClientActivity, traffic: Traffic, now_ns: Callable[[], int]) -> None:
        """Serve *tier*; note in *activity* who is alive, by the monotonic clock *now_ns*."""
        self._tier = tier
        self._activity = activity
        self._traffic = traffic
        self._now_ns = now_ns
        self._log = get_log()

    # Areas

    async def Swapon(self, request: pb.SwaponRequest, context: _Context) -> pb.SwaponResponse:  # noqa: N802 - contract
        """Open an area."""
        header = request_codec.decode_header(request.header)
        client = _client(header)
        older = self._tier.areas.get(header.area)
        replaced = {} if older is None else {"replaces_epoch": older.client.epoch, "dropped_pages": _held_pages(older)}
        area, is_reopened = self._tier.swapon(
            client, header.area, request.slots, request_codec.decode_options(request.options)
        )
        self._activity.touch(client, self._now_ns())
        if not is_reopened:
            self._log.info(
                "area_opened", **_names(header), slots=area.slots, options=area.options._asdict(), **replaced
            )
        return pb.SwaponResponse(
            server_epoch=self._tier.epoch,
            page_size_bytes=PAGE_BYTES,
            batch_slots_max=BATCH_SLOTS_MAX,
            reopened=is_reopened,
        )

    async def Swapoff(self, request: pb.SwapoffRequest, context: _Context) -> pb.SwapoffResponse:  # noqa: N802 - contract
        """Close an area."""
        header = request_codec.decode_header(request.header)
        client = _client(header)
        dropped_pages = self._tier.swapoff(client, header.area)
        self._activity.touch(client, self._now_ns())
        self._activity.forget_strangers({name: area.client for name, area in self._tier.areas.items()})
        self._log.info("area_closed", **_names(header), dropped_pages=dropped_pages)
        return pb.SwapoffResponse(server_epoch=self._tier.epoch, dropped_pages=dropped_pages)

    async def Stat(self, request: pb.StatRequest, context: _Context) -> pb.StatResponse:  # noqa: N802 - contract
        """Tell an area's counters."""
        area = self._area(request_codec.decode_header(request.header))
        return reply_codec.encode_stat(
            self._tier.epoch,
            reply_codec.AreaStat(
                slots=area.slots,
                stored_pages=area.stored_pages,
                same_filled_pages=area.same_filled_pages,
                pool_bytes=area.pool_bytes,
                device_pages=area.device_pages,
                counters={
                    (row.name, "/".join(value for _, value in row.labels)): row.value for row in area.counters.rows()
                },
            ),
        )

    # Batches

    async def Store(self, request: pb.StoreRequest, context: _Context) -> pb.StoreResponse:  # noqa: N802 - contract
        """Store pages."""
        header = request_codec.decode_header(request.header)
        replies = self._apply(Request(header, store=request_codec.decode_stores(request.batch)))
        response = pb.StoreResponse(server_epoch=self._tier.epoch)
        reply_codec.encode_store_replies(_asked(replies.store), response.result)
        return response

    async def Load(self, request: pb.LoadRequest, context: _Context) -> pb.LoadResponse:  # noqa: N802 - contract
        """Load pages."""
        header = request_codec.decode_header(request.header)
        replies = self._apply(Request(header, load=request_codec.decode_loads(request.batch)))
        response = pb.LoadResponse(server_epoch=self._tier.epoch)
        reply_codec.encode_load_replies(_asked(replies.load), response.result)
        return response

    async def Lookup(self, request: pb.LookupRequest, context: _Context) -> pb.LookupResponse:  # noqa: N802 - contract
        """Tell which slots the pool holds."""
        header = request_codec.decode_header(request.header)
        replies = self._apply(Request(header, lookup=request_codec.decode_lookups(request.batch)))
        response = pb.LookupResponse(server_epoch=self._tier.epoch)
        reply_codec.encode_lookup_replies(_asked(replies.lookup), response.result)
        return response

    async def Acknowledge(  # noqa: N802 - contract
        self, request: pb.AcknowledgeRequest, context: _Context
    ) -> pb.AcknowledgeResponse:
        """End hand-offs: refused, until claims are built."""
        header = request_codec.decode_header(request.header)
        replies = self._apply(Request(header, acknowledge=request_codec.decode_acknowledges(request.batch)))
        response = pb.AcknowledgeResponse(server_epoch=self._tier.epoch)
        reply_codec.encode_acknowledge_replies(_asked(replies.acknowledge), response.result)
        return response

    async def Invalidate(  # noqa: N802 - contract
        self, request: pb.InvalidateRequest, context: _Context
    ) -> pb.InvalidateResponse:
        """Forget slots that became free."""
        header = request_codec.decode_header(request.header)
        replies = self._apply(Request(header, invalidate=request_codec.decode_invalidates(request.batch)))
        response = pb.InvalidateResponse(server_epoch=self._tier.epoch)
        reply_codec.encode_invalidate_replies(_asked(replies.invalidate), response.result)
        return response

    async def Exchange(  # type: ignore[override]  # noqa: N802 - contract; aio also takes a handler that is a coroutine
        self,
        request_iterator: AsyncIterator[pb.ExchangeRequest],
        context: "aio.ServicerContext[pb.ExchangeRequest, pb.ExchangeResponse]",
    ) -> None:
        """Answer the stream's messages, one after the other.

        The next message is read when the last answer is on its way, so a client that does not read its answers is held
        up by flow control, and the server's memory is not.

        Raises:
            Draining: the server shuts down, and every message without an answer had no effect. Definite.
        """
        with self._traffic.stream() as stream, StreamActivity(self._activity, self._now_ns) as speaker:
            while (message := await stream.next(context.read)) is not None:
                await context.write(self._answer(message, speaker))

    def _answer(self, message: pb.ExchangeRequest, speaker: StreamActivity) -> pb.ExchangeResponse:
        """Return the answer to one message: its replies, or why it was refused and changed nothing."""
        try:
            request = request_codec.decode_exchange_request(message)
            area = self._area(request.header)
            speaker.speak_for(area.client)
            replies = apply(area, request)
        except ServerDefect:
            raise  # it may have changed something, which an error in a stream's answer denies: the stream breaks
        except SwapTierError as error:
            return status.encode_exchange_error(self._tier.epoch, message.header.request_id, error)
        return reply_codec.encode_exchange_response(self._tier.epoch, request.header.request_id, replies)

    def _apply(self, request: Request) -> Replies:
        return apply(self._area(request.header), request)

    def _area(self, header: Header) -> Area:
        """Return the area that *header* names; its client is alive."""
        area = self._tier.area(_client(header), header.area)
        self._activity.touch(area.client, self._now_ns())
        return area


def _held_pages(area: Area) -> int:
    """Return how many pages would be lost with *area*: in the pool, and on its device where the pool refused them."""
    return area.stored_pages + area.device_pages


def _client(header: Header) -> Client:
    return Client(header.client_id, header.client_epoch)


def _names(header: Header) -> dict[str, str | int]:
    """Return what a log line says of a request."""
    return {
        "area": header.area,
        "client": header.client_id,
        "client_epoch": header.client_epoch,
        "client_request_id": header.request_id,
    }


def _asked(replies: list[_Result] | None) -> list[_Result]:
    """Return the *replies* of the one batch that the request had."""
    assert replies is not None, "what is asked is answered"
    return replies
