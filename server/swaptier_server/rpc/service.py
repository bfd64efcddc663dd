"""The SwapTierService: each RPC decoded, applied to the tier, encoded. The contract is in `swaptier.proto`.

Touches gRPC. Rules of conduct:
  - A handler does its work in its caller's turns, in slices (see `turns`): once begun it is run to its end, so no
    cancellation can split a request. After a slice everything may have changed but the area of a message in progress.
  - A header counts only together with who calls: `_header` gives it the names that no other tenant can say.
  - Nothing is refused here by hand: what is refused is raised as an error of `swaptier_wire.errors`, and the guard, or
    the stream for one of its messages, turns it into what the client gets.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import wraps
from typing import Final, Protocol, TypeAlias, TypeVar

from grpc import aio

from swaptier.v1 import swaptier_pb2 as pb
from swaptier.v1 import swaptier_pb2_grpc
from swaptier_server.access.access import Caller
from swaptier_server.access.tenants import Tenants, qualified
from swaptier_server.rpc.activity import ClientActivity, StreamActivity
from swaptier_server.rpc.apply import apply
from swaptier_server.rpc.call import GuardedCall, guarded_call
from swaptier_server.rpc.callers import Callers
from swaptier_server.rpc.turns import BLOCKED
from swaptier_server.tier.area import Area, Durability
from swaptier_server.tier.slices import SLICE_SLOTS, Slices
from swaptier_server.tier.swap_file import Client
from swaptier_server.tier.tier import Tier
from swaptier_wire import reply_codec, request_codec, status
from swaptier_wire.batches import Header, ReplyBatches, RequestBatches
from swaptier_wire.errors import LimitReached, ServerDefect, SwapTierError
from swaptier_wire.types import BATCH_SLOTS_MAX, PAGE_BYTES

REFUSED_SECONDS: Final = 0.02
"""From the refusal of a message to the next one of its stream. gRPC takes apart what a connection has sent in the
thread that does something there next, and that is the loop's: 13 ms for a window full of empty messages."""

_Context: TypeAlias = "aio.ServicerContext[object, object]"
_Request = TypeVar("_Request")
_Result = TypeVar("_Result")


class _WithHeader(Protocol):
    """Any request of the contract."""

    @property
    def header(self) -> pb.RequestHeader:
        """Who asks, and for which area."""


def _in_turn(
    handler: Callable[["SwapTierService", _Request, GuardedCall], Slices[_Result]],
) -> Callable[["SwapTierService", _Request, _Context], Awaitable[_Result]]:
    """Let *handler* be run in its caller's turns."""

    @wraps(handler)
    async def handle(self: "SwapTierService", request: _Request, context: _Context) -> _Result:
        call = guarded_call(context)
        return await call.in_turn(handler(self, request, call))

    return handle


class SwapTierService(swaptier_pb2_grpc.SwapTierServiceServicer):
    """Serves one tier."""

    def __init__(
        self,
        tier: Tier,
        activity: ClientActivity,
        tenants: Tenants,
        callers: Callers,
        after_request: Callable[[], None],
        now_ns: Callable[[], int],
        batch_slots_max: int = BATCH_SLOTS_MAX,
    ) -> None:
        """Serve *tier*; note in *activity* who is alive, by the monotonic clock *now_ns*.

        *after_request* is called after every message that was applied; *batch_slots_max* is the most slots that one
        message may name.
        """
        self._tier = tier
        self._activity = activity
        self._tenants = tenants
        self._after_request = after_request
        self._batch_slots_max = batch_slots_max
        self._now_ns = now_ns
        self._callers = callers
        self._log = callers.log

    # Areas

    @_in_turn
    def Swapon(self, request: pb.SwaponRequest, context: GuardedCall) -> Slices[pb.SwaponResponse]:  # noqa: N802 - contract
        """Open an area."""
        header = self._header(request, context)
        client = _client(header)
        yield SLICE_SLOTS
        while any(area.is_in_message for area in self._tier.areas.values() if area.client.id == client.id):
            yield BLOCKED  # it may end those of an older epoch
        older = self._tier.areas.get(header.area)
        replaced = {} if older is None else {"replaces_epoch": older.client.epoch, "dropped_pages": _held_pages(older)}
        options = request_codec.decode_options(request.options)
        tenant = context.caller.tenant
        self._tenants.check_swapon(tenant, self._tier.areas.values(), client, header.area, request.slots, options)
        area, is_reopened = self._tier.swapon(
            client,
            header.area,
            request.slots,
            options,
            seen_server_epoch=request.seen_server_epoch,
            seen_incarnation=request.seen_incarnation,
        )
        self._activity.touch(client, self._now_ns())
        self._after_request()
        if area.server_epoch not in (self._tier.epoch, request.seen_server_epoch):
            self._log.of(tenant, "server_epoch_was_higher").warning(
                "server_epoch_was_higher",
                **_names(header),
                seen_server_epoch=request.seen_server_epoch,
                server_epoch=self._tier.epoch,
                meaning="the clock was set back since an earlier server: this host is served in an epoch above that",
            )
        if not is_reopened and older is not None and older.client == client:
            self._log.of(tenant, "area_was_another").warning(
                "area_was_another",
                **_names(header),
                meaning="its host knew a later opening: the swap file was put back to an older state, and nothing of "
                "that is served to this host",
            )
        if not is_reopened:
            # Its client's lives that are over, too: it may begin a new one with every call.
            self._activity.forget_strangers({name: area.client for name, area in self._tier.areas.items()})
            log = self._log.of(tenant, "area_opened")
            log.info("area_opened", **_names(header), slots=area.slots, options=area.options._asdict(), **replaced)
        return pb.SwaponResponse(
            server_epoch=area.server_epoch,
            page_size_bytes=PAGE_BYTES,
            batch_slots_max=self._batch_slots_max,
            reopened=is_reopened,
            incarnation=area.incarnation,
            writes_through=self._tier.durability is Durability.WRITE_THROUGH,
        )

    @_in_turn
    def Swapoff(self, request: pb.SwapoffRequest, context: GuardedCall) -> Slices[pb.SwapoffResponse]:  # noqa: N802 - contract
        """Close an area."""
        header = self._header(request, context)
        client = _client(header)
        yield SLICE_SLOTS
        area = yield from self.area_of(header)
        dropped_pages = self._tier.swapoff(client, header.area)
        self._activity.touch(client, self._now_ns())
        self._after_request()
        self._activity.forget_strangers({name: area.client for name, area in self._tier.areas.items()})
        log = self._log.of(context.caller.tenant, "area_closed")
        log.info("area_closed", **_names(header), dropped_pages=dropped_pages)
        return pb.SwapoffResponse(server_epoch=area.server_epoch, dropped_pages=dropped_pages)

    @_in_turn
    def Stat(self, request: pb.StatRequest, context: GuardedCall) -> Slices[pb.StatResponse]:  # noqa: N802 - contract
        """Tell an area's counters."""
        yield SLICE_SLOTS
        area = yield from self.area_of(self._header(request, context))
        return reply_codec.encode_stat(
            area.server_epoch,
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

    @_in_turn
    def Store(self, request: pb.StoreRequest, context: GuardedCall) -> Slices[pb.StoreResponse]:  # noqa: N802 - contract
        """Store pages."""
        header = self._header(request, context)
        area, replies = yield from self.asked_of(
            RequestBatches(header, store=request_codec.decode_stores(request.batch))
        )
        response = pb.StoreResponse(server_epoch=area.server_epoch)
        reply_codec.encode_store_replies(_asked(replies.store), response.result)
        return response

    @_in_turn
    def Load(self, request: pb.LoadRequest, context: GuardedCall) -> Slices[pb.LoadResponse]:  # noqa: N802 - contract
        """Load pages."""
        header = self._header(request, context)
        area, replies = yield from self.asked_of(RequestBatches(header, load=request_codec.decode_loads(request.batch)))
        response = pb.LoadResponse(server_epoch=area.server_epoch)
        reply_codec.encode_load_replies(_asked(replies.load), response.result)
        return response

    @_in_turn
    def Lookup(self, request: pb.LookupRequest, context: GuardedCall) -> Slices[pb.LookupResponse]:  # noqa: N802 - contract
        """Tell which slots the pool holds."""
        header = self._header(request, context)
        area, replies = yield from self.asked_of(
            RequestBatches(header, lookup=request_codec.decode_lookups(request.batch))
        )
        response = pb.LookupResponse(server_epoch=area.server_epoch)
        reply_codec.encode_outcomes(_asked(replies.lookup), response.result)
        return response

    @_in_turn
    def Acknowledge(  # noqa: N802 - contract
        self, request: pb.AcknowledgeRequest, context: GuardedCall
    ) -> Slices[pb.AcknowledgeResponse]:
        """End hand-offs."""
        header = self._header(request, context)
        area, replies = yield from self.asked_of(
            RequestBatches(header, acknowledge=request_codec.decode_acknowledges(request.batch))
        )
        response = pb.AcknowledgeResponse(server_epoch=area.server_epoch)
        reply_codec.encode_outcomes(_asked(replies.acknowledge), response.result)
        return response

    @_in_turn
    def Invalidate(  # noqa: N802 - contract
        self, request: pb.InvalidateRequest, context: GuardedCall
    ) -> Slices[pb.InvalidateResponse]:
        """Forget slots that became free."""
        header = self._header(request, context)
        area, replies = yield from self.asked_of(
            RequestBatches(header, invalidate=request_codec.decode_invalidates(request.batch))
        )
        response = pb.InvalidateResponse(server_epoch=area.server_epoch)
        reply_codec.encode_outcomes(_asked(replies.invalidate), response.result)
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
        call = guarded_call(context)
        speaker = call.hold(StreamActivity(self._activity, self._now_ns))
        async for raw in call.read_all_raw():
            answer = await call.in_turn(self._answer(raw, call, speaker))
            await call.write(answer)
            if answer.HasField("error"):
                await asyncio.sleep(REFUSED_SECONDS)

    def _answer(self, raw: bytes, call: GuardedCall, speaker: StreamActivity) -> Slices[pb.ExchangeResponse]:
        """Return the answer to one message: its replies, or why it was refused and changed nothing.

        Raises:
            InvalidRequest: *raw* is no message. Definite.
            ServerDefect: indefinite.
        """
        message = yield from call.parsed(raw)
        assert isinstance(message, pb.ExchangeRequest), type(message)
        try:
            request = request_codec.decode_exchange_request(message)
            request = request._replace(header=_qualified(request.header, call.caller))
            area = yield from self.area_of(request.header)
            speaker.speak_for(area.client)
            replies = yield from self.apply_to(area, request)
        except ServerDefect:
            raise  # it may have changed something, which an error in a stream's answer denies: the stream breaks
        except SwapTierError as error:
            self._callers.refused(call.caller.tenant)
            return status.encode_exchange_error(self._tier.epoch, message.header.request_id, error)
        return reply_codec.encode_exchange_response(area.server_epoch, request.header.request_id, replies)

    def _header(self, request: _WithHeader, call: GuardedCall) -> Header:
        """Return the header of *request*, with names that are the caller's own."""
        return _qualified(request_codec.decode_header(request.header), call.caller)

    def asked_of(self, request: RequestBatches) -> Slices[tuple[Area, ReplyBatches]]:
        """Apply *request*; return its area, and a reply for each slot."""
        area = yield from self.area_of(request.header)
        return area, (yield from self.apply_to(area, request))

    def apply_to(self, area: Area, request: RequestBatches) -> Slices[ReplyBatches]:
        """Apply *request* if it is no larger than this server takes."""
        if self._batch_slots_max < BATCH_SLOTS_MAX:  # else the codec has seen to it
            slots = sum(len(batch.offsets) for batch in request[1:] if batch is not None)
            if slots > self._batch_slots_max:
                raise LimitReached(
                    f"the message names {slots} slots, this server takes {self._batch_slots_max}, as it said at "
                    "Swapon; nothing was applied. Send smaller ones"
                )
        try:
            return (yield from apply(area, request))
        finally:
            self._after_request()

    def area_of(self, header: Header) -> Slices[Area]:
        """Return the area that *header* names, with no message in progress; its client is alive.

        One can be in progress where clients share an area over several connections, and nobody asks who they are.
        """
        while (area := self._tier.area(_client(header), header.area)).is_in_message:
            yield BLOCKED
        self._activity.touch(area.client, self._now_ns())
        return area


def _qualified(header: Header, caller: Caller) -> Header:
    """Return *header* with names that no other tenant can say."""
    if caller.tenant is None:
        return header
    return header._replace(
        client_id=qualified(caller.tenant, header.client_id), area=qualified(caller.tenant, header.area)
    )


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
