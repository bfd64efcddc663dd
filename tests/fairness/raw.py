"""Attacks below gRPC: connections that come and go, frames and messages of some bytes, calls that are reset at once.

Touches sockets. Each attack yields how much it has done, again and again; what ends its connection makes it open
another one. It blocks: an attacker's process does nothing else.
"""

import selectors
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import count
from typing import Final

from tests.fairness.machine import ATTACKER
from tests.server import http2
from tests.server.http2 import Type, frame
from tests.server.pki import bearer

PATH: Final = b"/swaptier.v1.SwapTierService/"
BURST: Final = 64
"""Frames or calls that are sent in one go."""
CONNECTIONS: Final = 16
"""Opened before the first of them is closed again."""
READ_BYTES: Final = 1 << 18
CONNECT_SECONDS_MAX: Final = 10.0
WAIT_SECONDS: Final = 0.1
_CANCEL: Final = struct.pack(">I", 8)
_WIDE: Final = frame(Type.SETTINGS, 0, 0, struct.pack(">HI", 4, (1 << 31) - 1)) + frame(
    Type.WINDOW_UPDATE, 0, 0, struct.pack(">I", (1 << 31) - 1 - 65_535)
)
"""No flow control, so that answers are not held up."""

Address = tuple[str, int]


def churn(address: Address) -> Iterator[int]:
    """Open connections and close them."""
    while True:
        made = [socket.create_connection(address, CONNECT_SECONDS_MAX) for _ in range(CONNECTIONS)]
        for connection in made:
            with closing(connection), suppress(OSError):
                connection.sendall(http2.hello())
                connection.recv(READ_BYTES)
        yield len(made)


def small_frames(address: Address) -> Iterator[int]:
    """Send the smallest frames that a stream may have, empty ones, on one connection."""
    burst = frame(Type.WINDOW_UPDATE, 0, 0, struct.pack(">I", 0x00000001)) * BURST
    yield from _for_ever(address, lambda: burst)


def small_messages(address: Address) -> Iterator[int]:
    """Send empty messages on a stream, each of which is answered by an error."""
    burst = frame(Type.DATA, 0, 1, bytes(5)) * BURST
    yield from _for_ever(address, lambda: burst)


def resets(address: Address) -> Iterator[int]:
    """Begin calls and reset each at once."""
    streams = count(3, 2)

    def burst() -> bytes:
        return b"".join(
            http2.request(stream, PATH + b"Exchange", None, bearer(ATTACKER))
            + frame(Type.RST_STREAM, 0, stream, _CANCEL)
            for stream in (next(streams) for _ in range(BURST))
        )

    yield from _for_ever(address, burst)


def _for_ever(address: Address, burst: Callable[[], bytes]) -> Iterator[int]:
    """Send *burst* after *burst* behind the head of a call on stream 1; connect again whenever that ends."""
    while True:
        with closing(socket.create_connection(address, CONNECT_SECONDS_MAX)) as connection, suppress(OSError):
            connection.sendall(http2.hello() + _WIDE + http2.request(1, PATH + b"Exchange", None, bearer(ATTACKER)))
            connection.setblocking(False)
            with selectors.DefaultSelector() as selector:
                selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
                yield from _pump(connection, selector, burst)


def _pump(connection: socket.socket, selector: selectors.BaseSelector, burst: Callable[[], bytes]) -> Iterator[int]:
    """Send and read until the connection ends."""
    left = b""
    while True:
        for _, ready in selector.select(WAIT_SECONDS):
            if ready & selectors.EVENT_READ and not connection.recv(READ_BYTES):
                return
            if ready & selectors.EVENT_WRITE:
                left = left or burst()
                left = left[connection.send(left) :]
        yield 0 if left else BURST
