"""The gRPC server: its options and its services.

Touches gRPC.
"""

from collections.abc import Callable
from typing import Final

from google.protobuf.descriptor import ServiceDescriptor
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection, reflection_pb2

from swaptier.v1 import swaptier_pb2, swaptier_pb2_grpc
from swaptier_server.rpc.unknown_methods import server_that_refuses_them
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
REFUSED_CALLS_MAX: Final = 4096
"""Calls that are being refused, for which gRPC needs places too, so that who is refused takes nobody's. A refusal takes
about 1 ms and 20 kB; with all places taken gRPC itself refuses whoever comes."""
HANDSHAKE_SECONDS_MAX: Final = 10
"""From the connection to its first HTTP/2 frame, TLS included. gRPC's own limit is two minutes."""
CONNECTION_IDLE_SECONDS_MAX: Final = 600
"""A connection without any call is closed after this; its client opens another when it needs one."""


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
    refused: Callable[[str], None],
) -> aio.Server:
    """Return a server of all services, behind *guard*, for at most *calls_max* at once; nothing is bound yet.

    *refused* is called with the peer of each call of a method that none of them has.
    """
    server = server_that_refuses_them(guard, options, calls_max, refused)
    swaptier_pb2_grpc.add_SwapTierServiceServicer_to_server(tier, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection([service.full_name for service in SERVICES], server)
    return server
