"""A call as its handler sees it: gRPC's context, with messages parsed and counted, and with who calls.

Touches gRPC, which sees bytes only: its own answer to bytes that are no message is UNKNOWN with the exception's text.
Every call is handled as a stream, a unary one too, so that it is counted and can be ended from its first byte on, not
from the moment its message is there. On the wire there is no difference.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Final, TypeAlias, TypeVar, cast

from google.protobuf.message import DecodeError, Message
from grpc import aio

from swaptier_server.access.access import Caller
from swaptier_server.rpc.rpc_metrics import MethodMetrics
from swaptier_server.rpc.traffic import OpenCall, is_end
from swaptier_server.tier.slices import Slices
from swaptier_wire.errors import InvalidRequest

PARSED_BYTES: Final = 64 << 10
"""Of a message, parsed in the time that a page takes."""

_T = TypeVar("_T")

RawContext: TypeAlias = "aio.ServicerContext[bytes, bytes]"
Parse: TypeAlias = Callable[[bytes], Message]
Serialize: TypeAlias = Callable[[Message], bytes]


class GuardedCall:
    """What handlers get as their context. What is not here goes through to gRPC's."""

    def __init__(
        self,
        context: RawContext,
        call: OpenCall,
        parse: Parse,
        serialize: Serialize,
        metrics: MethodMetrics,
        bytes_max: int | None = None,
        *,
        takes_turns: bool,
    ) -> None:
        """Take requests of at most *bytes_max*; None: as large as gRPC lets through."""
        self._context: Final = context
        self._call: Final = call
        self._parse: Final = parse
        self._serialize: Final = serialize
        self._metrics: Final = metrics
        self._bytes_max: Final = bytes_max
        self._takes_turns: Final = takes_turns
        """What is asked of it is work; health's is not, and is answered whatever else waits."""

    @property
    def caller(self) -> Caller:
        """Who calls, as far as the server asks."""
        return self._call.caller

    def hold(self, place: AbstractContextManager[_T]) -> _T:
        """Enter *place*, which the call leaves when it ends."""
        return self._call.places.enter_context(place)

    async def read_raw(self) -> bytes:
        """Read and count a message; gRPC's EOF after the last.

        Raises:
            SwapTierError: the call was ended from outside; see `traffic`. Definite.
        """
        raw = await self._call.next(self._context.read)
        if not is_end(raw):
            self._metrics.received.inc()
        return raw

    async def read(self) -> Message:
        """Read a message, and parse it in the caller's turn; gRPC's EOF after the last.

        Raises:
            InvalidRequest: it cannot be parsed, or is too large. Definite.
            SwapTierError: the call was ended from outside; see `traffic`. Definite.
        """
        raw = await self.read_raw()
        if is_end(raw):
            return cast("Message", raw)
        if self._bytes_max is not None and len(raw) > self._bytes_max:
            raise InvalidRequest(
                f"the request is {len(raw)} bytes long and may have {self._bytes_max}; nothing was applied. Ask for a "
                "shorter name"
            )
        return await self._call.in_turn(self.parsed(raw)) if self._takes_turns else _parsed(self._parse, raw)

    def parsed(self, raw: bytes) -> Slices[Message]:
        """Return the message in *raw*; yield what that cost, see `turns`.

        Raises:
            InvalidRequest: there is none. Definite.
        """
        message = _parsed(self._parse, raw)
        yield 1 + len(raw) // PARSED_BYTES
        return message

    async def in_turn(self, steps: Slices[_T]) -> _T:
        """Return what *steps* return, when it is the caller's turn; see `OpenCall.in_turn`."""
        return await self._call.in_turn(steps)

    async def read_one(self) -> Message:
        """Read the message of a call that has one.

        Raises:
            InvalidRequest: there is none, or it cannot be parsed. Definite.
            SwapTierError: the call was ended from outside; see `traffic`. Definite.
        """
        message = await self.read()
        if is_end(message):
            raise InvalidRequest("the request ended before its message; nothing was applied. Send it again")
        return message

    async def write(self, message: Message) -> None:
        """Write and count a message."""
        raw = self._serialize(message)
        del message  # a client that does not read holds up the next line; its answer need not be there twice
        await self._call.send(lambda: self._context.write(raw))
        self._metrics.sent.inc()

    async def read_all_raw(self) -> AsyncIterator[bytes]:
        """Yield the messages up to the last, as they came."""
        while not is_end(raw := await self.read_raw()):
            yield raw

    async def read_all(self) -> AsyncIterator[Message]:
        """Yield the messages up to the last."""
        while not is_end(message := await self.read()):
            yield message

    def __getattr__(self, name: str) -> object:
        return getattr(self._context, name)


def guarded_call(context: object) -> GuardedCall:
    """Return the call that a handler was given as *context*.

    Nobody is let in by default: a handler that the guard does not stand before is a defect.
    """
    assert isinstance(context, GuardedCall), "the guard stands before every handler"
    return context


def _parsed(parse: Parse, raw: bytes) -> Message:
    """Return the message in *raw*.

    Raises:
        InvalidRequest: there is none. Definite.
    """
    try:
        return parse(raw)
    except DecodeError:
        raise InvalidRequest(
            f"the {len(raw)} bytes of the request are not a message of this method; nothing was applied. "
            "Compare the versions of client and server"
        ) from None
