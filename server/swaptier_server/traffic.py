"""The RPCs of the tier that are under way, and how a drain ends them.

Touches asyncio tasks. All methods run on the event loop. Rules:
  - while draining, no new RPC is let in: `enter` refuses it as Draining, which is definite;
  - a unary RPC that is in is finished;
  - a stream that is applying a message answers it, then ends; a stream that waits for a message ends at once. So
    when a stream ends by a drain, every message without an answer had no effect, and Draining is true of it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from grpc import aio

from swaptier_wire.errors import Draining

_T = TypeVar("_T")

DRAINING_TEXT = (
    "the server is shutting down and takes no new requests; nothing was applied. "
    "Its pages are held in memory only and end with it"
)


def is_end(message: object) -> bool:
    """Tell whether *message*, just read from a stream, says that there are no more."""
    return message is aio.EOF


class OpenStream:
    """One open stream, seen from its handler's task. Made by `Traffic.stream`."""

    def __init__(self, traffic: "Traffic", task: "asyncio.Task[object]") -> None:
        self._traffic = traffic
        self._task = task
        self._is_waiting = False

    async def next(self, read: Callable[[], Awaitable[_T]]) -> _T | None:
        """Return the next message of the stream, as *read* gives it, or None when the client has sent its last.

        Raises:
            Draining: the server shuts down; whatever came after the last answer was not applied. Definite.
        """
        self._is_waiting = True
        try:
            if self._traffic.is_draining:
                raise Draining(DRAINING_TEXT)
            message = await read()
        except asyncio.CancelledError:
            # Ours if we drain, the client's otherwise. If both, the client does not see the difference.
            if not self._traffic.is_draining:
                raise
            self._task.uncancel()
            raise Draining(DRAINING_TEXT) from None
        finally:
            self._is_waiting = False
        return None if is_end(message) else message

    def end(self) -> None:
        """Make the stream end: now when it waits for a message, else after the answer it is about to give."""
        if self._is_waiting:
            self._task.cancel()


class Traffic:
    """Counts what is under way and ends it on request."""

    def __init__(self) -> None:
        self.is_draining = False
        self.in_flight = 0
        """RPCs of the tier's service, streams included."""
        self._streams: set[OpenStream] = set()
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def open_streams(self) -> int:
        """Of `in_flight`, the streams."""
        return len(self._streams)

    @contextmanager
    def rpc(self) -> Iterator[None]:
        """Count an RPC while the block runs.

        Raises:
            Draining: the server shuts down. Definite.
        """
        if self.is_draining:
            raise Draining(DRAINING_TEXT)
        self.in_flight += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if self.in_flight == 0:
                self._quiet.set()

    @contextmanager
    def stream(self) -> Iterator[OpenStream]:
        """Register the stream that the current task handles while the block runs."""
        task = asyncio.current_task()
        assert task is not None, "streams are handled by tasks"
        stream = OpenStream(self, task)
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.discard(stream)

    async def drain(self, seconds: float) -> int:
        """Refuse what is new, end the streams, wait for the rest at most *seconds*; return what is still in flight."""
        self.is_draining = True
        for stream in list(self._streams):
            stream.end()
        try:
            await asyncio.wait_for(self._quiet.wait(), seconds)
        except TimeoutError:
            return self.in_flight
        return 0
