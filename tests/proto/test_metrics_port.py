"""The metrics port: what Prometheus asks for it gets, and nothing that a client does takes more than its share."""

import gzip
import http.client
import logging
import socket
import ssl
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from swaptier_wire import metrics_port
from swaptier_wire.metrics_port import CONNECTIONS_MAX, MetricsPort

PATIENCE_SECONDS = 30
"""Only a failing test waits so long."""


class Undescribed(Collector):
    """Does not list its families beforehand, like those of both programs."""

    def collect(self) -> Iterator[Metric]:
        """Yield two."""
        yield CounterMetricFamily("things", "Things.", 3)
        yield GaugeMetricFamily("level", "Level.", 7)


@pytest.fixture
def port() -> Iterator[MetricsPort]:
    """A port that serves two families and a histogram."""
    registry = CollectorRegistry()
    registry.register(Undescribed())
    Histogram("seconds", "Seconds.", registry=registry).observe(1)
    serving = MetricsPort("127.0.0.1", 0, registry)
    yield serving
    serving.stop()


def ask(
    port: MetricsPort, path: str = "/metrics", method: str = "GET", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port.port, timeout=PATIENCE_SECONDS)
    connection.request(method, path, headers=headers)
    with connection.getresponse() as response:
        return response.status, response.headers, response.read()


def half_sent(port: MetricsPort) -> socket.socket:
    """Return a connection with half a request."""
    connection = socket.create_connection(("127.0.0.1", port.port), timeout=PATIENCE_SECONDS)
    connection.sendall(b"GET /metrics HTTP/1.1\r\nHost:")
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Wait for the end of what it gets."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize("path", ["/favicon.ico", "/metrics/", "/metric", "/healthz?name[]=level", "*"])
def test_metrics_are_at_their_path_alone(port: MetricsPort, path: str, method: str) -> None:
    """What asks for something else is told that it is not there, and not that all is well."""
    status, _, body = ask(port, path, method)
    assert (status, body) == (404, b"" if method == "HEAD" else b"metrics are at /metrics\n")


@pytest.mark.parametrize("path", ["/metrics", "/", "/metrics?x=1", "http://127.0.0.1/metrics"])
def test_a_scrape_gets_all_families(port: MetricsPort, path: str) -> None:
    """Also where a browser looks, and from a client that names the whole URL."""
    status, headers, body = ask(port, path)
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert b"\nthings_total 3.0\n" in body
    assert b"\nlevel 7.0\n" in body


def test_head_gets_the_head_of_get(port: MetricsPort) -> None:
    """The same status, type and length, and no body."""
    status, headers, body = ask(port, method="HEAD")
    _, whole, text = ask(port)
    assert (status, body) == (200, b"")
    assert headers["Content-Type"] == whole["Content-Type"]
    assert int(headers["Content-Length"]) == len(text)


def test_other_methods_are_refused_with_those_that_are_not(port: MetricsPort) -> None:
    """405 and Allow."""
    status, headers, _ = ask(port, method="POST")
    assert (status, headers["Allow"]) == (405, "OPTIONS,GET")
    assert ask(port, method="OPTIONS")[0] == 200


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("name[]=things_total", {"things_total"}),
        ("name%5B%5D=things", {"things_total"}),
        ("name[]=level&name[]=things_total", {"level", "things_total"}),
        ("name[]=seconds_count", {"seconds_count"}),
        ("name[]=no_such", set()),
    ],
)
def test_a_scrape_can_name_what_it_wants(port: MetricsPort, query: str, shown: set[str]) -> None:
    """A family or a sample of it, also of a collector that does not list its families."""
    _, _, body = ask(port, f"/metrics?{query}")
    assert {line.partition(" ")[0] for line in body.decode().splitlines() if not line.startswith("#")} == shown


def test_a_scrape_gets_the_format_and_compression_that_it_accepts(port: MetricsPort) -> None:
    """As prometheus_client chooses them."""
    _, headers, body = ask(port, Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    _, headers, body = ask(port, **{"Accept-Encoding": "gzip"})
    assert headers["Content-Encoding"] == "gzip"
    assert b"level 7.0" in gzip.decompress(body)


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text; version=x\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"x: y\r\n" * 2000 + b"\r\n",
        b"x" * 20_000,
        b"GET /metrics\r\n\r\n",
    ],
)
def test_nonsense_ends_its_connection_and_nothing_else(
    port: MetricsPort, sent: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """A refusal or nothing, no traceback; the next scrape is answered."""
    with socket.create_connection(("127.0.0.1", port.port), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(sent)
        try:
            while connection.recv(4096):
                pass
        except ConnectionResetError:
            pass  # closed with some of the nonsense unread
    assert ask(port)[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_for_a_new_connection_the_oldest_that_owes_its_request_goes(
    port: MetricsPort, caplog: pytest.LogCaptureFixture
) -> None:
    """So slow clients cannot keep a scrape out; that they lost theirs is one line in the log."""
    with caplog.at_level(logging.WARNING):
        slow = [half_sent(port) for _ in range(CONNECTIONS_MAX + 3)]
        assert [is_closed(connection) for connection in slow[:3]] == [True, True, True]
        assert ask(port)[0] == 200
        assert is_closed(slow[3])
    for connection in slow:
        connection.close()
    assert len(caplog.records) == 1


def test_a_connection_ends_in_time_whatever_its_client_does(
    port: MetricsPort, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that says nothing, one that says half."""
    monkeypatch.setattr(metrics_port, "CONNECTION_SECONDS_MAX", 0.05)
    with socket.create_connection(("127.0.0.1", port.port), timeout=PATIENCE_SECONDS) as idle, half_sent(port) as slow:
        assert is_closed(idle)
        assert is_closed(slow)
    assert "not done within 0.05 s" in caplog.text


def test_a_client_of_a_port_with_tls_that_shakes_no_hands_is_dropped_in_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A handshake that never ends holds a connection no longer than a request that never ends."""
    monkeypatch.setattr(metrics_port, "CONNECTION_SECONDS_MAX", 0.05)

    class ByTls(metrics_port.Everybody):
        security = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # type: ignore[assignment]  # else there is none

    port = MetricsPort("127.0.0.1", 0, CollectorRegistry(), ByTls())
    try:
        with socket.create_connection(("127.0.0.1", port.port), timeout=PATIENCE_SECONDS) as idle:
            assert is_closed(idle)
        with socket.create_connection(("127.0.0.1", port.port), timeout=PATIENCE_SECONDS) as plain:
            plain.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            while not is_closed(plain):
                continue
    finally:
        port.stop()
    assert "not done within 0.05 s" in caplog.text


def test_a_stopped_port_is_free_and_its_connections_are_closed(port: MetricsPort) -> None:
    """Stopped twice is stopped."""
    with half_sent(port) as slow:
        port.stop()
        assert is_closed(slow)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port.port))
    port.stop()
