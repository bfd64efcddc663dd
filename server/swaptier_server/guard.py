"""What stands around every RPC: metrics, request id, refusal while draining, and errors that leak nothing.

Touches gRPC. An interceptor. Rules:
  - an error of ours becomes its status, with ErrorInfo and the `definite` metadata;
  - a message that cannot be parsed is refused like any other bad request: gRPC is given no deserializer, since its own
    answer is UNKNOWN with the exception's text;
  - any other exception becomes INTERNAL with a request id and nothing else, since gRPC would send its text to the
    client; the text is in our log, under that id;
  - the `x-request-id` of the caller comes back in the trailers and stands in every log line of the RPC.
"""

import asyncio
import inspect
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from typing import NoReturn, TypeAlias, TypeVar, cast

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from grpc import aio
from grpc_status import rpc_status

from swaptier_server.logs import get_log
from swaptier_server.rpc_metrics import MethodMetrics, RpcMetrics
from swaptier_server.traffic import Traffic, is_end
from swaptier_wire import status
from swaptier_wire.errors import InvalidRequest, ServerDefect, SwapTierError

REQUEST_ID_METADATA = "x-request-id"
REQUEST_ID_CHARACTERS_MAX = 64
"""Of a caller's request id that we repeat in logs and trailers; a longer one is replaced by our own."""

_Req = TypeVar("_Req")
_Res = TypeVar("_Res")
_Result = TypeVar("_Result")
_Context: TypeAlias = "aio.ServicerContext[Message, Message]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Message, Message]"
_RawContext: TypeAlias = "aio.ServicerContext[bytes, Message]"
_Parse: TypeAlias = Callable[[bytes], Message]
_Unary: TypeAlias = Callable[[Message, _Context], Awaitable[Message]]
_Stream: TypeAlias = Callable[[Message | AsyncIterator[Message], _Context], Awaitable[None] | AsyncIterator[Message]]


class _StreamContext:
    """A stream's context that parses and counts its messages; everything else goes through."""

    def __init__(self, context: _RawContext, parse: _Parse, metrics: MethodMetrics) -> None:
        self._context = context
        self._parse = parse
        self._metrics = metrics

    async def read(self) -> Message:
        """Read, count and parse a message; gRPC's EOF after the last.

        Raises:
            InvalidRequest: it cannot be parsed. Definite.
        """
        raw = await self._context.read()
        if is_end(raw):
            return cast("Message", raw)
        self._metrics.received.inc()
        return _parsed(self._parse, raw)

    async def write(self, message: Message) -> None:
        """Write and count a message."""
        await self._context.write(message)
        self._metrics.sent.inc()

    async def read_all(self) -> AsyncIterator[Message]:
        """Yield the messages up to the last."""
        while not is_end(message := await self.read()):
            yield message

    def __getattr__(self, name: str) -> object:
        return getattr(self._context, name)


class Guard(aio.ServerInterceptor):
    """The one interceptor of the server."""

    def __init__(self, service: str, metrics: RpcMetrics, traffic: Traffic) -> None:
        """Guard all methods; *traffic* counts and refuses those of *service*, not health and reflection."""
        self._prefix = f"/{service}/"
        self._metrics = metrics
        self._traffic = traffic
        self._guarded: dict[str, _Handler] = {}
        self._log = get_log()
        self._is_debugging = self._log.isEnabledFor(logging.DEBUG)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[_Req, _Res] | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[_Req, _Res] | None":
        """Return the method's handler with the guard around it, or None for an unknown method."""
        path = handler_call_details.method
        guarded = self._guarded.get(path)
        if guarded is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None  # gRPC answers UNIMPLEMENTED; not remembered, so unknown names cannot fill the table
            guarded = self._guarded[path] = self._guard(path, cast("_Handler", handler))
        return cast("grpc.RpcMethodHandler[_Req, _Res]", guarded)

    def _guard(self, path: str, handler: _Handler) -> _Handler:
        """Return *handler* with the guard around it."""
        metrics = self._metrics.method(path)
        parse = handler.request_deserializer
        assert parse is not None, f"{path}: all services here speak protobuf"
        is_bidi = handler.request_streaming
        if not handler.response_streaming:
            assert not is_bidi, f"{path}: no service here has client streams"
            unary = cast("_Unary", handler.unary_unary)

            async def guarded_unary(raw: bytes, context: _Context) -> Message:
                metrics.received.inc()
                response = await self._around(path, metrics, context, lambda: unary(_parsed(parse, raw), context))
                metrics.sent.inc()
                return response

            make_unary = cast("Callable[..., _Handler]", grpc.unary_unary_rpc_method_handler)
            return make_unary(guarded_unary, None, handler.response_serializer)

        stream = cast("_Stream", handler.stream_stream if is_bidi else handler.unary_stream)

        async def guarded_stream(raw: bytes | AsyncIterator[bytes], context: _Context) -> None:
            inner = _StreamContext(cast("_RawContext", context), parse, metrics)

            async def run() -> None:
                if isinstance(raw, bytes):
                    metrics.received.inc()
                requests = _parsed(parse, raw) if isinstance(raw, bytes) else inner.read_all()
                responses = stream(requests, cast("_Context", inner))
                if inspect.isawaitable(responses):  # it reads and writes by the context
                    await responses
                    return
                async for response in responses:
                    await inner.write(response)

            await self._around(path, metrics, context, run)

        make_stream = cast(
            "Callable[..., _Handler]",
            grpc.stream_stream_rpc_method_handler if is_bidi else grpc.unary_stream_rpc_method_handler,
        )
        return make_stream(guarded_stream, None, handler.response_serializer)

    async def _around(
        self, path: str, metrics: MethodMetrics, context: _Context, body: Callable[[], Awaitable[_Result]]
    ) -> _Result:
        """Run *body*, count it, and turn what it raises into the status that the client gets."""
        started = metrics.start()
        code = grpc.StatusCode.UNKNOWN
        caller_id = _caller_request_id(context)
        if caller_id is not None:
            structlog.contextvars.bind_contextvars(request_id=caller_id)
            context.set_trailing_metadata(((REQUEST_ID_METADATA, caller_id),))
        try:
            with self._traffic.rpc() if path.startswith(self._prefix) else nullcontext():
                result = await body()
            code = grpc.StatusCode.CANCELLED if context.cancelled() else grpc.StatusCode.OK
        except SwapTierError as error:
            code = status.status_code(error)
            await _abort(context, error, caller_id)
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except aio.AbortError:
            code = context.code()
            raise
        except Exception:  # noqa: BLE001 - whatever it is, its text must not reach the client
            code = grpc.StatusCode.INTERNAL
            request_id = caller_id or secrets.token_hex(8)
            self._log.exception("rpc_failed", method=path, request_id=request_id)
            await _abort(context, _defect(request_id), request_id)
        finally:
            seconds = metrics.finish(started, code)
            if self._is_debugging:
                self._log.debug("rpc", method=path, code=code.name, duration_ms=round(seconds * 1e3, 3))
        return result


def _parsed(parse: _Parse, raw: bytes) -> Message:
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


async def _abort(context: _Context, error: SwapTierError, request_id: str | None) -> NoReturn:
    """End the RPC with the status of *error*."""
    rich = rpc_status.to_status(status.rich_status(error))
    trailers = () if request_id is None else ((REQUEST_ID_METADATA, request_id),)
    await context.abort(rich.code, rich.details, (*rich.trailing_metadata, *trailers))


def _caller_request_id(context: _Context) -> str | None:
    """Return the caller's request id, if it sent one that is fit for logs and trailers."""
    for name, text in context.invocation_metadata() or ():
        if name == REQUEST_ID_METADATA and isinstance(text, str):
            return text if 0 < len(text) <= REQUEST_ID_CHARACTERS_MAX and text.isprintable() else None
    return None


def _defect(request_id: str) -> ServerDefect:
    return ServerDefect(
        "the server failed in a way its authors did not foresee; whether the request took effect is unknown. "
        f"Its log says more under request id {request_id}"
    )
