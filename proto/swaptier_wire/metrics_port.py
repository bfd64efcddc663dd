"""The port where Prometheus asks either program for its metrics: small, bounded, in a thread of its own.

Touches a socket, a thread and the log. Rules of conduct:

- It never has more than CONNECTIONS_MAX connections, and each ends within CONNECTION_SECONDS_MAX, whatever its client
  does. For a new one the oldest that still owes its request goes.
- What clients do wrong is one log line in LOG_SECONDS with a count, never a traceback.
- A request is answered and its connection closed; it opens no file.
- The answer is what prometheus_client makes of the registry: format and compression as the client accepts them.
- Who may not ask learns nothing but that: 401, whatever it asked for. No answer repeats anything of its request.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from typing import Final, Protocol
from urllib.parse import urlsplit

from prometheus_client import make_wsgi_app
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

PATHS: Final = frozenset({"/metrics", "/"})
"""Where the metrics are: also where a browser looks that was given the port alone."""

CONNECTIONS_MAX: Final = 16
"""At once. A scraper needs one, for some milliseconds."""
CONNECTION_SECONDS_MAX: Final = 10.0
"""From accepting a connection to the end of its answer: Prometheus itself waits no longer."""
REQUEST_BYTES_MAX: Final = 16 * 1024
"""Of a request's head; more is no scrape."""
BACKLOG: Final = 128
"""Connections that wait in the kernel to be accepted; they cost no descriptor."""
EXHAUSTED_SECONDS: Final = 1.0
"""Until the next attempt where no descriptor was left for a connection."""
LOG_SECONDS: Final = 60.0
BEARER: Final = "bearer "
"""The scheme of RFC 6750; of either case."""

_log: Final = logging.getLogger("swaptier.metrics")


class Scrapers(Protocol):
    """Who may ask. Looked at anew for each connection, from the port's thread."""

    @property
    def security(self) -> ssl.SSLContext | None:
        """What TLS needs; None for plain HTTP."""

    def may_ask(self, authorization: Sequence[str]) -> bool:
        """Tell whether a request with these headers `Authorization` is answered."""


class Everybody:
    """Whoever can connect may ask."""

    security = None

    def may_ask(self, authorization: Sequence[str]) -> bool:
        """Tell that it is."""
        return True


def bearer_token(headers: Sequence[str]) -> str | None:
    """Return the token in the one header `Authorization`, None where there is none or another."""
    if len(headers) != 1 or not headers[0].lower().startswith(BEARER):
        return None
    return headers[0][len(BEARER) :].strip()


class _Families(Collector):
    """What a scrape gets: all families, or those that it names with name[], whole or single samples."""

    def __init__(self, families: Collector, names: frozenset[str] = frozenset()) -> None:
        self._families: Final = families
        self._names: Final = names

    def restricted_registry(self, names: Iterable[str]) -> "_Families":
        """Return the families or samples of these *names*.

        The library's own leaves collectors out that do not list their families beforehand.
        """
        return _Families(self._families, frozenset(names))

    def collect(self) -> Iterator[Metric]:
        """Yield what is asked for."""
        for family in self._families.collect():
            if self._names and family.name not in self._names:
                family.samples = [sample for sample in family.samples if sample.name in self._names]
            if family.samples or not self._names:
                yield family


class _Exchange(BaseHTTPRequestHandler):
    """One request, read from memory and answered into memory: `answer` is complete once it is made."""

    protocol_version = "HTTP/1.1"

    def __init__(self, head: bytes, families: Collector, scrapers: Scrapers) -> None:
        self._scrapers: Final = scrapers
        self._app: Final = make_wsgi_app(families)
        self.rfile, self.wfile = BytesIO(head), BytesIO()
        self.client_address = ("", 0)
        self.handle_one_request()
        self.answer: Final = self.wfile.getvalue()

    def do_GET(self) -> None:
        """Answer with the metrics, or with 404 where there are none, or with 401 if they are not for who asks."""
        if not self._scrapers.may_ask(self.headers.get_all("Authorization", [])):
            self._send("401 Unauthorized", [("WWW-Authenticate", "Bearer")], b"")
            return
        try:
            url = urlsplit(self.path)
        except ValueError:
            self.send_error(400)
            return
        if url.path not in PATHS:
            self._send("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")], b"metrics are at /metrics\n")
            return
        environ = {
            "REQUEST_METHOD": "GET" if self.command == "HEAD" else self.command,
            "PATH_INFO": url.path,
            "QUERY_STRING": url.query,
            "HTTP_ACCEPT": ",".join(self.headers.get_all("Accept", [])),
            "HTTP_ACCEPT_ENCODING": ",".join(self.headers.get_all("Accept-Encoding", [])),
        }
        begun: list[tuple[str, list[tuple[str, str]]]] = []
        body = b"".join(self._app(environ, lambda status, headers: begun.append((status, headers))))
        self._send(*begun[0], body)

    do_HEAD = do_OPTIONS = do_POST = do_PUT = do_DELETE = do_PATCH = do_GET  # noqa: N815 - as above

    def _send(self, status: str, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        code, _, reason = status.partition(" ")
        self.send_response(int(code), reason)
        for name, value in (*headers, ("Content-Length", str(len(body))), ("Connection", "close")):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with a status: the library's own answer repeats the request."""
        self._send(f"{int(code)} {HTTPStatus(code).phrase}", [], b"")

    def version_string(self) -> str:
        """Return what answers; its version is one of the metrics."""
        return "swaptier"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Log nothing: a client could fill the log."""


class MetricsPort:
    """Serves a registry over HTTP. Made serving; `stop()` ends it."""

    def __init__(self, host: str, port: int, families: Collector, scrapers: Scrapers | None = None) -> None:
        """Serve *families* at *host*, a name or an address without brackets, and *port*, 0 for any free one.

        Only *scrapers* are answered; everybody without.

        Raises:
            OSError: the address cannot be had.
        """
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self._families: Final = _Families(families)
        self._scrapers: Final = Everybody() if scrapers is None else scrapers
        self._listening: Final = socket.socket(family, kind, protocol)
        try:
            self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listening.setblocking(False)
            self._listening.bind(address)
            self._listening.listen(BACKLOG)
        except OSError:
            self._listening.close()
            raise
        self.port: Final[int] = self._listening.getsockname()[1]
        self._owing: Final[dict[asyncio.Task[None], None]] = {}
        """Connections whose request is not complete, the oldest first."""
        self._open: Final[dict[asyncio.Task[None], None]] = {}
        self._dropped = 0
        self._last_reason = ""
        self._is_silent = False
        self._loop: Final = asyncio.new_event_loop()
        self._acceptor: Final = self._loop.create_task(self._serve())
        self._thread: Final = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the port and every connection; returns when the thread has ended."""
        with contextlib.suppress(RuntimeError):  # it was stopped before
            self._loop.call_soon_threadsafe(self._acceptor.cancel)
        self._thread.join()

    # All below runs in the thread.

    def _run(self) -> None:
        with contextlib.closing(self._loop), contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._acceptor)

    async def _serve(self) -> None:
        """Take connections until this is cancelled."""
        try:
            with self._listening:
                await self._accept_for_ever()
        finally:
            for task in self._open:
                task.cancel()
            if self._open:
                await asyncio.wait(list(self._open))

    async def _accept_for_ever(self) -> None:
        while True:
            if len(self._open) >= CONNECTIONS_MAX:
                oldest = next(iter(self._owing or self._open))
                self._drop("more connected", oldest)
                await asyncio.wait([oldest])
            try:
                connection = await self._accept()
            except OSError as error:  # no descriptor is left, or the client is gone already
                self._drop(str(error.strerror))
                await asyncio.sleep(EXHAUSTED_SECONDS)
                continue
            task = self._loop.create_task(self._answer(connection))
            self._open[task] = self._owing[task] = None
            task.add_done_callback(self._forget)
            await asyncio.sleep(0)  # it begins, so that it closes the connection however it ends

    async def _accept(self) -> socket.socket:
        """Return the next connection. One that sock_accept() has when it is cancelled is lost, and stays open."""
        connected = asyncio.Event()
        self._loop.add_reader(self._listening, connected.set)
        try:
            while True:
                await connected.wait()
                connected.clear()
                with contextlib.suppress(BlockingIOError):
                    connection, _ = self._listening.accept()
                    connection.setblocking(False)
                    return connection
        finally:
            self._loop.remove_reader(self._listening)

    async def _answer(self, connection: socket.socket) -> None:
        """Take one request of *connection*, answer it and close it."""
        try:
            async with asyncio.timeout(CONNECTION_SECONDS_MAX), self._streams(connection) as (reader, writer):
                head = await _head(reader)
                if head is None:
                    return
                self._owing.pop(_this_task(), None)
                writer.write(_Exchange(head, self._families, self._scrapers).answer)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except TimeoutError:
            self._drop(f"not done within {CONNECTION_SECONDS_MAX:g} s")
        except OSError:  # the client is gone, or speaks no TLS
            return
        except Exception as defect:  # noqa: BLE001 - whatever it is, the next scrape is answered
            self._drop(f"a defect of this program, {defect!r}")

    @contextlib.asynccontextmanager
    async def _streams(
        self, connection: socket.socket
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Give what reads and writes *connection*, which is gone afterwards."""
        reader = asyncio.StreamReader(REQUEST_BYTES_MAX)
        protocol = asyncio.StreamReaderProtocol(reader)
        with connection:
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=self._scrapers.security
            )
            try:
                yield reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)
            finally:
                transport.abort()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._open.pop(task, None)
        self._owing.pop(task, None)

    def _drop(self, reason: str, task: asyncio.Task[None] | None = None) -> None:
        """Count a connection that got no answer, and end its *task*; say so at most once in LOG_SECONDS."""
        if task is not None:
            task.cancel()
        self._dropped += 1
        self._last_reason = reason
        if not self._is_silent:
            self._say()

    def _say(self) -> None:
        self._is_silent = self._dropped > 0
        if self._is_silent:
            _log.warning("metrics: connections without an answer: %d, the last: %s", self._dropped, self._last_reason)
            self._dropped = 0
            self._loop.call_later(LOG_SECONDS, self._say)


async def _head(reader: asyncio.StreamReader) -> bytes | None:
    """Return the head of the request, as far as REQUEST_BYTES_MAX; None from a client that says nothing more."""
    head = b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head and len(head) < REQUEST_BYTES_MAX:
        more = await reader.read(REQUEST_BYTES_MAX)
        if not more:
            return None
        head += more
    return head


def _this_task() -> "asyncio.Task[None]":
    task: asyncio.Task[None] | None = asyncio.current_task()
    assert task is not None, "called by one"
    return task
