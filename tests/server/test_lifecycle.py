"""Health, reflection, errors that leak nothing, and the order of a drain."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator

import pytest
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.server.conftest import Serve, Served, header_message

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_server import housekeeping
from swaptier_server.errors import ConfigError
from swaptier_server.rpc.server import SERVICE
from swaptier_server.rpc.traffic import Traffic
from swaptier_server.tier.device import MemoryDevice
from swaptier_server.tier.page import StoredPage
from swaptier_wire.addresses import Address
from swaptier_wire.checksum import page_checksum
from swaptier_wire.errors import Draining, ServerDefect
from swaptier_wire.status import from_rpc_error
from swaptier_wire.types import PAGE_BYTES

SECRET = b"correct horse battery staple"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


async def raw_call(served: Served, method: str, request: bytes) -> bytes:
    """Send bytes as they are."""
    if method == "Exchange":
        stream: aio.StreamStreamCall[bytes, bytes] = served.channel.stream_stream(f"/{SERVICE}/{method}")()
        await stream.write(request)
        answer = await stream.read()
        assert isinstance(answer, bytes)
        return answer
    call: aio.UnaryUnaryMultiCallable[bytes, bytes] = served.channel.unary_unary(f"/{SERVICE}/{method}")
    return await call(request)


# Health and reflection


@pytest.mark.parametrize("service", ["", "swaptier.v1.SwapTierService"])
async def test_health_flips_when_the_drain_begins(serve: Serve, service: str) -> None:
    """A watcher sees SERVING, then NOT_SERVING, and does not hold up the drain to the end of its grace."""
    served = await serve(drain_seconds=60)
    health = health_pb2_grpc.HealthStub(served.channel)
    request = health_pb2.HealthCheckRequest(service=service)
    assert (await health.Check(request)).status == SERVING
    watch = health.Watch(request)
    assert (await watch.read()).status == SERVING
    drained = asyncio.create_task(served.server.drain())
    assert (await watch.read()).status == NOT_SERVING
    await asyncio.wait_for(drained, 10)


async def test_health_of_an_unknown_service_is_not_found(serve: Serve) -> None:
    """As grpc.health.v1 has it."""
    served = await serve()
    with pytest.raises(aio.AioRpcError) as caught:
        await health_pb2_grpc.HealthStub(served.channel).Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() is StatusCode.NOT_FOUND


async def test_reflection_lists_the_services(serve: Serve) -> None:
    """A foreign client can talk to the server without our proto file."""
    served = await serve()

    async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)

    stub = reflection_pb2_grpc.ServerReflectionStub(served.channel)
    listed, found = [answer async for answer in stub.ServerReflectionInfo(requests())]
    assert {service.name for service in listed.list_services_response.service} >= {SERVICE, "grpc.health.v1.Health"}
    assert found.file_descriptor_response.file_descriptor_proto


# Errors


class DefectiveDevice(MemoryDevice):
    """A device with a bug, whose exception carries what must not leave the process."""

    def read(self, offset: int) -> StoredPage:
        """Fail in a way nobody foresaw."""
        raise RuntimeError(SECRET.decode())


def load_request() -> pb.LoadRequest:
    batch = pb.LoadBatch(offsets=[0], generations=[1], modes=[pb.LOAD_MODE_SHARED])
    return pb.LoadRequest(header=header_message(), batch=batch)


async def test_a_defect_is_internal_with_a_request_id_and_its_text_stays_here(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """INTERNAL, indefinite; the log has the text under the id that the client was told."""
    served = await serve(device_for=lambda _name: DefectiveDevice())
    await served.swapon()
    with pytest.raises(aio.AioRpcError) as caught:
        await served.stub.Load(load_request())
    error = from_rpc_error(caught.value)
    assert isinstance(error, ServerDefect)
    assert not error.definite
    assert SECRET.decode() not in repr(caught.value)
    request_id = dict(caught.value.trailing_metadata() or ())["x-request-id"]
    assert str(request_id) in str(error)
    assert str(request_id) in caplog.text
    assert SECRET.decode() in caplog.text


async def test_a_defect_breaks_the_stream_instead_of_denying_its_effect(serve: Serve) -> None:
    """`error` in an answer says that nothing changed, which nobody knows after a defect."""
    served = await serve(device_for=lambda _name: DefectiveDevice())
    await served.swapon()
    call = served.stub.Exchange()
    await call.write(pb.ExchangeRequest(header=header_message(), load=load_request().batch))
    with pytest.raises(aio.AioRpcError) as caught:
        await call.read()
    assert isinstance(from_rpc_error(caught.value), ServerDefect)
    assert SECRET.decode() not in repr(caught.value)
    assert (await served.stat()).device_pages == 0


async def test_the_callers_request_id_comes_back_in_the_trailers(serve: Serve) -> None:
    """In success and in refusal; one that is unfit for logs does not."""
    served = await serve()
    await served.swapon()
    call = served.stub.Stat(pb.StatRequest(header=header_message()), metadata=(("x-request-id", "abc-1"),))
    await call
    assert dict(await call.trailing_metadata())["x-request-id"] == "abc-1"
    call = served.stub.Stat(pb.StatRequest(), metadata=(("x-request-id", "abc-2"),))
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    assert dict(caught.value.trailing_metadata() or ())["x-request-id"] == "abc-2"
    call = served.stub.Stat(pb.StatRequest(header=header_message()), metadata=(("x-request-id", "x" * 65),))
    await call
    assert "x-request-id" not in dict(await call.trailing_metadata())


async def test_logs_name_areas_and_never_pages(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """What an area held is not what the log is for."""
    caplog.set_level(logging.DEBUG, logger="swaptier.server")
    served = await serve()
    await served.swapon("an-area")
    page = SECRET.ljust(PAGE_BYTES, b".")
    batch = pb.StoreBatch(offsets=[0], generations=[1], checksums=[page_checksum(page)], pages=page)
    await served.stub.Store(pb.StoreRequest(header=header_message("an-area"), batch=batch))
    batch = pb.StoreBatch(offsets=[0], generations=[2], checksums=[0], pages=page + b"x")
    with pytest.raises(aio.AioRpcError) as caught:
        await served.stub.Store(pb.StoreRequest(header=header_message("an-area"), batch=batch))
    await served.server.drain()
    assert "an-area" in caplog.text
    assert SECRET.decode() not in caplog.text + repr(caught.value)


async def test_an_unknown_method_is_unimplemented(serve: Serve) -> None:
    """The answer is gRPC's own, and no trace of the name in the metrics."""
    served = await serve()
    with pytest.raises(aio.AioRpcError) as caught:
        await raw_call(served, "Nonsense", b"")
    assert caught.value.code() is StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("start", [b"", PREFACE], ids=["garbage", "a preface, then garbage"])
async def test_garbage_on_the_port_does_not_kill_the_server(serve: Serve, start: bytes) -> None:
    """Random bytes from a hundred connections, and the next client is served."""
    served = await serve()
    await served.swapon()
    before = await served.stat()
    assert served.server.listening is not None
    seeded = random.Random(1)
    for _ in range(100):
        _, writer = await asyncio.open_connection("127.0.0.1", served.server.listening.port)
        writer.write(start + seeded.randbytes(seeded.randrange(1, 4096)))
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    assert await served.stat() == before


@pytest.mark.parametrize("method", ["Store", "Exchange"])
async def test_garbage_instead_of_a_message_is_an_invalid_request(serve: Serve, method: str) -> None:
    """It never reaches a handler, and the answer is ours and definite."""
    served = await serve()
    await served.swapon()
    before = await served.stat()
    with pytest.raises(aio.AioRpcError) as caught:
        await raw_call(served, method, b"\xff" * 100)
    assert caught.value.code() is StatusCode.INVALID_ARGUMENT
    assert from_rpc_error(caught.value).definite
    assert await served.stat() == before


# Draining


async def test_new_requests_are_refused_as_draining_while_health_still_answers(serve: Serve) -> None:
    """Draining is definite: the client may go elsewhere with the same request."""
    served = await serve()
    await served.swapon()
    served.server.traffic.is_draining = True
    with pytest.raises(aio.AioRpcError) as caught:
        await served.stat()
    error = from_rpc_error(caught.value)
    assert isinstance(error, Draining)
    assert error.definite
    assert await health_pb2_grpc.HealthStub(served.channel).Check(health_pb2.HealthCheckRequest())


async def test_a_drain_waits_for_what_is_in_flight_and_no_longer_than_it_may() -> None:
    """0 when all came to its end, else how many did not."""
    traffic = Traffic(time.monotonic_ns)
    with traffic.call():
        assert await traffic.drain(0.01) == 1
        drained = asyncio.create_task(traffic.drain(60))
        await asyncio.wait([drained], timeout=0)
        assert not drained.done()
    assert await drained == 0
    with pytest.raises(Draining), traffic.call():
        pass


async def test_a_drain_says_how_many_pages_were_dropped(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is durable yet, and nothing is dropped silently."""
    caplog.set_level(logging.INFO, logger="swaptier.server")
    served = await serve(pool_limit=10)
    await served.swapon()
    for offset, page in enumerate((bytes(PAGE_BYTES), b"ab" + bytes(PAGE_BYTES - 2))):
        batch = pb.StoreBatch(offsets=[offset], generations=[1], checksums=[page_checksum(page)], pages=page)
        await served.stub.Store(pb.StoreRequest(header=header_message(), batch=batch))
    await served.server.drain()
    events = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    drained = next(event for event in events if event["event"] == "drained")
    assert (drained["dropped_pool_pages"], drained["dropped_device_pages"]) == (1, 1)


# Addresses


async def test_a_second_server_cannot_have_the_same_port(serve: Serve) -> None:
    """Two servers on one port would split the store without a word."""
    served = await serve()
    with pytest.raises(ConfigError, match=r"--listen: cannot listen on .*: it is in use; stop the server"):
        await serve(listen=served.server.listening)
    assert await served.swapon()


async def test_the_metrics_port_in_use_is_refused_too_and_leaves_nothing_running(serve: Serve) -> None:
    """The refusal names --metrics."""
    served = await serve()
    with pytest.raises(ConfigError, match=r"--metrics: cannot listen on .*: it is in use"):
        await serve(metrics=served.server.listening)


async def test_a_beyond_local_plaintext_address_is_warned_about(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Pages are memory of other programs."""
    await serve()
    assert "insecure" not in caplog.text
    await serve(listen="0.0.0.0:0", insecure=True)
    assert "insecure_beyond_this_machine" in caplog.text


async def test_a_server_listens_on_a_unix_socket(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> None:
    """And takes over the socket of one that was killed, but not that of one that lives."""
    path = tmp_path_factory.mktemp("s") / "tier"
    address = Address.parse(f"unix:{path}")
    stale = await asyncio.start_unix_server(lambda *_: None, path)
    stale.close()
    await stale.wait_closed()
    assert path.exists()
    served: Served = await serve(listen=address)
    assert served.server.listening == address
    await served.swapon()
    with pytest.raises(ConfigError, match="in use"):
        await serve(listen=address)
    assert (await served.stat()).slots


async def test_a_defect_in_housekeeping_does_not_end_it(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Leases still end and files are still read again after it, and the log says what it was."""
    looks = 0
    has_gone_on = asyncio.Event()

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise ZeroDivisionError
        has_gone_on.set()

    monkeypatch.setattr(housekeeping, "HOUSEKEEPING_SECONDS", 0.001)
    served = await serve()
    monkeypatch.setattr(served.server.housekeeper, "_look_around", look)
    await asyncio.wait_for(has_gone_on.wait(), 10)
    assert any("housekeeping_failed" in record.getMessage() for record in caplog.records)
