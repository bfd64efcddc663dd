"""Ask a running server whether it serves, once: `python -m swaptier_server.healthcheck [HOST:PORT | unix:PATH]`.

Touches one connection, the command line and the environment. A container engine runs it every few seconds, so it
imports nothing but gRPC. Exit status: 0 serving, 1 not serving or not there, 2 wrong usage. Without an argument it
asks where `SWAPTIER_LISTEN` says this container's server listens, else the server's default.

Rule: it is an ordinary client of grpc.health.v1 and knows nothing of the server's inside.
"""

import os
import sys
from collections.abc import Mapping, Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

DEFAULT_TARGET = "127.0.0.1:50051"
DEADLINE_SECONDS = 3.0
"""Shorter than the engine's own limit, so that the reason still gets printed."""
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - recognised here, not bound to
"""Where a server that listens everywhere can be reached from its own container."""


def target(arguments: Sequence[str], environ: Mapping[str, str]) -> str:
    """Return the address to ask."""
    listening = arguments[0] if arguments else environ.get("SWAPTIER_LISTEN", DEFAULT_TARGET)
    if listening.startswith("unix:"):
        return listening
    host, colon, port = listening.rpartition(":")
    return f"{_EVERYWHERE.get(host, host)}{colon}{port}"


def check(address: str) -> str:
    """Return the status of the whole server at *address*, "SERVING" when all is well, else why it cannot be told."""
    # A proxy from the environment must not stand between a container and itself.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        request = health_pb2.HealthCheckRequest(service="")
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=DEADLINE_SECONDS)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main(arguments: Sequence[str]) -> int:
    """Check once; say what was found when it is not "SERVING"."""
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
        sys.stderr.write("usage: python -m swaptier_server.healthcheck [HOST:PORT | unix:PATH]\n")
        return 2
    address = target(arguments, os.environ)
    status = check(address)
    if status == "SERVING":
        return 0
    sys.stderr.write(f"{address} is not serving: {status}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
