"""A server that was stopped has not seen its clients: what they sent meanwhile is read before anything expires."""

import asyncio
import signal

import grpc
import pytest
from grpc import aio
from tests.server.conftest import header_message
from tests.server.test_main import channel_to, running, store_two_pages

from swaptier.v1 import swaptier_pb2 as pb
from swaptier.v1 import swaptier_pb2_grpc

STOPPED_SECONDS = 2.5
"""More than twice what an area may be idle, and its client's deadline."""


async def test_an_area_outlives_a_stop_that_is_longer_than_it_may_be_idle() -> None:
    """Its client asked in time, and the request waits in the socket of the server that goes on."""
    with running("--area-idle-seconds", "1") as server:
        async with channel_to(server) as channel:
            stub = swaptier_pb2_grpc.SwapTierServiceStub(channel)
            await store_two_pages(stub)
            server.process.send_signal(signal.SIGSTOP)
            asked = asyncio.ensure_future(stub.Stat(pb.StatRequest(header=header_message())))
            with pytest.raises(aio.AioRpcError) as late:
                await stub.Stat(pb.StatRequest(header=header_message()), timeout=STOPPED_SECONDS)
            assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            server.process.send_signal(signal.SIGCONT)
            assert (await asked).stored_pages == 2
        said = await asyncio.to_thread(server.wait_for_log, "was_stopped")
        assert said["seconds"] > STOPPED_SECONDS - 2
