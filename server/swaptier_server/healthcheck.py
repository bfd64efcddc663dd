"""Ask a running server whether it serves, once: `python -m swaptier_server.healthcheck [HOST:PORT | unix:PATH]`.

Touches one connection, the command line and the environment. A container engine runs it every few seconds, so it
imports hardly more than gRPC. Exit status: 0 serving; 2 wrong usage, or a file that cannot be used; 3 not serving or
not there. Without an argument it asks where `SWAPTIER_LISTEN` says this container's server listens, else the server's
default.

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
from swaptier_server.access.reloading import FILE_BYTES_MAX
from swaptier_server.errors import ConfigError
from swaptier_wire.addresses import Address
from swaptier_wire.channels import open_channel
from swaptier_wire.environment import withdraw_grpc_variables
from swaptier_wire.process.endings import to_an_end
from swaptier_wire.process.exit_status import ExitStatus
from swaptier_wire.process.small_file import FileUnusable, SmallFile, read_small_file

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
        ConfigError: a file cannot be read or used.
    """
    server = environ.get("SWAPTIER_TLS_CERT", "")
    if not server:
        return None, []
    cert, key = _file("SWAPTIER_TLS_CERT", server), _file("SWAPTIER_TLS_KEY", environ.get("SWAPTIER_TLS_KEY", ""))
    try:
        certificate = try_out(cert, key)
    except CertificateUnusable as error:
        raise ConfigError(f"SWAPTIER_TLS_CERT: {error}") from error
    names = [("grpc.ssl_target_name_override", host.replace("*", "any")) for host in certificate.hosts[:1]]
    if not environ.get("SWAPTIER_TLS_CLIENT_CA"):
        return grpc.ssl_channel_credentials(cert.content), names
    shown, shown_key = (
        _file(variable, environ[variable]) if environ.get(variable) else ours
        for variable, ours in (("SWAPTIER_HEALTH_TLS_CERT", cert), ("SWAPTIER_HEALTH_TLS_KEY", key))
    )
    return grpc.ssl_channel_credentials(cert.content, shown_key.content, shown.content), names


def _file(variable: str, path: str) -> SmallFile:
    try:
        return read_small_file(Path(path), FILE_BYTES_MAX)
    except FileUnusable as error:
        raise ConfigError(f"{variable}: {error}") from error


async def check(address: str, environ: Mapping[str, str]) -> str:
    """Return the status of the whole server at *address*, "SERVING" when all is well, else why it cannot be told.

    Raises:
        ConfigError: a file cannot be read or used.
    """
    credentials, names = security(environ)
    async with open_channel(address, credentials, names) as channel:
        request = health_pb2.HealthCheckRequest(service="")
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=DEADLINE_SECONDS)
        except aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


PROGRAM = "healthcheck"
"""Before a line of this file run by itself; as a command of the server there is more."""


def main(arguments: Sequence[str], program: str = PROGRAM) -> int:
    """Check once; say as *program* what was found when it is not "SERVING"."""
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
        sys.stderr.write("usage: python -m swaptier_server.healthcheck [HOST:PORT | unix:PATH]\n")
        return ExitStatus.USAGE
    withdraw_grpc_variables()  # the server says so
    try:
        address = target(arguments, os.environ)
        status = asyncio.run(check(address, os.environ))
    except (ValueError, ConfigError) as error:
        sys.stderr.write(f"{program}: {error}\n")
        return ExitStatus.USAGE
    if status == "SERVING":
        return ExitStatus.AS_SPECIFIED
    sys.stderr.write(f"{program}: {address} is not serving: {status}\n")
    return ExitStatus.UNREACHABLE


if __name__ == "__main__":
    sys.exit(to_an_end(PROGRAM, lambda: main(sys.argv[1:])))
