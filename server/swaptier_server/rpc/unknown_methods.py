"""Refuses calls of methods that the server does not have, before gRPC looks at their names.

Touches gRPC, and here alone its inside: no name of it is imported, but none of what is used is promised either.

Why: grpc.aio decodes the name of an unknown method in the loop that takes all calls. One that is no UTF-8 ends that
loop, and with it the server (grpcio 1.82 to 1.85): one request of anyone who can connect. No public means prevents it:
interceptors and generic handlers come after the loop. To start another server in the same process was tried: gRPC
cancels what it waits for while its core still writes there, and under load the process dies of a segmentation fault.

For editors: when gRPC answers such a name by itself, delete this file and let `aio.server()` make the server. The test
that says so is `test_a_method_whose_name_is_no_text_is_unimplemented_like_any_other`.
"""

import asyncio
import sys
from typing import Final, cast

from grpc import aio
from grpc_status import rpc_status

from swaptier_wire import status
from swaptier_wire.errors import UnknownMethod

_INSIDE: Final = sys.modules[aio.server.__module__]
"""Where grpc.aio defines its server."""
_CORE: Final = _INSIDE.cygrpc


def server_that_refuses_them(
    guard: aio.ServerInterceptor, options: tuple[tuple[str, int], ...], calls_max: int
) -> aio.Server:
    """Return a server as `aio.server()` makes one, behind *guard*, for at most *calls_max* calls at once."""
    server = cast("aio.Server", object.__new__(_INSIDE.Server))
    loop = _CORE.get_working_loop()
    # Not by its initializer: that would make a core of its own, which could not be ended.
    vars(server).update(_loop=loop, _server=_RefusingCore(loop, None, (), [guard], options, calls_max))
    return server


class _RefusingCore(_CORE.AioServer):  # type: ignore[misc,name-defined]  # found at run time, and without types
    """grpc.aio's core. The methods of all our services are registered, so only other calls come to `_request_call`."""

    async def _request_call(self) -> None:
        """Refuse calls of unknown methods, one after the other; returns for none of them."""
        refusals: set[asyncio.Task[None]] = set()
        while True:
            refusal = asyncio.create_task(_refuse(await super()._request_call()))
            refusals.add(refusal)
            refusal.add_done_callback(refusals.discard)


async def _refuse(call: object) -> None:
    """End a call of an unknown method."""
    context = _CORE._ServicerContext(call, None, None, asyncio.get_running_loop())  # noqa: SLF001 - see the module
    error = UnknownMethod("this server has no such method; nothing was applied. Compare client and server versions")
    rich = rpc_status.to_status(status.rich_status(error))
    try:
        await context.abort(rich.code, rich.details, rich.trailing_metadata)
    except (aio.AbortError, aio.InternalError):  # refused, or the client is gone
        return
