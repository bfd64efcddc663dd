"""What a container engine learns from the health check, asked of a real health service."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from swaptier_server import healthcheck


@pytest.fixture
def served() -> Iterator[tuple[str, health.HealthServicer]]:
    """Serve nothing but health, on a free port."""
    servicer = health.HealthServicer()
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", servicer
    server.stop(None).wait()


def test_a_serving_server_is_healthy(served: tuple[str, health.HealthServicer]) -> None:
    """Status 0, and nothing is printed."""
    address, _ = served
    assert healthcheck.main([address]) == 0


def test_a_draining_server_is_not_healthy(
    served: tuple[str, health.HealthServicer], capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that flipped its health to drain is status 3, and the reason is said."""
    address, servicer = served
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert healthcheck.main([address]) == 3
    assert f"{address} is not serving: NOT_SERVING" in capsys.readouterr().err


def test_nobody_listening_is_not_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    """A closed port is status 3 at once, not a traceback."""
    assert healthcheck.main(["127.0.0.1:1"]) == 3
    assert "UNAVAILABLE" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["127.0.0.1:1", "127.0.0.1:2"]])
def test_wrong_usage_is_not_mistaken_for_an_unhealthy_server(arguments: list[str]) -> None:
    """Status 2 tells a typing error in a Dockerfile from a sick server."""
    assert healthcheck.main(arguments) == 2


@pytest.mark.parametrize(
    ("listening", "asked"),
    [
        (None, "127.0.0.1:50051"),
        ("0.0.0.0:6000", "127.0.0.1:6000"),
        ("[::]:6000", "[::1]:6000"),
        ("10.1.2.3:6000", "10.1.2.3:6000"),
        ("unix:/run/swaptier.sock", "unix:/run/swaptier.sock"),
    ],
)
def test_asks_where_the_server_of_this_container_listens(listening: str | None, asked: str) -> None:
    """SWAPTIER_LISTEN moves the server and its health check together."""
    environ = {} if listening is None else {"SWAPTIER_LISTEN": listening}
    assert healthcheck.target([], environ) == asked
