"""Errors cross a real gRPC server unchanged, and a status that is not ours is taken as saying little."""

import re
from collections.abc import AsyncIterator, Callable

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from swaptier.v1 import swaptier_pb2 as pb
from swaptier.v1 import swaptier_pb2_grpc as rpc
from swaptier_wire import errors
from swaptier_wire.channels import DIRECT, open_channel
from swaptier_wire.errors import (
    ClientReplaced,
    DeadlinePassed,
    InvalidRequest,
    LimitReached,
    ServerDefect,
    SwapTierError,
    TierUnreachable,
    UnknownArea,
    UnknownMethod,
)
from swaptier_wire.status import (
    MESSAGE_BYTES_MAX,
    STATUS_CODES,
    abort,
    decode_exchange_error,
    encode_exchange_error,
    from_rpc_error,
    rich_status,
    status_code,
)

WIRE_ERRORS = list(STATUS_CODES)


class Refusing(rpc.SwapTierServiceServicer):
    """A server that refuses every Stat with the error it was given, and breaks Swapoff."""

    def __init__(self) -> None:
        self.error: SwapTierError = ServerDefect("not set")

    async def Stat(self, request: pb.StatRequest, context: grpc.aio.ServicerContext) -> pb.StatResponse:  # noqa: N802 - the contract's name
        """Refuse."""
        await abort(context, self.error)

    async def Swapoff(self, request: pb.SwapoffRequest, context: grpc.aio.ServicerContext) -> pb.SwapoffResponse:  # noqa: N802 - the contract's name
        """Never answer."""
        await context.abort(grpc.StatusCode.CANCELLED, "gone")


class Served:
    """A refusing server on a free loopback port, and a stub for it."""

    def __init__(self, servicer: Refusing, port: int, channel: grpc.aio.Channel) -> None:
        self.servicer = servicer
        self.port = port
        self.channel = channel
        self.stub = rpc.SwapTierServiceStub(channel)

    async def refusal(self, error: SwapTierError) -> SwapTierError:
        """Return what the client makes of *error*, raised in the server."""
        self.servicer.error = error
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await self.stub.Stat(pb.StatRequest(), timeout=10)
        return from_rpc_error(failed.value)


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Served]:
    """A real server."""
    server = grpc.aio.server()
    servicer = Refusing()
    rpc.add_SwapTierServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        yield Served(servicer, port, channel)
    await server.stop(None)


def leaf_errors() -> set[type[SwapTierError]]:
    """Return every error class of the contract."""
    return {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, SwapTierError) and value is not SwapTierError
    }


def test_every_error_has_its_status_and_its_own_reason() -> None:
    """A new class without a line in the table, or with another's reason, would come back as something else."""
    assert set(STATUS_CODES) == leaf_errors()
    assert len({error.reason for error in STATUS_CODES}) == len(STATUS_CODES)


@pytest.mark.parametrize("kind", WIRE_ERRORS)
async def test_an_error_arrives_as_what_it_was(served: Served, kind: type[SwapTierError]) -> None:
    """Class, message and definiteness survive a real call."""
    sent = kind("Area 'swåp' is 3 slots short; nothing changed.\nOpen it anew.")
    got = await served.refusal(sent)
    assert (type(got), str(got), got.definite) == (kind, str(sent), sent.definite)


async def test_the_status_is_that_of_the_table(served: Served) -> None:
    """A client in another language, which knows nothing of our reasons, still sees the right code."""
    served.servicer.error = ClientReplaced("epoch 3 took over")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await served.stub.Stat(pb.StatRequest(), timeout=10)
    assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_the_error_info_names_domain_reason_and_definiteness() -> None:
    """This is what the contract promises of every status the server writes."""
    [detail] = rich_status(LimitReached("64 areas are open; close one")).details
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info)
    assert (info.domain, info.reason, dict(info.metadata)) == ("swaptier", "LIMIT_REACHED", {"definite": "true"})


async def test_a_definite_unreachable_stays_definite(served: Served) -> None:
    """Definiteness belongs to the error, not only to its class."""
    got = await served.refusal(TierUnreachable("upstream was never asked", definite=True))
    assert isinstance(got, TierUnreachable)
    assert got.definite


async def test_a_long_message_is_cut_not_lost(served: Served) -> None:
    """Trailers are bounded, and an error that bursts them would arrive as another one."""
    got = await served.refusal(InvalidRequest("x" * 100_000))
    assert (type(got), str(got)) == (InvalidRequest, "x" * MESSAGE_BYTES_MAX)


async def test_a_specialised_error_travels_as_the_class_it_derives_from(served: Served) -> None:
    """A server may raise its own subclass; the client need not know it."""

    class TooManyAreas(LimitReached):
        """One limit of many."""

    got = await served.refusal(TooManyAreas("64 areas"))
    assert type(got) is LimitReached


async def test_an_unknown_call_is_not_built(served: Served) -> None:
    """An older server answers so by itself; no handler saw the request."""
    call = served.channel.unary_unary("/swaptier.v1.SwapTierService/Later")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call(b"", timeout=10)
    got = from_rpc_error(failed.value)
    assert isinstance(got, UnknownMethod)
    assert got.definite


async def test_a_cancelled_call_leaves_the_effect_unknown(served: Served) -> None:
    """The server may have applied it before it gave up."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await served.stub.Swapoff(pb.SwapoffRequest(), timeout=10)
    got = from_rpc_error(failed.value)
    assert type(got) is TierUnreachable
    assert not got.definite


async def test_a_connection_never_made_is_definite(unused_tcp_port: int) -> None:
    """Nothing was sent, so nothing can have been applied."""
    async with open_channel(f"127.0.0.1:{unused_tcp_port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await rpc.SwapTierServiceStub(channel).Stat(pb.StatRequest(), timeout=10)
    got = from_rpc_error(failed.value)
    assert type(got) is TierUnreachable
    assert got.definite
    assert "Nothing was sent" in str(got)


def bare(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    """Return the error of a call whose status is not ours."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


@pytest.mark.parametrize(
    ("code", "details", "kind", "definite"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", TierUnreachable, False),
        (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: x", TierUnreachable, True),
        (grpc.StatusCode.UNAVAILABLE, "errors resolving nowhere:1: not found", TierUnreachable, True),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", DeadlinePassed, False),
        (grpc.StatusCode.CANCELLED, "", TierUnreachable, False),
        (grpc.StatusCode.UNIMPLEMENTED, "Method not found!", UnknownMethod, True),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!", LimitReached, True),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max", TierUnreachable, False),
        (grpc.StatusCode.INTERNAL, "Exception deserializing request!", ServerDefect, False),
        (grpc.StatusCode.UNKNOWN, "Unexpected error", ServerDefect, False),
        (grpc.StatusCode.PERMISSION_DENIED, "a proxy's own", ServerDefect, False),
    ],
)
def test_a_status_that_is_not_ours_says_little(
    code: grpc.StatusCode, details: str, kind: type[SwapTierError], definite: bool
) -> None:
    """Definite only where no handler can have seen the call."""
    got = from_rpc_error(bare(code, details))
    assert (type(got), got.definite) == (kind, definite)
    assert details in str(got)


def with_details(code: grpc.StatusCode, status: status_pb2.Status) -> grpc.aio.AioRpcError:
    """Return the error of a call with *status* in its trailers."""
    trailers = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, status.message)


def error_info(domain: str, reason: str) -> AnyMessage:
    """Return an ErrorInfo as a status detail."""
    packed = AnyMessage()
    packed.Pack(error_details_pb2.ErrorInfo(domain=domain, reason=reason, metadata={"definite": "true"}))
    return packed


@pytest.mark.parametrize(
    "status",
    [
        status_pb2.Status(code=3, message="m", details=[error_info("example.com", "INVALID_REQUEST")]),
        status_pb2.Status(code=5, message="m", details=[error_info("swaptier", "INVALID_REQUEST")]),
        status_pb2.Status(code=3, message="m", details=[AnyMessage(type_url="x/google.rpc.Nothing", value=b"\xff")]),
        status_pb2.Status(code=3, message="m", details=[error_info("swaptier", "A_LATER_REASON")]),
    ],
    ids=["another domain", "contradicts its code", "not an ErrorInfo", "a reason of a later version"],
)
def test_an_error_info_that_is_not_plainly_ours_is_not_believed(status: status_pb2.Status) -> None:
    """Nothing is assumed of the effect, whatever it claims."""
    got = from_rpc_error(with_details(grpc.StatusCode.INVALID_ARGUMENT, status))
    assert (type(got), got.definite) == (ServerDefect, False)


@pytest.mark.parametrize("kind", WIRE_ERRORS)
def test_a_refusal_on_the_stream_is_the_refusal_of_a_call(kind: type[SwapTierError]) -> None:
    """Same class, code and words; definite except for a defect, because the message changed nothing."""
    message = encode_exchange_error(3, 42, kind("what happened"))
    assert (message.request_id, message.server_epoch) == (42, 3)
    assert message.error.code == status_code(kind("")).value[0]
    got = decode_exchange_error(message.error)
    assert (type(got), str(got), got.definite) == (kind, "what happened", kind is not ServerDefect)


def test_a_refusal_on_the_stream_for_an_unknown_reason_is_not_believed() -> None:
    """It may come from a later version."""
    got = decode_exchange_error(pb.ExchangeError(code=3, reason="LATER", message="m"))
    assert (type(got), got.definite) == (ServerDefect, False)
    assert re.search("LATER.*compare the versions", str(got))


def test_a_call_of_the_synchronous_api_is_understood_too(unused_tcp_port_factory: Callable[[], int]) -> None:
    """Grpcio has two clients; a test or a tool may use either."""
    with (
        grpc.insecure_channel(f"127.0.0.1:{unused_tcp_port_factory()}", options=DIRECT) as channel,
        pytest.raises(grpc.RpcError) as failed,
    ):
        rpc.SwapTierServiceStub(channel).Stat(pb.StatRequest(), timeout=10)
    assert from_rpc_error(failed.value).definite


def test_the_area_of_an_error_is_only_told_apart_by_its_reason() -> None:
    """UNAVAILABLE is both a draining server and no server; the reason decides."""
    assert {kind.reason for kind, code in STATUS_CODES.items() if code is grpc.StatusCode.UNAVAILABLE} == {
        "DRAINING",
        "UNREACHABLE",
    }
    assert status_code(UnknownArea("x")) is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("seconds", [None, 0.05, 3.0])
async def test_a_limit_says_when_to_try_again_where_waiting_helps(served: Served, seconds: float | None) -> None:
    """As google.rpc.RetryInfo, which clients in other languages know."""
    got = await served.refusal(LimitReached("too many requests in flight", retry_after_seconds=seconds))
    assert isinstance(got, LimitReached)
    assert got.retry_after_seconds == seconds
