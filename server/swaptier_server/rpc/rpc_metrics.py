"""Metrics of RPCs, under the names that go-grpc-prometheus made customary.

Touches a prometheus registry. Every method of the services given, with every status code, exists from the start at
0, so that increase() sees the first event. Children are looked up once per method: the hot path pays one increment per
message. py-grpc-prometheus, the obvious library, has no grpc.aio support.
"""

import time
from collections.abc import Iterable

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from prometheus_client import CollectorRegistry, Counter, Histogram

HANDLING_SECONDS_BUCKETS = (
    50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip

_METHOD_LABELS = ("grpc_type", "grpc_service", "grpc_method")
_TYPES = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


class MethodMetrics:
    """The metrics of one method; what the guard of each RPC holds."""

    def __init__(self, parent: "RpcMetrics", labels: tuple[str, str, str]) -> None:
        self._started = parent.started.labels(*labels)
        self._handled = {code: parent.handled.labels(*labels, code_label(code)) for code in grpc.StatusCode}
        self._seconds = parent.seconds.labels(*labels)
        self.received = parent.received.labels(*labels)
        self.sent = parent.sent.labels(*labels)

    def start(self) -> float:
        """Count an RPC and return its start on the monotonic clock, in seconds."""
        self._started.inc()
        return time.perf_counter()

    def finish(self, started: float, code: grpc.StatusCode) -> float:
        """Count the end of the RPC that *started* then, with *code*; return how many seconds it took."""
        seconds = time.perf_counter() - started
        self._handled[code].inc()
        self._seconds.observe(seconds)
        return seconds


class RpcMetrics:
    """The RPC metrics of all methods of some services."""

    def __init__(self, registry: CollectorRegistry, services: Iterable[ServiceDescriptor]) -> None:
        self.started = Counter(
            "grpc_server_started_total", "RPCs started on the server.", _METHOD_LABELS, registry=registry
        )
        self.handled = Counter(
            "grpc_server_handled_total",
            "RPCs completed on the server, whatever their status.",
            (*_METHOD_LABELS, "grpc_code"),
            registry=registry,
        )
        self.seconds = Histogram(
            "grpc_server_handling_seconds",
            "Time an RPC was handled by the server; of a stream, its whole life.",
            _METHOD_LABELS,
            buckets=HANDLING_SECONDS_BUCKETS,
            registry=registry,
        )
        self.received = Counter(
            "grpc_server_msg_received_total", "Messages received by the server.", _METHOD_LABELS, registry=registry
        )
        self.sent = Counter(
            "grpc_server_msg_sent_total", "Messages sent by the server.", _METHOD_LABELS, registry=registry
        )
        self._methods = {
            f"/{service.full_name}/{method.name}": MethodMetrics(
                self, (_TYPES[_streaming(method)], service.full_name, method.name)
            )
            for service in services
            for method in service.methods
        }

    def method(self, path: str) -> MethodMetrics:
        """Return the metrics of the method at *path*, as in /package.Service/Method. It is one of the services'."""
        return self._methods[path]


def code_label(code: grpc.StatusCode) -> str:
    """Return *code* as go-grpc spells it: NotFound for NOT_FOUND; its two oddities are OK and Canceled."""
    if code is grpc.StatusCode.OK:
        return "OK"
    if code is grpc.StatusCode.CANCELLED:
        return "Canceled"
    return "".join(word.capitalize() for word in code.name.split("_"))


def _streaming(method: MethodDescriptor) -> tuple[bool, bool]:
    return method.client_streaming, method.server_streaming
