"""What a caller sends besides its request: no call is applied whose answer could then not be sent, none is logged."""

import asyncio
import logging

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.server import http2
from tests.server.conftest import Serve, Served, ask_unary, header_message
from tests.server.rpc.test_service import TEXT, loads, stores

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_server.logs import repeats_no_metadata
from swaptier_server.rpc.guard import SMALL_REQUEST_BYTES_MAX
from swaptier_server.rpc.server import SERVICE
from swaptier_wire.status import from_rpc_error

PATIENCE_SECONDS = 30

METADATA = {
    "a request id": ("x-request-id", "abc-1"),
    "a request id of 64": ("x-request-id", "a" * 64),
    "a request id of 65": ("x-request-id", "a" * 65),
    "a request id with spaces around it": ("x-request-id", " abc "),
    "a request id of spaces": ("x-request-id", "   "),
    "an empty request id": ("x-request-id", ""),
    "an accented request id": ("x-request-id", "é"),
    "a Latin-1 request id": ("x-request-id", "\udce9"),
    "a request id that turns round": ("x-request-id", "\u202eabc"),
    "a request id with a no-break space": ("x-request-id", "a\u00a0b"),
    "a request id of two lines": ("x-request-id", 'a\r\n{"event": "forged"}'),
    "a request id that colours": ("x-request-id", "\x1b[31m"),
    "a request id with NUL": ("x-request-id", "a\0b"),
    "a request id with DEL": ("x-request-id", "a\x7fb"),
    "binary": ("x-request-id-bin", "AAH/"),
    "binary that is none": ("x-any-bin", "!!!"),
    "a token of bytes": ("authorization", "Bearer \udcff\udcfe"),
    "a program of bytes": ("user-agent", "\x1b[31m\udcff\r\n"),
    "a deadline that is none": ("grpc-timeout", "soon"),
    "a deadline before now": ("grpc-timeout", "-1S"),
    "a deadline after the sun": ("grpc-timeout", "99999999999999H"),
    "a compression that is none": ("grpc-encoding", "\udcff"),
    "a status": ("grpc-status", "7"),
    "a message": ("grpc-message", "%ff\udcff"),
    "details": ("grpc-status-details-bin", "////"),
    "another te": ("te", "gzip"),
    "another authority": ("host", "\udcff\x1b"),
    "8000 bytes": ("x-large", "a" * 8000),
    "a key with a capital": ("X-Key", "a"),
    "a key with a space": ("x key", "a"),
}


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(repeats_no_metadata)


async def call(served: Served, path: str, message: bytes, metadata: tuple[str, str]) -> bool:
    """Make a call with *metadata* on a connection of its own; return whether it ended with OK."""
    host, _, port = served.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(http2.hello() + http2.request(1, path.encode(), message, [metadata]))
    received, ends = b"", []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not ends:
            more = await reader.read(65536)
            assert more, "the connection stays for calls that can be answered"
            received += more
            ends = [
                one
                for one in http2.frames(received)
                if one.type == http2.Type.RST_STREAM
                or (one.type == http2.Type.HEADERS and one.flags & http2.END_STREAM)
            ]
    writer.transport.abort()
    return b"grpc-status\x010" in ends[0].payload


async def test_an_exclusive_load_gives_its_page_out_or_fails_and_leaves_it(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """OK and gone, or refused and still there; never an error after it was applied, and never a line in the log."""
    served = await serve()
    await served.swapon()
    caplog.clear()
    for generation, (what, metadata) in enumerate(METADATA.items(), 1):
        await ask_unary(served, stores((0, generation, TEXT)))
        batch = pb.LoadBatch(offsets=[0], generations=[generation], modes=[pb.LOAD_MODE_EXCLUSIVE])
        load = pb.LoadRequest(header=header_message(), batch=batch)
        was_given = await call(served, f"/{SERVICE}/Load", load.SerializeToString(), metadata)
        (reply,) = (await ask_unary(served, loads((0, generation), require_generation=True))).load or []
        assert (reply.content() is None) is was_given, what
        assert was_given or metadata[0] != "x-request-id", what
    assert not caplog.records


async def test_a_health_call_with_any_request_id_is_answered_and_not_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """It needs no identity, so anybody could fill the log."""
    served = await serve()
    for what in ("a request id", "an accented request id", "a Latin-1 request id", "a request id of two lines"):
        assert await call(served, "/grpc.health.v1.Health/Check", b"", METADATA[what]), what
    assert not caplog.records


async def test_a_request_id_comes_back_as_far_as_metadata_can_have_it(serve: Serve) -> None:
    """The others are dropped, and the call is answered as without."""
    served = await serve()
    for sent, echoed in (("abc 1", "abc 1"), ("a" * 65, None)):
        check = health_pb2_grpc.HealthStub(served.channel).Check(
            health_pb2.HealthCheckRequest(), metadata=(("x-request-id", sent),)
        )
        assert await check
        assert dict(await check.trailing_metadata()).get("x-request-id") == echoed


@pytest.mark.parametrize("bytes_over", [0, 1])
async def test_a_name_that_may_be_repeated_or_remembered_is_short(serve: Serve, bytes_over: int) -> None:
    """Reflection repeats its request: one of a whole message would have an answer too large to be sent."""
    served = await serve()
    name = "x" * (SMALL_REQUEST_BYTES_MAX - 3 + bytes_over)
    reflection = reflection_pb2_grpc.ServerReflectionStub(served.channel)
    request = reflection_pb2.ServerReflectionRequest(host=name)
    health = health_pb2_grpc.HealthStub(served.channel)
    for answer in (
        reflection.ServerReflectionInfo(iter([request])).read(),
        health.Watch(health_pb2.HealthCheckRequest(service=name)).read(),
    ):
        if bytes_over:
            with pytest.raises(aio.AioRpcError, match="is 4097 bytes long and may have 4096") as caught:
                await answer
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        else:
            assert await answer


NAMES = ("two\nlines", "\x1b[31mred", "\u202eright", "\u2028", "\0", "\x85", "\u200b", "é" * 64, "\U000e0001" * 32)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
async def test_a_refusal_that_repeats_a_name_has_one_plain_line(serve: Serve, name: str) -> None:
    """Whatever stands in it: escaped where a terminal would obey it, and short enough for trailers."""
    served = await serve()
    await served.swapon(name, client=name, epoch=5)
    for attempt in (
        served.stat(name[:-1] + "b"),
        served.stat(name),
        served.swapon(name, client=name, slots=1, epoch=5),
        served.swapon(name, client=name, epoch=4),
        served.swapon(name[:-1] + "c", slots=1 << 40),
    ):
        with pytest.raises(aio.AioRpcError) as caught:
            await attempt
        error = from_rpc_error(caught.value)
        assert error.definite
        assert str(error).isprintable()
        assert "changed" in str(error)
