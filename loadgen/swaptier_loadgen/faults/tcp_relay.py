"""A TCP relay whose connections can be cut: both ends get a reset, and what was on the way is gone.

Touches sockets. Bytes pass unchanged and unread.
"""

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Self

CHUNK_BYTES = 256 * 1024
"""Read at once: a full message of pages takes four."""

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER with a time of 0: close() sends RST."""


class RelayedConnection:
    """One relayed connection, from its accept to its end."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self._ends = (near, far)
        self.is_cut = False

    def cut(self) -> None:
        """Reset both ends, now."""
        self.is_cut = True
        for end in self._ends:
            held: socket.socket = end.get_extra_info("socket")
            with contextlib.suppress(OSError):  # closed already
                held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            end.transport.abort()


class TcpRelay:
    """Relays connections to `address` to one port of this machine. Entered for the length of a race."""

    def __init__(self, far_port: int) -> None:
        self._far_port = far_port
        self._connections: dict[int, RelayedConnection] = {}
        """By the port from which the far end sees the connection come."""
        self._relays: set[asyncio.Task[None]] = set()
        self.address = ""

    async def __aenter__(self) -> Self:
        """Listen on a free port of the loopback interface."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cut everything."""
        self._server.close()
        for connection in self._connections.values():
            connection.cut()
        for relay in self._relays:
            relay.cancel()
        if self._relays:
            await asyncio.wait(self._relays)

    def connection(self, far_peer_port: int) -> RelayedConnection | None:
        """Return the connection that the far end sees come from *far_peer_port*, unless it is gone."""
        return self._connections.get(far_peer_port)

    def _accept(self, near_reader: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        relay = asyncio.create_task(self._relay(near_reader, near_writer))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _relay(self, near_reader: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        """Carry bytes both ways until either end closes."""
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._far_port)
        except OSError:
            near_writer.transport.abort()
            return
        connection = RelayedConnection(near_writer, far_writer)
        port: int = far_writer.get_extra_info("sockname")[1]
        self._connections[port] = connection
        ways = [
            asyncio.create_task(_carry(near_reader, far_writer)),
            asyncio.create_task(_carry(far_reader, near_writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._connections[port]
            for way in ways:
                way.cancel()
            for writer in (near_writer, far_writer):
                writer.close()
            await asyncio.wait(ways)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end of *reader* or the loss of either."""
    with contextlib.suppress(OSError):
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
