"""One stream between a host and a tier, passed on message by message, with faults.

Touches the network (grpc.aio). Rules of conduct:

- A request that is passed on late or twice is passed on unchanged. An answer is passed on unchanged or not at all.
- The server answers in the order in which requests were passed on; so each answer belongs to the oldest request left.
- When the host is gone, the server's last answers are still read: they say which pages went with them.
"""

import asyncio
import contextlib
import random
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TypeAlias

import grpc
from grpc import aio

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_client.area_calls import status_now
from swaptier_client.channel import connect
from swaptier_client.security import PLAIN, Security
from swaptier_loadgen.faults.hazards import Hazard, PageName, TakenPages
from swaptier_loadgen.faults.spec import Faults
from swaptier_loadgen.faults.tcp_relay import RelayedConnection
from swaptier_wire.errors import SwapTierError

EXCHANGE = "/swaptier.v1.SwapTierService/Exchange"

CONNECT_SECONDS = 2.0
"""For the connection to the server, which is near."""

HOLD_SECONDS = 0.01
"""How long a message waits for one that could overtake it, and its copy for messages to come in between."""

COPY_MESSAGES_MAX = 4
"""Messages between a request and its copy, at most: enough for the slot to be freed and stored again."""

AFTERMATH_SECONDS = 10.0
"""For the answers to what a host that is gone had sent: a server that was paused gives them when it goes on."""

RECENT_ANSWERS = 8
"""Answers passed on last: a connection that is reset may have lost them."""

QUEUE_MESSAGES_MAX = 64
"""Messages that wait in here, each route: far more than a host leaves unanswered."""

Context: TypeAlias = "aio.ServicerContext[bytes, bytes]"
_Call: TypeAlias = "aio.StreamStreamCall[bytes, bytes]"


@dataclass
class InjectedFaults:
    """What was done on purpose so far, on all links of a race, and what is known of its victims."""

    counts: Counter[str] = field(default_factory=Counter)
    """By the name that `--fault` has for it."""
    taken_pages: TakenPages = field(default_factory=TakenPages)


@dataclass(frozen=True, slots=True)
class Route:
    """Where a link leads and what goes wrong on it."""

    target: str
    """HOST:PORT or unix:PATH."""
    number: int
    """Of the tier in the race."""
    faults: Faults
    injected: InjectedFaults
    security: Security = PLAIN

    async def connect(self, context: Context) -> aio.Channel:
        """Return a connection to the server; without one, end the call of *context* as one that had no effect."""
        try:
            return await connect(self.target, CONNECT_SECONDS, self.security)
        except SwapTierError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"failed to connect to all addresses: {error}")
            raise AssertionError("abort() does not return") from error

    def metadata(self, context: Context) -> list[tuple[str, str | bytes]]:
        """Return the host's metadata without what gRPC adds, and the link's own credentials."""
        own = ("user-agent", "grpc-", ":")
        said = [(key, value) for key, value in context.invocation_metadata() or () if not key.startswith(own)]
        return [*said, *self.security.metadata()]


@dataclass(slots=True)
class _Message:
    """A request on its way to the server."""

    request: bytes
    is_copy: bool = False
    messages_between: int = 0
    """Passed on only after so many others."""


class FaultyStream:
    """One stream between a host and the server. Made, run once."""

    def __init__(
        self,
        route: Route,
        context: Context,
        connection: RelayedConnection | None,
        chance_of: Callable[[str], random.Random],
    ) -> None:
        """Pass the stream of *context* on; *chance_of* its area is asked for once, with the first message."""
        self.area = ""
        """Known from the first message on."""
        self.connection = connection
        """The connection it comes over, unless that is gone already."""
        self._route = route
        self._faults = route.faults
        self._counts = route.injected.counts
        self._context = context
        self._chance_of = chance_of
        self._chance = random.Random(0)
        self._is_over = False
        self._sent: deque[_Message] = deque()
        """Passed on and not answered, the oldest first."""
        self._recent: deque[tuple[bytes, bytes]] = deque(maxlen=RECENT_ANSWERS)
        """Requests and the answers passed on to the host last, or about to be."""
        self._answers: asyncio.Queue[tuple[float, bytes, bytes] | None] = asyncio.Queue(QUEUE_MESSAGES_MAX)
        """When each is due, its request, itself; then None."""

    async def run(self, spawn: Callable[[Coroutine[object, object, None]], None]) -> None:
        """Pass requests and answers on until either side ends the stream.

        What is left to do after a host that is gone is given to *spawn*.
        """
        channel = await self._route.connect(self._context)
        call: _Call = channel.stream_stream(EXCHANGE)(metadata=self._route.metadata(self._context))
        first_status: list[aio.AioRpcError] = []
        call.add_done_callback(lambda _call: first_status.append(status_now(call)))
        requests = asyncio.create_task(self._pass_requests_on(call))
        taker = asyncio.create_task(self._take_answers(call))
        deliverer = asyncio.create_task(self._deliver())
        try:
            await asyncio.wait([taker, deliverer], return_when=asyncio.FIRST_COMPLETED)
            await deliverer
        except BaseException:  # the host is gone, or cannot be written to
            self._is_over = True
            deliverer.cancel()
            requests.cancel()
            spawn(self._see_to_the_rest(taker, call, channel))
            raise
        requests.cancel()
        await channel.close()
        end = taker.exception()
        if isinstance(end, aio.AioRpcError):
            await abort_alike(self._context, first_status[0] if first_status else end)
        elif end is not None:
            raise end

    # Requests

    async def _pass_requests_on(self, call: _Call) -> None:
        """Pass requests on as they come, but for those that are overtaken or come twice."""
        coming: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE_MESSAGES_MAX)
        reader = asyncio.create_task(self._read_requests(coming))
        later: list[_Message] = []
        """One that is to be overtaken, perhaps, and then copies."""
        try:
            while True:
                try:
                    request = await asyncio.wait_for(coming.get(), HOLD_SECONDS if later else None)
                except TimeoutError:  # nothing came to overtake or to come in between
                    later = await self._pass_later_on(call, later, are_all_due=True)
                    continue
                if request is None:
                    break
                self._begin(request)
                is_one_held = any(not message.is_copy for message in later)
                if not is_one_held and self._chance.random() < self._faults.reorder:
                    later.insert(0, _Message(request))
                    continue
                await self._pass_on(call, _Message(request))
                later = await self._pass_later_on(call, later)
                if self._chance.random() < self._faults.duplicate:
                    between = self._chance.randrange(COPY_MESSAGES_MAX + 1)
                    later.append(_Message(request, is_copy=True, messages_between=between))
            await self._pass_later_on(call, later, are_all_due=True)
            await call.done_writing()
        except (aio.AioRpcError, asyncio.InvalidStateError):
            return  # the stream has ended; _take_answers() gets its status
        finally:
            reader.cancel()

    async def _read_requests(self, coming: "asyncio.Queue[bytes | None]") -> None:
        while True:
            request: object = await self._context.read()
            if not isinstance(request, bytes):  # aio.EOF
                break
            await coming.put(request)
        await coming.put(None)

    def _begin(self, request: bytes) -> None:
        """Take the area from the first request."""
        if not self.area:
            self.area = pb.ExchangeRequest.FromString(request).header.area
            self._chance = self._chance_of(self.area)

    async def _pass_on(self, call: _Call, message: _Message) -> None:
        self._sent.append(message)
        await call.write(message.request)

    async def _pass_later_on(self, call: _Call, later: list[_Message], *, are_all_due: bool = False) -> list[_Message]:
        """Pass the messages on that are due, and return the others."""
        left = []
        for message in later:
            if message.messages_between and not are_all_due:
                message.messages_between -= 1
                left.append(message)
                continue
            if message.is_copy:
                self._counts["duplicate"] += 1
            elif not are_all_due:  # another one was passed on first
                self._counts["reorder"] += 1
            await self._pass_on(call, message)
        return left

    # Answers

    async def _take_answers(self, call: _Call) -> None:
        """Take answers as the server gives them, drop some, and say when the others are due."""
        faults, counts = self._faults, self._counts
        now = asyncio.get_running_loop().time
        try:
            async for answer in call:
                sent = self._sent.popleft()
                if sent.is_copy:
                    self._note(sent.request, answer, Hazard.REQUEST_REPEATED)
                elif not self._is_over and self._chance.random() < faults.drop_reply:
                    counts["drop-reply"] += 1
                    self._note(sent.request, answer, Hazard.REPLY_DROPPED)
                    continue
                due = now()
                if faults.delay is not None and self._chance.random() < faults.delay.share:
                    counts["delay"] += 1
                    due += self._chance.uniform(faults.delay.least_seconds, faults.delay.most_seconds)
                await self._answers.put((due, sent.request, answer))
        finally:
            await self._answers.put(None)

    async def _deliver(self) -> None:
        """Pass answers on in their order, none before it is due."""
        now = asyncio.get_running_loop().time
        while (item := await self._answers.get()) is not None:
            due, request, answer = item
            self._recent.append((request, answer))  # before it is passed on: it may be held back when the host goes
            if due > now():
                await asyncio.sleep(due - now())
            await self._context.write(answer)

    async def _see_to_the_rest(self, taker: "asyncio.Task[None]", call: _Call, channel: aio.Channel) -> None:
        """Find out which pages went with a host that is gone, then end the stream to the server."""
        was_cut = self.connection is not None and self.connection.is_cut
        hazard = Hazard.CONNECTION_LOST if was_cut else Hazard.REPLY_LATE
        for request, answer in self._recent:
            self._note(request, answer, hazard)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AFTERMATH_SECONDS):
                    while (item := await self._answers.get()) is not None:
                        self._note(item[1], item[2], hazard)
                        if not self._sent and self._answers.empty():
                            break
        finally:
            taker.cancel()
            call.cancel()
            await channel.close()

    def _note(self, request: bytes, answer: bytes, hazard: Hazard) -> None:
        """Note which pages the loads of *request* took, going by its *answer*."""
        asked, got = pb.ExchangeRequest.FromString(request), pb.ExchangeResponse.FromString(answer)
        for offset, mode, outcome, generation in zip(
            asked.load.offsets, asked.load.modes, got.load.outcomes, got.load.generations, strict=False
        ):
            if mode == pb.LOAD_MODE_EXCLUSIVE and outcome in (pb.OUTCOME_HIT, pb.OUTCOME_SAME_FILLED):
                page = PageName(self._route.number, asked.header.area, offset, generation)
                self._route.injected.taken_pages.note(page, hazard)


async def abort_alike(context: Context, error: aio.AioRpcError) -> None:
    """End a call as the server ended it, with what it says of its effect. Does not return."""
    trailing = error.trailing_metadata() or ()
    await context.abort(error.code(), error.details() or "", tuple(trailing))
