"""Translates the contract's errors to and from gRPC status: one table, both directions.

Touches gRPC's status types; no channel, no server. What our server refuses carries a google.rpc.ErrorInfo {reason,
domain "swaptier", metadata {"definite"}}, so the client gets back the very class. A status without one was written by
gRPC itself, a proxy or a dying server, and says little about the effect: it is taken as indefinite unless it is
certain that the request never reached a handler.

Rules for this file's editors: one line per class in STATUS_CODES; `reason` lives on the class. Never turn an
unforeseen exception's text into a status: it may hold a page or a secret.
"""

from typing import Never, TypeVar

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_wire.errors import (
    AreaExists,
    AreaNotOwned,
    ClientReplaced,
    DeadlinePassed,
    Draining,
    InvalidRequest,
    LimitReached,
    ServerDefect,
    SwapTierError,
    TierUnreachable,
    Unauthenticated,
    UnknownArea,
    UnknownMethod,
)
from swaptier_wire.types import EPOCH_MAX

DOMAIN = "swaptier"

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")

STATUS_CODES: dict[type[SwapTierError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    UnknownArea: grpc.StatusCode.NOT_FOUND,
    AreaExists: grpc.StatusCode.ALREADY_EXISTS,
    AreaNotOwned: grpc.StatusCode.PERMISSION_DENIED,
    ClientReplaced: grpc.StatusCode.FAILED_PRECONDITION,
    LimitReached: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Draining: grpc.StatusCode.UNAVAILABLE,
    UnknownMethod: grpc.StatusCode.UNIMPLEMENTED,
    TierUnreachable: grpc.StatusCode.UNAVAILABLE,
    DeadlinePassed: grpc.StatusCode.DEADLINE_EXCEEDED,
    ServerDefect: grpc.StatusCode.INTERNAL,
}

_CLASSES = {error.reason: error for error in STATUS_CODES}

EPOCH_DIGITS_MAX = 20

MESSAGE_BYTES_MAX = 1024
"""A status message travels twice in trailers of at most 8 KiB, once with three bytes for each of its own."""

NEVER_CONNECTED = ("failed to connect to all addresses", "errors resolving ", "DNS resolution failed")
"""How gRPC's UNAVAILABLE begins when no connection was made. Certain only on a channel without a retry policy."""

SHED = "Concurrent RPC limit exceeded"
"""How gRPC's RESOURCE_EXHAUSTED begins when the server took no further call: no handler saw it."""


def status_code(error: SwapTierError) -> grpc.StatusCode:
    """Return the status *error* travels as."""
    return STATUS_CODES[_wire_class(error)]


def rich_status(error: SwapTierError) -> status_pb2.Status:
    """Return *error* as google.rpc.Status with an ErrorInfo, and a RetryInfo where it pays to wait."""
    status = status_pb2.Status(code=status_code(error).value[0], message=_message(error))
    metadata = {"definite": "true" if error.definite else "false"}
    if isinstance(error, ClientReplaced):
        metadata["newest_epoch"] = str(error.newest_epoch)
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(reason=_wire_class(error).reason, domain=DOMAIN, metadata=metadata)
    )
    if isinstance(error, LimitReached) and error.retry_after_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(error.retry_after_seconds * 1000))
        status.details.add().Pack(retry)
    return status


async def abort(context: grpc.aio.ServicerContext[Asked, Answered], error: SwapTierError) -> Never:
    """End the call with *error* and its ErrorInfo. Does not return."""
    status = rpc_status.to_status(rich_status(error))
    await context.abort(status.code, status.details, status.trailing_metadata)


def from_rpc_error(error: grpc.RpcError) -> SwapTierError:
    """Return what a failed call means, for a grpc.RpcError of a call or a grpc.aio.AioRpcError.

    Our server's statuses come back as the class that was raised there; others as the class that says least.
    """
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError), type(error)
    code, details = error.code(), error.details() or ""
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # two statuses that contradict each other: not ours
        status = None
    for detail in () if status is None else status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            refusal = _from_reason(info.reason, details, definite=info.metadata.get("definite") == "true")
            if isinstance(refusal, ClientReplaced):
                refusal.newest_epoch = _epoch(info.metadata.get("newest_epoch", ""))
            if isinstance(refusal, LimitReached):
                refusal.retry_after_seconds = _retry_after_seconds(status)
            return refusal
    return _from_bare_status(code, details)


def encode_exchange_error(server_epoch: int, request_id: int, error: SwapTierError) -> pb.ExchangeResponse:
    """Return the refusal of the stream's message *request_id*; the stream goes on."""
    return pb.ExchangeResponse(
        server_epoch=server_epoch,
        request_id=request_id,
        error=pb.ExchangeError(
            code=status_code(error).value[0], reason=_wire_class(error).reason, message=_message(error)
        ),
    )


def decode_exchange_error(message: pb.ExchangeError) -> SwapTierError:
    """Return why a message of the stream was refused: definite, as the contract has it, except ServerDefect."""
    return _from_reason(message.reason, message.message, definite=message.reason != ServerDefect.reason)


def _epoch(text: str) -> int:
    """Return the epoch that a server named; 0 when it named none, as one of an earlier version."""
    return min(int(text), EPOCH_MAX) if text.isascii() and text.isdecimal() and len(text) <= EPOCH_DIGITS_MAX else 0


def _retry_after_seconds(status: status_pb2.Status) -> float | None:
    for detail in status.details:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return float(retry.retry_delay.ToMilliseconds() / 1000)
    return None


def _from_reason(reason: str, message: str, *, definite: bool) -> SwapTierError:
    known = _CLASSES.get(reason)
    if known is None:
        return ServerDefect(
            f"The server refused for the reason {reason[:MESSAGE_BYTES_MAX]!r}, which this client does not know "
            f"({message}). The effect is unknown; compare the versions of client and server."
        )
    error = known(message)
    error.definite = definite
    return error


def _from_bare_status(code: grpc.StatusCode, details: str) -> SwapTierError:
    """Return what a status means that our server did not write."""
    unknown = "The effect of the request is unknown: assume nothing of its slots."
    match code:
        case grpc.StatusCode.UNAVAILABLE if details.startswith(NEVER_CONNECTED):
            return TierUnreachable(
                f"No connection to the tier ({details}). Nothing was sent; check the address and that the server runs.",
                definite=True,
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlinePassed(f"No answer within the deadline ({details}). {unknown}")
        case grpc.StatusCode.UNIMPLEMENTED:
            return UnknownMethod(
                f"The server does not have this call ({details}). Nothing was applied; compare versions."
            )
        case grpc.StatusCode.RESOURCE_EXHAUSTED if details.startswith(SHED):
            return LimitReached(f"The server takes no further calls now ({details}). Nothing was applied; retry later.")
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED | grpc.StatusCode.RESOURCE_EXHAUSTED:
            return TierUnreachable(f"The call broke off with {code.name} ({details}). {unknown}")
        case _:
            return ServerDefect(f"The server failed with {code.name} ({details}). {unknown} See the server's log.")


def _wire_class(error: SwapTierError) -> type[SwapTierError]:
    """Return the class of the table that stands for *error*: its own or the nearest it derives from."""
    for known in type(error).__mro__:
        if known in STATUS_CODES:
            return known
    return ServerDefect


def _message(error: SwapTierError) -> str:
    return str(error).encode("utf-8", "replace")[:MESSAGE_BYTES_MAX].decode("utf-8", "ignore")
