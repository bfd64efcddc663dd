"""A link to a tier on which things go wrong on purpose: a proxy that understands the stream's messages.

Touches the network (grpc.aio, and `tcp_relay.py`). Hosts connect to `FaultyLink.address` as they would to the tier;
what they say reaches the real server over a real connection. Rules of conduct:

- Faults strike messages of the stream (`injection.py`) and connections, never unary calls: their
  callers repeat them, and they carry no pages.
- Which message is struck is drawn from the seed, the area and the number of the stream, so it does not depend on what
  other hosts do; what the message holds depends on the schedule.
- What is known of pages that got lost on the way goes into `TakenPages` of `hazards.py`: no host saw it.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Self, TypeAlias

import grpc
from grpc import aio

from swaptier_client.channel import CHANNEL_OPTIONS
from swaptier_loadgen.faults.injection import EXCHANGE, Context, FaultyStream, Route, abort_alike
from swaptier_loadgen.faults.tcp_relay import RelayedConnection, TcpRelay

_Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class FaultyLink(grpc.GenericRpcHandler):
    """The route from all hosts to one tier, which takes every method there is. Entered for the length of a race."""

    def __init__(self, route: Route, seed: int, race: str = "") -> None:
        """Lead to *route*. What goes wrong depends on *seed*, not on the name of the *race*, which areas begin with."""
        self.route = route
        self._prefix = f"{race}-"
        self._seed = f"{seed}/{route.number}"
        self._streams_of: Counter[str] = Counter()
        self._streams: set[FaultyStream] = set()
        self._stack = AsyncExitStack()
        self._tasks: set[asyncio.Task[object]] = set()
        """What outlives its call."""

    @property
    def address(self) -> str:
        """Where hosts connect."""
        return self._relay.address

    async def __aenter__(self) -> Self:
        """Serve on a free port of the loopback interface; the tier need not be there yet."""
        server = aio.server(options=CHANNEL_OPTIONS)
        server.add_generic_rpc_handlers((self,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._stack.push_async_callback(server.stop, 0)
        self._relay = await self._stack.enter_async_context(TcpRelay(port))
        if self.route.faults.disconnects_per_second:
            self._spawn(self._disconnect_for_ever())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cut all connections."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._stack.aclose()

    def _spawn(self, work: Coroutine[object, object, object]) -> None:
        """Run *work* until it ends or the link does."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _chance_of(self, area: str) -> random.Random:
        """Return the chance of the next stream of *area*."""
        of = area.removeprefix(self._prefix)
        self._streams_of[of] += 1
        return random.Random(f"{self._seed}/{of}/{self._streams_of[of]}")

    def _connection_of(self, context: Context) -> RelayedConnection | None:
        """Return the connection that a call came over, unless it is gone."""
        return self._relay.connection(int(context.peer().rpartition(":")[2]))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _Handler:
        """Return the handler of a call: the stream gets its faults, all others pass as they are."""
        method = handler_call_details.method
        if method == EXCHANGE:
            return grpc.stream_stream_rpc_method_handler(self._exchange)
        return grpc.unary_unary_rpc_method_handler(partial(self._call, method))

    async def _exchange(self, _requests: object, context: Context) -> None:
        """Pass a stream on, faults and all."""
        stream = FaultyStream(self.route, context, self._connection_of(context), self._chance_of)
        self._streams.add(stream)
        try:
            await stream.run(self._spawn)
        finally:
            self._streams.discard(stream)

    async def _call(self, method: str, request: bytes, context: Context) -> bytes:
        """Pass a unary call on, as it is."""
        channel = await self.route.connect(context)
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        try:
            return await call(request, timeout=context.time_remaining(), metadata=self.route.metadata(context))
        except aio.AioRpcError as error:
            await abort_alike(context, error)
            raise
        finally:
            await channel.close()

    async def _disconnect_for_ever(self) -> None:
        """Cut the connection of a stream at random moments."""
        chance = random.Random(f"{self._seed}/disconnect")
        while True:
            await asyncio.sleep(chance.expovariate(self.route.faults.disconnects_per_second))
            running = [one for one in self._streams if one.connection is not None and one.area]
            if running:
                victim = chance.choice(sorted(running, key=lambda one: one.area))
                assert victim.connection is not None, "just looked"
                victim.connection.cut()
                self.route.injected.counts["disconnect"] += 1
