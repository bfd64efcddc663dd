"""What stands around every RPC: who calls, how much at once, metrics, request id, and errors that leak nothing.

Touches gRPC. An interceptor. Rules:
  - nothing of a call is read before it is known who calls and that the caller may call now; only health asks nobody;
  - an error of ours becomes its status, with ErrorInfo and the `definite` metadata;
  - any other exception becomes INTERNAL with a request id and nothing else, since gRPC would send its text to the
    client; the text is in our log, under that id;
  - the `x-request-id` of the caller comes back in the trailers and stands in every log line of the RPC, if gRPC can
    send it: trailers that it cannot send would turn a call that was applied into INTERNAL;
  - nothing that is echoed comes from a caller in any other way: a request to a service that is not ours, which may be
    repeated in its answer, is small;
  - every call is counted by who made it, so that a flood can be named, and no caller can write a line a call.
"""

import asyncio
import inspect
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final, NoReturn, TypeAlias, TypeVar, cast

import grpc
import structlog
from google.protobuf.message import Message
from grpc import aio
from grpc_status import rpc_status

from swaptier_server.access.access import NOBODY_IN_PARTICULAR, Access
from swaptier_server.access.tenants import Tenants
from swaptier_server.logs import get_log
from swaptier_server.rpc.call import GuardedCall, RawContext
from swaptier_server.rpc.callers import Callers
from swaptier_server.rpc.rpc_metrics import MethodMetrics, RpcMetrics
from swaptier_server.rpc.traffic import OpenCall, Traffic
from swaptier_wire import status
from swaptier_wire.errors import ServerDefect, SwapTierError

REQUEST_ID_METADATA = "x-request-id"
REQUEST_ID: Final = re.compile(r"[!-~](?:[ -~]{0,62}[!-~])?")
"""A caller's request id that we repeat in logs and trailers: up to 64 characters that metadata of gRPC may have, which
is printable ASCII without spaces around it. Any other is not repeated."""

SMALL_REQUEST_BYTES_MAX: Final = 4096
"""Of a request to health or reflection, which ask for a name: reflection repeats the request in its answer, and health
remembers the name for as long as a watch lasts."""

HEALTH: Final = "/grpc.health.v1.Health/"
"""Probes have no identity, and learn nothing but whether the server serves."""

WATCH: Final = f"{HEALTH}Watch"

_Req = TypeVar("_Req")
_Res = TypeVar("_Res")
_Handler: TypeAlias = "grpc.RpcMethodHandler[Message, Message]"
_Answer: TypeAlias = Awaitable[Message | None] | AsyncIterator[Message]
_Behaviour: TypeAlias = Callable[[Message | AsyncIterator[Message], GuardedCall], _Answer]


@dataclass(slots=True)
class _Attempt:
    """One RPC, from its first byte on."""

    path: str
    metrics: MethodMetrics
    context: RawContext
    request_id: str | None
    """The caller's, if it can be repeated."""
    tenant: str | None = None
    """Who makes it, once that is known."""


class Guard(aio.ServerInterceptor):
    """The one interceptor of the server."""

    def __init__(
        self,
        service: str,
        metrics: RpcMetrics,
        traffic: Traffic,
        access: Access,
        tenants: Tenants,
        callers: Callers,
    ) -> None:
        """Guard all methods; those of *service* are the tier's, which a drain refuses and waits for."""
        self._prefix = f"/{service}/"
        self._metrics = metrics
        self._traffic = traffic
        self._access = access
        self._tenants = tenants
        self._callers = callers
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
        bytes_max = None if path.startswith(self._prefix) else SMALL_REQUEST_BYTES_MAX
        takes_turns = not path.startswith(HEALTH)
        parse, serialize = handler.request_deserializer, handler.response_serializer
        assert parse is not None and serialize is not None, f"{path}: all services here speak protobuf"
        is_stream, has_answers = handler.request_streaming, handler.response_streaming
        assert has_answers or not is_stream, f"{path}: no service here has client streams"
        behaviour = cast(
            "_Behaviour", handler.stream_stream if is_stream else handler.unary_stream or handler.unary_unary
        )

        async def run(call: GuardedCall) -> None:
            answer = behaviour(call.read_all() if is_stream else await call.read_one(), call)
            if not inspect.isawaitable(answer):
                async for message in answer:
                    await call.write(message)
                return
            only = await answer
            if not has_answers:  # else it has written them to the call
                assert only is not None, f"{path}: a request is answered"
                await call.write(only)

        async def guarded(_requests: object, context: RawContext) -> None:
            attempt = _Attempt(path, metrics, context, _caller_request_id(context))

            async def body() -> None:
                with self._admitted(attempt, is_stream=is_stream) as call:
                    messages = parse, serialize, metrics, bytes_max
                    await run(GuardedCall(context, call, *messages, takes_turns=takes_turns))
                if is_stream:  # one that was broken off ends like one that is over; mostly gRPC notes it a turn later
                    await asyncio.sleep(0)

            await self._around(attempt, body)

        make = cast("Callable[..., _Handler]", grpc.stream_stream_rpc_method_handler)
        return make(guarded, None, None)

    @contextmanager
    def _admitted(self, attempt: _Attempt, *, is_stream: bool) -> Iterator[OpenCall]:
        """Let the caller in while the block runs.

        Raises:
            Unauthenticated, LimitReached, Draining: it may not call, or not now. Definite.
        """
        if attempt.path.startswith(HEALTH):
            with self._traffic.call(NOBODY_IN_PARTICULAR, is_stream=is_stream, is_drained=False) as call:
                call.places.enter_context(self._health_place(attempt))
                yield call
            return
        caller = self._access.identify(attempt.context)
        attempt.tenant = caller.tenant
        count = self._tenants.stream if is_stream else self._tenants.request
        flow = caller.tenant or attempt.context.peer()
        is_drained = attempt.path.startswith(self._prefix)
        with self._traffic.call(caller, flow, is_stream=is_stream, is_drained=is_drained) as call:
            call.places.enter_context(count(caller.tenant))
            yield call

    def _health_place(self, attempt: _Attempt) -> AbstractContextManager[None]:
        return self._tenants.health_call(attempt.context.peer(), is_watch=attempt.path == WATCH)

    async def _around(self, attempt: _Attempt, body: Callable[[], Awaitable[None]]) -> None:
        """Run *body*, count it, and turn what it raises into the status that the client gets."""
        context, request_id = attempt.context, attempt.request_id
        started = attempt.metrics.start()
        code = grpc.StatusCode.UNKNOWN
        if request_id is not None:
            structlog.contextvars.bind_contextvars(request_id=request_id)
            context.set_trailing_metadata(((REQUEST_ID_METADATA, request_id),))
        try:
            await body()
            code = grpc.StatusCode.CANCELLED if context.cancelled() else grpc.StatusCode.OK
        except SwapTierError as error:
            code = status.status_code(error)
            await _abort(context, error, request_id)
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except aio.AbortError:
            code = context.code()
            raise
        except aio.InternalError:  # gRPC could not send or receive: the client is gone
            code = grpc.StatusCode.CANCELLED
            raise asyncio.CancelledError from None  # anything else gRPC logs with a traceback, whoever caused it
        except Exception:  # whatever it is, its text must not reach the client
            code = grpc.StatusCode.INTERNAL
            request_id = request_id or secrets.token_hex(8)
            log = self._callers.log.of(attempt.tenant, "rpc_failed")
            log.exception("rpc_failed", method=attempt.path, request_id=request_id)
            await _abort(context, _defect(request_id), request_id)
        finally:
            seconds = attempt.metrics.finish(started, code)
            self._callers.called(context.peer(), attempt.tenant, code, is_health=attempt.path.startswith(HEALTH))
            if self._is_debugging:
                self._log.debug("rpc", method=attempt.path, code=code.name, duration_ms=round(seconds * 1e3, 3))


async def _abort(context: RawContext, error: SwapTierError, request_id: str | None) -> NoReturn:
    """End the RPC with the status of *error*."""
    rich = rpc_status.to_status(status.rich_status(error))
    trailers = () if request_id is None else ((REQUEST_ID_METADATA, request_id),)
    try:
        await context.abort(rich.code, rich.details, (*rich.trailing_metadata, *trailers))
    except aio.InternalError:  # the client is gone
        raise asyncio.CancelledError from None


def _caller_request_id(context: RawContext) -> str | None:
    """Return the caller's request id, if it sent one that is fit for logs and trailers."""
    for name, text in context.invocation_metadata() or ():
        if name == REQUEST_ID_METADATA and isinstance(text, str):
            return text if REQUEST_ID.fullmatch(text) else None
    return None


def _defect(request_id: str) -> ServerDefect:
    return ServerDefect(
        "the server failed in a way its authors did not foresee; whether the request took effect is unknown. "
        f"Its log says more under request id {request_id}"
    )
