"""The unary calls about one area, when nobody answers them."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from grpc import aio

from swaptier_client.area_calls import AreaCalls, HostArea
from swaptier_wire.channels import open_channel
from swaptier_wire.errors import TierUnreachable

AREA = HostArea("host", 1, "area", slots=8)
LONG_SECONDS = 60.0


@pytest.fixture(name="channel")
async def _channel() -> AsyncIterator[aio.Channel]:
    """A channel to somebody who takes connections and never says a word."""
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    async with open_channel(f"{host}:{port}") as channel:
        yield channel
    server.close()


async def test_a_call_whose_channel_is_closed_may_have_taken_effect(channel: aio.Channel) -> None:
    """GRPC raises CancelledError in whoever waits, whom nobody cancelled: a host's task must not end of that."""
    asking = asyncio.create_task(AreaCalls(channel, AREA, LONG_SECONDS).swapoff())
    await asyncio.sleep(0)
    await channel.close()
    with pytest.raises(TierUnreachable) as told:
        await asking
    assert not told.value.definite


async def test_a_caller_who_is_cancelled_is_cancelled(channel: aio.Channel) -> None:
    asking = asyncio.create_task(AreaCalls(channel, AREA, LONG_SECONDS).stat())
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
