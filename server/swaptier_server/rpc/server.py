"""The gRPC server: its options, its services, and its successor when it ends by itself.

Touches gRPC and the event loop.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from google.protobuf.descriptor import ServiceDescriptor
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection, reflection_pb2

from swaptier.v1 import swaptier_pb2, swaptier_pb2_grpc
from swaptier_server.errors import ConfigError
from swaptier_server.logs import get_log
from swaptier_wire.types import PAGE_BYTES

SERVICES: Final[tuple[ServiceDescriptor, ...]] = (
    swaptier_pb2.DESCRIPTOR.services_by_name["SwapTierService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
)
SERVICE: Final[str] = SERVICES[0].full_name

MESSAGE_OVERHEAD_BYTES: Final = 64 * 1024
"""Of the largest message besides its pages: columns of about 30 bytes a slot, and a header."""
WINDOW_BYTES: Final = 256 * 1024
"""What a stream may send ahead of being read: enough for 500 MB/s at 0.5 ms round trip."""
CONNECTIONS_MAX: Final = 16_384
"""Open at once; more are closed as they come. An idle one costs some 30 kB and a file descriptor."""
HANDSHAKE_SECONDS_MAX: Final = 10
"""From the connection to its first HTTP/2 frame, TLS included. gRPC's own limit is two minutes."""
CONNECTION_IDLE_SECONDS_MAX: Final = 600
"""A connection without any call is closed after this; its client opens another when it needs one."""

RETIRED_MAX: Final = 8
"""Servers that ended by themselves and still have calls; of more, the oldest is cut off."""
RETIRED_SECONDS_MAX: Final = 86_400
"""How long such a server may finish its calls: streams live as long as their clients."""
LOOK_SECONDS: Final = 0.1
"""How soon the end of a server is noticed that still has calls."""
RESTART_SECONDS_MAX: Final = 5.0
"""How long an address may be in use after the end of the server that had it."""
LOG_SECONDS: Final = 60.0


def channel_options(batch_slots_max: int, connections_max: int = CONNECTIONS_MAX) -> tuple[tuple[str, int], ...]:
    """Return the server's options, for messages of at most *batch_slots_max* pages.

    There is no grpc.max_connection_age_ms: it would cut every Exchange stream after some minutes, and with it the only
    copy of each page whose exclusive load is being answered.
    """
    message_bytes_max = batch_slots_max * PAGE_BYTES + MESSAGE_OVERHEAD_BYTES
    return (
        ("grpc.so_reuseport", 0),  # else a second server on the same port starts silently and splits the store
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.max_send_message_length", message_bytes_max),
        # Fixed: gRPC's own measuring widens the window to megabytes, all of which a client that reads no answers fills.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        ("grpc.max_metadata_size", 8_192),
        ("grpc.max_concurrent_streams", 256),
        ("grpc.max_allowed_incoming_connections", connections_max),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS_MAX * 1000),
        ("grpc.max_connection_idle_ms", CONNECTION_IDLE_SECONDS_MAX * 1000),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.http2.ping_timeout_ms", 5_000),  # keepalive alone does not notice a peer that stopped
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),  # else clients that ping are sent away
    )


def make_grpc_server(
    tier: swaptier_pb2_grpc.SwapTierServiceServicer,
    health: health_aio.HealthServicer,
    guard: aio.ServerInterceptor,
    options: tuple[tuple[str, int], ...],
    calls_max: int,
) -> aio.Server:
    """Return a server of all services, behind *guard*, for at most *calls_max* at once; nothing is bound yet."""
    server = aio.server(interceptors=[guard], options=options, maximum_concurrent_rpcs=calls_max)
    swaptier_pb2_grpc.add_SwapTierServiceServicer_to_server(tier, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection([service.full_name for service in SERVICES], server)
    return server


class Listener:
    """A gRPC server at one address, and the next one there when it ends by itself. Started once, stopped once.

    grpc.aio decodes the names of unknown methods in the loop that takes calls, and ends when one is no UTF-8 (seen with
    grpcio 1.85.1): one request of anyone who can connect would end the service. The calls that such a server has taken
    go on, so it is kept for them, and a new one takes what comes. A call that comes in the very moment of the end can
    be broken off, or be left without an answer until its deadline.
    """

    def __init__(self, make: Callable[[], aio.Server], bind: Callable[[aio.Server], int]) -> None:
        """Serve by servers of *make*. *bind* gives one its port and returns it, or raises ConfigError."""
        self._make: Final = make
        self._bind: Final = bind
        self._server = make()
        self._retired: Final[dict[aio.Server, asyncio.Task[None]]] = {}
        """Servers that ended by themselves, oldest first, each with the task that waits for the end of its calls."""
        self._ends = 0
        self._silent_until = 0.0
        self._log: Final = get_log()

    async def start(self) -> int:
        """Begin to serve; return the port.

        Raises:
            ConfigError: the address cannot be had.
        """
        port = self._bind(self._server)
        await self._server.start()
        return port

    async def keep_serving(self) -> None:
        """Replace the server each time it ends.

        Raises:
            ConfigError: the address cannot be had any more.
        """
        while True:
            self._say_why(await _end_of(self._server))
            await self._retire(self._server)
            self._server = self._make()
            await self._start_again()

    async def stop(self, grace_seconds: float) -> None:
        """Stop taking calls and let those that are there end for *grace_seconds*."""
        await asyncio.gather(*(server.stop(grace_seconds) for server in (*self._retired, self._server)))

    async def _start_again(self) -> None:
        """Start as soon as the server before has let go of the address, which it does in a thread of its own."""
        latest = asyncio.get_running_loop().time() + RESTART_SECONDS_MAX
        while True:
            try:
                await self.start()
            except ConfigError:
                if asyncio.get_running_loop().time() > latest:
                    raise
                await asyncio.sleep(LOOK_SECONDS)
            else:
                return

    async def _retire(self, server: aio.Server) -> None:
        if len(self._retired) == RETIRED_MAX:
            await next(iter(self._retired)).stop(None)
        self._retired[server] = retirement = asyncio.create_task(server.stop(RETIRED_SECONDS_MAX))
        retirement.add_done_callback(lambda _: self._retired.pop(server))

    def _say_why(self, reason: str) -> None:
        """Log it, at most once in LOG_SECONDS: a client can cause one after the other."""
        self._ends += 1
        now = asyncio.get_running_loop().time()
        if now >= self._silent_until:
            self._silent_until = now + LOG_SECONDS
            self._log.error("grpc_ended", reason=reason, times=self._ends, meaning="another server takes its place")


async def _end_of(server: aio.Server) -> str:
    """Return why *server* ended, once it has."""
    try:
        while await server.wait_for_termination(LOOK_SECONDS):  # it returns by itself only when no call is left
            continue
    except Exception as error:  # noqa: BLE001 - gRPC's own, whatever it was
        return f"{type(error).__name__}: {error}"
    return "stopped"
