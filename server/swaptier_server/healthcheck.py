"""Ask a running server whether it serves, once: `python -m swaptier_server.healthcheck [HOST:PORT | unix:PATH]`.

Touches one connection, the command line and the environment. A container engine runs it every few seconds, so it
imports hardly more than gRPC. Exit status: 0 serving, 1 not serving or not there, 2 wrong usage. Without an argument it
asks where `SWAPTIER_LISTEN` says this container's server listens, else the server's default.

With `SWAPTIER_TLS_CERT` it speaks TLS and believes exactly that certificate, whatever name it has. With
`SWAPTIER_TLS_CLIENT_CA` it shows the server's own certificate as a client's; where that is of another authority, point
`SWAPTIER_HEALTH_TLS_CERT` and `SWAPTIER_HEALTH_TLS_KEY` to one that the server accepts. It needs no token.

Rule: it is an ordinary client of grpc.health.v1 and knows nothing of the server's inside.
"""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from swaptier_server.access.certificates import CertificateUnusable, try_out
from swaptier_wire.addresses import Address
from swaptier_wire.channels import open_channel
from swaptier_wire.environment import withdraw_grpc_variables

DEFAULT_TARGET = "127.0.0.1:50051"
DEADLINE_SECONDS = 3.0
"""Shorter than the engine's own limit, so that the reason still gets printed."""
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - recognised here, not bound to
"""Where a server that listens everywhere can be reached from its own container."""


def target(arguments: Sequence[str], environ: Mapping[str, str]) -> str:
    """Return the address to ask.

    Raises:
        ValueError: what is given is none.
    """
    listening = Address.parse(arguments[0] if arguments else environ.get("SWAPTIER_LISTEN", DEFAULT_TARGET))
    if listening.is_unix or listening.host not in _EVERYWHERE:
        return listening
    return f"{_EVERYWHERE[listening.host]}:{listening.port}"


def security(environ: Mapping[str, str]) -> tuple[grpc.ChannelCredentials | None, list[tuple[str, str]]]:
    """Return what the server of *environ* wants to see, None where it speaks plain text, and the name to expect.

    Raises:
        CertificateUnusable, OSError: a file cannot be used or read.
    """
    server, server_key = (environ.get(f"SWAPTIER_TLS_{what}", "") for what in ("CERT", "KEY"))
    if not server:
        return None, []
    certificate = try_out(Path(server), Path(server_key))
    names = [("grpc.ssl_target_name_override", host.replace("*", "any")) for host in certificate.hosts[:1]]
    if not environ.get("SWAPTIER_TLS_CLIENT_CA"):
        return grpc.ssl_channel_credentials(Path(server).read_bytes()), names
    cert = environ.get("SWAPTIER_HEALTH_TLS_CERT", server)
    key = environ.get("SWAPTIER_HEALTH_TLS_KEY", server_key)
    return grpc.ssl_channel_credentials(*(Path(name).read_bytes() for name in (server, key, cert))), names


async def check(address: str, environ: Mapping[str, str]) -> str:
    """Return the status of the whole server at *address*, "SERVING" when all is well, else why it cannot be told."""
    try:
        credentials, names = security(environ)
    except (CertificateUnusable, OSError) as error:
        return str(error)
    async with open_channel(address, credentials, names) as channel:
        request = health_pb2.HealthCheckRequest(service="")
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=DEADLINE_SECONDS)
        except aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main(arguments: Sequence[str]) -> int:
    """Check once; say what was found when it is not "SERVING"."""
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
        sys.stderr.write("usage: python -m swaptier_server.healthcheck [HOST:PORT | unix:PATH]\n")
        return 2
    try:
        address = target(arguments, os.environ)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    withdraw_grpc_variables()  # the server says so
    status = asyncio.run(check(address, os.environ))
    if status == "SERVING":
        return 0
    sys.stderr.write(f"{address} is not serving: {status}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
