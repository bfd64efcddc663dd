"""A fake tier that records, holds back, breaks and lies, and what tests of the stream say to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from grpc import aio

from swaptier.v1 import swaptier_pb2 as pb
from swaptier.v1 import swaptier_pb2_grpc as pb_grpc
from swaptier_client.area_calls import HostArea
from swaptier_client.mm.effects import Invalidate, Load, Lookup, Request, RequestReply, Store
from swaptier_wire import reply_codec, request_codec
from swaptier_wire.batches import ReplyBatches
from swaptier_wire.checksum import page_checksum
from swaptier_wire.errors import SwapTierError
from swaptier_wire.status import abort, encode_exchange_error
from swaptier_wire.types import (
    BATCH_SLOTS_MAX,
    NO_GENERATION,
    PAGE_BYTES,
    ZERO_PAGE,
    LoadMode,
    LoadReply,
    Outcome,
    Reason,
    SlotReply,
)

SLOTS = 1024
AREA = HostArea("host", 1, "area", SLOTS)


class FakePages:
    """What a slot holds: the plainest tier there is, without a pool limit and without a device."""

    def __init__(self) -> None:
        self.pages: dict[int, tuple[int, bytes]] = {}

    def store(self, offset: int, generation: int, page: bytes) -> SlotReply:
        """Keep *page* if *generation* is new."""
        if generation <= self.pages.get(offset, (0, b""))[0]:
            return SlotReply(Outcome.STALE_GENERATION)
        self.pages[offset] = generation, page
        return SlotReply(Outcome.STORED, entry_bytes=PAGE_BYTES)

    def load(self, offset: int, mode: LoadMode) -> LoadReply:
        """Return what is kept, or zeros as a device would."""
        if offset not in self.pages:
            return LoadReply(Outcome.DEVICE, Reason.NONE, NO_GENERATION, page_checksum(ZERO_PAGE), ZERO_PAGE)
        generation, page = self.pages[offset]
        if mode is LoadMode.EXCLUSIVE:
            del self.pages[offset]
        return LoadReply(Outcome.HIT, Reason.NONE, generation, page_checksum(page), page, None, PAGE_BYTES)

    def lookup(self, offset: int) -> SlotReply:
        """Tell whether anything is kept."""
        return SlotReply(Outcome.HIT if offset in self.pages else Outcome.MISS)

    def invalidate(self, offset: int, generation: int) -> SlotReply:
        """Forget what is kept up to *generation*."""
        kept = self.pages.get(offset)
        if kept is None:
            return SlotReply(Outcome.MISS)
        if kept[0] > generation:
            return SlotReply(Outcome.STALE_GENERATION)
        del self.pages[offset]
        return SlotReply(Outcome.INVALIDATED)

    def apply(self, effect: Request) -> RequestReply:
        """Apply one request, without a stream in between."""
        offset = effect.entry.offset
        match effect:
            case Store():
                return self.store(offset, effect.generation, effect.page)
            case Load():
                return self.load(offset, effect.mode)
            case Lookup():
                return self.lookup(offset)
            case Invalidate():
                return self.invalidate(offset, effect.generation)
        raise AssertionError(effect)


class FakeTier(pb_grpc.SwapTierServiceServicer):
    """A SwapTierService that takes messages as they come and answers them only while its gate is open."""

    def __init__(self) -> None:
        self.slots = FakePages()
        self.messages: list[pb.ExchangeRequest] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.arrived = asyncio.Queue[int]()
        self.epoch = 100
        self.opened: list[tuple[int, str]] = []
        """Epoch and area of every Swapon."""
        self.seen: list[tuple[int, int]] = []
        """Epoch and incarnation that each Swapon said its host had seen."""
        self.batch_slots_max = BATCH_SLOTS_MAX
        self.swapon_error: SwapTierError | None = None
        self.refusals: dict[int, SwapTierError] = {}
        """By request id: answers the message with an error, applies nothing."""
        self.break_with: grpc.StatusCode | SwapTierError | None = None
        """Ends the stream in place of the next answer; the next stream goes well."""
        self.forgets_areas = False
        """Every Swapon finds no area."""
        self.incarnation = 0
        self.is_old = False
        """It has never heard of incarnations."""
        self.swapon_answers_lost = 0
        """Of the next Swapons, which take effect."""
        self.keeps_answers: set[int] = set()
        """Request ids of messages that are applied and not answered, but after the next answer with `late_answers`."""
        self.late_answers = False
        self.repeats_answers = False
        self.swapoff_errors: list[SwapTierError] = []
        self.damages_pages = False
        self.drops_outcomes = False

    async def Swapon(self, request: pb.SwaponRequest, context: aio.ServicerContext) -> pb.SwaponResponse:  # noqa: N802 - contract
        """Open any area."""
        if self.swapon_error is not None:
            await abort(context, self.swapon_error)
        reopened = (self.epoch, request.header.area) in self.opened and not self.forgets_areas
        self.opened.append((self.epoch, request.header.area))
        self.seen.append((request.seen_server_epoch, request.seen_incarnation))
        self.incarnation += not reopened
        if self.swapon_answers_lost:
            self.swapon_answers_lost -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")
        return pb.SwaponResponse(
            server_epoch=self.epoch,
            page_size_bytes=PAGE_BYTES,
            batch_slots_max=self.batch_slots_max,
            reopened=reopened,
            incarnation=self.incarnation * (not self.is_old),
        )

    async def Swapoff(self, request: pb.SwapoffRequest, context: aio.ServicerContext) -> pb.SwapoffResponse:  # noqa: N802 - contract
        """Forget all."""
        if self.swapoff_errors:
            await abort(context, self.swapoff_errors.pop())
        return pb.SwapoffResponse(server_epoch=self.epoch, dropped_pages=len(self.slots.pages))

    async def Stat(self, request: pb.StatRequest, context: aio.ServicerContext) -> pb.StatResponse:  # noqa: N802 - contract
        """Tell how many pages are kept."""
        return pb.StatResponse(server_epoch=self.epoch, slots=SLOTS, stored_pages=len(self.slots.pages))

    async def Exchange(  # noqa: N802 - contract
        self, request_iterator: AsyncIterator[pb.ExchangeRequest], context: aio.ServicerContext
    ) -> AsyncIterator[pb.ExchangeResponse]:
        """Answer in order; take the next message while the gate holds the last answer back."""
        taken: asyncio.Queue[pb.ExchangeRequest | None] = asyncio.Queue()
        kept: list[pb.ExchangeResponse] = []
        taking = asyncio.create_task(self._take(request_iterator, taken))
        try:
            while (request := await taken.get()) is not None:
                await self.gate.wait()
                end, self.break_with = self.break_with, None
                if isinstance(end, SwapTierError):
                    await abort(context, end)
                if end is not None:
                    await context.abort(end, "told to")
                answer = self._answer(request)
                if request.header.request_id in self.keeps_answers:
                    kept.append(answer)
                    continue
                yield answer
                if self.repeats_answers:
                    yield answer
                while kept and self.late_answers:
                    yield kept.pop(0)
        finally:
            taking.cancel()

    async def _take(
        self, requests: AsyncIterator[pb.ExchangeRequest], taken: asyncio.Queue[pb.ExchangeRequest | None]
    ) -> None:
        async for request in requests:
            self.messages.append(request)
            taken.put_nowait(request)
            self.arrived.put_nowait(request.header.request_id)
        taken.put_nowait(None)

    def _answer(self, message: pb.ExchangeRequest) -> pb.ExchangeResponse:
        request_id = message.header.request_id
        if request_id in self.refusals:
            return encode_exchange_error(self.epoch, request_id, self.refusals[request_id])
        request, slots = request_codec.decode_exchange_request(message), self.slots
        store, load, lookup, invalidate = request.store, request.load, request.lookup, request.invalidate
        response = reply_codec.encode_exchange_response(
            self.epoch,
            request_id,
            ReplyBatches(
                store and list(map(slots.store, store.offsets, store.generations, store.pages)),
                load and list(map(slots.load, load.offsets, load.modes)),
                lookup and list(map(slots.lookup, lookup.offsets)),
                None,
                invalidate and list(map(slots.invalidate, invalidate.offsets, invalidate.generations)),
            ),
        )
        if self.damages_pages and response.load.pages:
            response.load.pages = bytes([response.load.pages[0] ^ 1]) + response.load.pages[1:]
        if self.drops_outcomes:
            response.store.ClearField("outcomes")
        return response


@asynccontextmanager
async def serving(fake: FakeTier) -> AsyncIterator[str]:
    """Serve *fake* on a free port; yield its address."""
    server = aio.server()
    pb_grpc.add_SwapTierServiceServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def offsets_of(message: pb.ExchangeRequest) -> list[int]:
    batches = (message.store, message.load, message.lookup, message.invalidate)
    return [offset for batch in batches for offset in batch.offsets]
