"""A server in this process, on a free port, and what tests say to it."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Protocol

import pytest
from grpc import aio
from tests.server.pki import bearer

from swaptier.v1 import swaptier_pb2 as pb
from swaptier.v1 import swaptier_pb2_grpc
from swaptier_server.config import ServerConfig
from swaptier_server.lifecycle import TierServer
from swaptier_server.rpc.server import channel_options
from swaptier_server.tier.device import MemoryDevice
from swaptier_wire import reply_codec, request_codec, status
from swaptier_wire.batches import Header, ReplyBatches, RequestBatches
from swaptier_wire.channels import open_channel
from swaptier_wire.types import BATCH_SLOTS_MAX, AreaOptions

EPOCH = 7
SLOTS = 64

Metadata = tuple[tuple[str, str], ...]


@pytest.fixture
def files_of_ours_alone() -> Iterator[None]:
    """What a test makes, as a copy of a swap file, is readable by its owner only, as that is."""
    before = os.umask(0o077)
    yield
    os.umask(before)


class Clock:
    """A monotonic clock that stands until told."""

    def __init__(self) -> None:
        self.ns = 1_000_000_000

    def __call__(self) -> int:
        """Tell the time."""
        return self.ns

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.ns += round(seconds * 1e9)


class Served:
    """A server and a stub that talks to it."""

    def __init__(self, server: TierServer, channel: aio.Channel, clock: Clock, metadata: Metadata = ()) -> None:
        self.server = server
        self.channel = channel
        self.clock = clock
        self.metadata = metadata
        """Sent with the calls made here; the stub's own calls need it said."""
        self.stub = swaptier_pb2_grpc.SwapTierServiceStub(channel)

    @property
    def address(self) -> str:
        """Where it serves."""
        assert self.server.listening is not None
        return self.server.listening

    def seen_by(self, tenant: str, number: int = 1) -> "Served":
        """Return the same server, talked to with a token of *tenant*."""
        return Served(self.server, self.channel, self.clock, bearer(tenant, number))

    async def swapon(
        self,
        area: str = "a",
        client: str = "host",
        epoch: int = 1,
        slots: int = SLOTS,
        *,
        free_on_read: bool = False,
        pool_bytes_max: int | None = None,
        writeback: bool = True,
    ) -> pb.SwaponResponse:
        """Open an area."""
        options = AreaOptions(free_on_read, pool_bytes_max, writeback)
        return await self.stub.Swapon(
            pb.SwaponRequest(
                header=header_message(area, client, epoch),
                slots=slots,
                options=request_codec.encode_options(options),
            ),
            metadata=self.metadata,
        )

    async def stat(self, area: str = "a", client: str = "host", epoch: int = 1) -> reply_codec.AreaStat:
        """Tell what an area holds."""
        request = pb.StatRequest(header=header_message(area, client, epoch))
        return reply_codec.decode_stat(await self.stub.Stat(request, metadata=self.metadata))


class Serve(Protocol):
    """Starts a server with a configuration."""

    def __call__(self, *, device_for: Callable[[str], MemoryDevice] = ..., **config: object) -> Awaitable[Served]:
        """Return it, serving."""


@pytest.fixture
async def serve(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serve]:
    """Start servers; they and their channels end with the test."""
    for field in ServerConfig.model_fields:
        monkeypatch.delenv(f"SWAPTIER_{field.upper()}", raising=False)
    async with AsyncExitStack() as stack:

        async def start(
            *, device_for: Callable[[str], MemoryDevice] = lambda _name: MemoryDevice(), **config: object
        ) -> Served:
            clock = Clock()
            settings = ServerConfig.model_validate({"listen": "127.0.0.1:0", "metrics": "off"} | config)
            server = await TierServer.start(settings, epoch=EPOCH, now_ns=clock, device_for=device_for)
            stack.push_async_callback(server.drain)
            assert server.listening is not None
            channel = await stack.enter_async_context(
                open_channel(server.listening, options=channel_options(BATCH_SLOTS_MAX))
            )
            return Served(server, channel, clock)

        yield start


def header_message(area: str = "a", client: str = "host", epoch: int = 1, request_id: int = 5) -> pb.RequestHeader:
    return request_codec.encode_header(Header(client, epoch, request_id, area))


Ask = Callable[[Served, RequestBatches], Awaitable[ReplyBatches]]


async def ask_unary(served: Served, request: RequestBatches) -> ReplyBatches:
    """Send each batch of *request* as an RPC of its own."""
    message = request_codec.encode_exchange_request(request)
    answers = pb.ExchangeResponse(server_epoch=EPOCH, request_id=request.header.request_id)
    for field, batch in message.ListFields():
        if field.name == "header":
            continue
        rpc = getattr(served.stub, field.name.capitalize())
        request_class = getattr(pb, f"{field.name.capitalize()}Request")
        try:
            answer = await rpc(request_class(header=message.header, batch=batch), metadata=served.metadata)
        except aio.AioRpcError as error:
            raise status.from_rpc_error(error) from error
        assert answer.server_epoch == EPOCH
        getattr(answers, field.name).CopyFrom(answer.result)
    return reply_codec.decode_exchange_response(answers, request)


async def ask_stream(served: Served, request: RequestBatches) -> ReplyBatches:
    """Send *request* as one message of a stream of its own."""
    call = served.stub.Exchange(metadata=served.metadata)
    await call.write(request_codec.encode_exchange_request(request))
    try:
        answer = await call.read()
    except aio.AioRpcError as error:
        raise status.from_rpc_error(error) from error
    assert isinstance(answer, pb.ExchangeResponse)
    assert answer.server_epoch == EPOCH
    await call.done_writing()
    assert await call.read() is aio.EOF
    if answer.HasField("error"):
        raise status.decode_exchange_error(answer.error)
    return reply_codec.decode_exchange_response(answer, request)


@pytest.fixture(params=[ask_unary, ask_stream], ids=["unary", "stream"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Both ways to ask: what holds for one holds for the other."""
    way: Ask = request.param
    return way
