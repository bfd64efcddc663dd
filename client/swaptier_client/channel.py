"""Connects to a tier server: the channel's options, and an error that says what is wrong with the address.

Touches the network (grpc.aio). Nothing is sent here, so every error is definite.
"""

import asyncio

import grpc
from grpc import aio

from swaptier_client.security import PLAIN, Security
from swaptier_wire.errors import TierUnreachable
from swaptier_wire.types import BATCH_SLOTS_MAX, PAGE_BYTES

MESSAGE_OVERHEAD_BYTES = 64 * 1024
"""Columns and headers of the largest message, generously."""

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # without it a stopped server is noticed after a minute only
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", BATCH_SLOTS_MAX * PAGE_BYTES + MESSAGE_OVERHEAD_BYTES),
    ("grpc.max_metadata_size", 8_192),
    # An exclusive load that is sent twice loses its page. A service config that names the idempotent calls alone would
    # not do: with retries on, gRPC by itself sends a stream that got GOAWAY again, on a connection that saw no Swapon.
    # What is idempotent is asked again by `transport.py`, which knows when it may be.
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a connection per channel, not one shared by the process
)

WHY_SECONDS = 1.0
"""For asking a channel that has failed to connect why it did."""


async def connect(address: str, seconds: float, security: Security = PLAIN) -> aio.Channel:
    """Return a connected channel to *address*, HOST:PORT or unix:PATH; the caller closes it.

    Raises:
        TierUnreachable: no server answers there within *seconds*, or *security* cannot be used. Definite.
    """
    channel = security.channel(address, CHANNEL_OPTIONS)
    try:
        async with asyncio.timeout(seconds):
            failure = await _failure_to_connect(channel)
    except TimeoutError:
        failure = f"no connection within {seconds:g} s"
    except BaseException:
        await channel.close()
        raise
    if failure is None:
        return channel
    await channel.close()
    advice = security.hint(failure) or (
        f"Check the address, or start a server there: swaptier-server --listen {address}"
    )
    raise TierUnreachable(
        f"no swap tier answers at {address}: {failure}. Nothing was sent and no page is affected. {advice}",
        definite=True,
    )


async def _failure_to_connect(channel: aio.Channel) -> str | None:
    """Return None once *channel* is connected, or why its first attempt failed; a second is the caller's choice."""
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            return await _why(channel)
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)
    return None


async def _why(channel: aio.Channel) -> str:
    """Return what a channel in TRANSIENT_FAILURE says to any call: refused, unknown host, no such socket."""
    check: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
    try:
        await check(b"", timeout=WHY_SECONDS)
    except aio.AioRpcError as error:
        return error.details() or error.code().name
    return "it answered too late"
