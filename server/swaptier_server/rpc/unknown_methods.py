"""Refuses calls of methods that the server does not have, before gRPC looks at their names.

Touches gRPC, and here alone its inside: no name of it is imported, but none of what is used is promised either.

Why: grpc.aio decodes the name of an unknown method in the loop that takes all calls. One that is no UTF-8 ends that
loop, and with it the server (grpcio 1.82 to 1.85): one request of anyone who can connect. No public means prevents it:
interceptors and generic handlers come after the loop. To start another server in the same process was tried: gRPC
cancels what it waits for while its core still writes there, and under load the process dies of a segmentation fault.

Where a later gRPC has another inside, the server is a plain one of gRPC's, without this refusal, and the log says so.

For editors: when gRPC answers such a name by itself, delete this file and let `aio.server()` make the server. The test
that says so is `test_a_method_whose_name_is_no_text_is_unimplemented_like_any_other`.
"""

import asyncio
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Final, cast

import grpc
from grpc import aio
from grpc_status import rpc_status

from swaptier_server.logs import get_log
from swaptier_wire import status
from swaptier_wire.errors import UnknownMethod

_INSIDE: Final = sys.modules[aio.server.__module__]
"""Where grpc.aio defines its server."""


def server_that_refuses_them(
    guard: aio.ServerInterceptor,
    options: tuple[tuple[str, int], ...],
    calls_max: int,
    refused: Callable[[str], None],
) -> aio.Server:
    """Return a server as `aio.server()` makes one, behind *guard*, for at most *calls_max* calls at once.

    *refused* is called with the peer of each call that is refused here.
    """
    try:
        loop = _INSIDE.cygrpc.get_working_loop()
        core = _refusing_core(_INSIDE.cygrpc, refused)(loop, None, (), [guard], options, calls_max)
        server = cast("aio.Server", object.__new__(_INSIDE.Server))
    except (AttributeError, TypeError) as error:
        get_log().critical(
            "unknown_methods_not_refused",
            reason=f"grpcio {grpc.__version__} is not as this server knows it: {error}",
            meaning="one call of a method whose name is no text may end the service; install an older grpcio",
        )
        return aio.server(interceptors=[guard], options=options, maximum_concurrent_rpcs=calls_max)
    # Not by its initializer: that would make a core of its own, which could not be ended.
    vars(server).update(_loop=loop, _server=core)
    return server


def _refusing_core(cygrpc: ModuleType, refused: Callable[[str], None]) -> Callable[..., object]:
    """Return grpc.aio's core with another `_request_call`.

    Raises:
        AttributeError, TypeError: it is not the core that is known here.
    """
    make_context = cygrpc._ServicerContext  # noqa: SLF001 - see the module
    request_call = cygrpc.AioServer._request_call  # noqa: SLF001 - see the module

    class RefusingCore(cygrpc.AioServer):  # type: ignore[misc,name-defined]  # found at run time, and without types
        """The methods of all our services are registered, so only other calls come to `_request_call`."""

        async def _request_call(self) -> None:
            """Refuse calls of unknown methods, one after the other; returns for none of them."""
            refusals: set[asyncio.Task[None]] = set()
            while True:
                context = make_context(await request_call(self), None, None, asyncio.get_running_loop())
                refused(context.peer())
                refusal = asyncio.create_task(_refuse(context))
                refusals.add(refusal)
                refusal.add_done_callback(refusals.discard)

    return RefusingCore


async def _refuse(context: aio.ServicerContext[object, object]) -> None:
    """End a call of an unknown method."""
    error = UnknownMethod("this server has no such method; nothing was applied. Compare client and server versions")
    rich = rpc_status.to_status(status.rich_status(error))
    try:
        await context.abort(rich.code, rich.details, rich.trailing_metadata)
    except (aio.AbortError, aio.InternalError):  # refused, or the client is gone
        return
