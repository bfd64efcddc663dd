"""One ordered stream to one tier server for one area, coalescing whatever waits.

Touches the network (grpc.aio) and the event loop's clock. Rules of conduct:

- `submit()` never waits. A pump sends a message whenever fewer than `window_messages` are unanswered and something
  waits; no timer holds anything back. `coalesce.py` decides what goes into a message and keeps each slot's order.
- Every operation ends once: with its reply, or with an error that says whether it may have taken effect. Not sent:
  definite. Sent and not answered: indefinite. Nothing is sent twice.
- Bytes are checked on arrival (`message.py`): other bytes than those of the store become Outcome.ERROR, never a page.
- The stream is ordered, so when one message's deadline passes nothing behind it can be trusted to arrive: the stream
  is torn down and stays down.

Models: the path from swap_writepage() and swap_read_folio() to the device, with a network in between.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from grpc import aio

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_client.area_calls import AreaCalls, HostArea, status_now
from swaptier_client.channel import connect
from swaptier_client.coalesce import QUEUE_OPS_MAX, Op, WaitingOps
from swaptier_client.message import Message
from swaptier_client.metrics import StreamCounters
from swaptier_client.mm.effects import Lookup, Request, RequestReply, Store
from swaptier_wire import status
from swaptier_wire.errors import (
    DeadlinePassed,
    InvalidRequest,
    LimitReached,
    ServerDefect,
    SwapTierError,
    TierUnreachable,
)
from swaptier_wire.reply_codec import AreaStat, decode_exchange_response
from swaptier_wire.request_codec import encode_exchange_request
from swaptier_wire.types import BATCH_SLOTS_MAX, NO_GENERATION, PAGE_BYTES

WINDOW_MESSAGES = 2
"""Unanswered messages at once: one being applied while the next is packed. Measured with 4 to 256 threads on two cores:
1 coalesces most and is as fast below 64 threads, 2 is 5 % faster from there on, 4 and 8 lose up to half below 256."""

DEADLINE_SECONDS = 10.0
"""From taking a message out of the queue to its answer: thousands of round trips, and within a user's patience."""

CONNECT_SECONDS = 5.0
"""For the connection."""


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Bounds of a stream; the defaults are for one machine or one rack."""

    deadline_seconds: float = DEADLINE_SECONDS
    """For each message and each unary call."""
    connect_seconds: float = CONNECT_SECONDS
    window_messages: int = WINDOW_MESSAGES
    queue_ops_max: int = QUEUE_OPS_MAX


class TierStream:
    """The stream of one host to one tier server, for one area. Made, entered once, left once.

    Invariants: every submitted operation is in `_waiting`, in exactly one message of `_unanswered`, or ended. At most
    `window_messages` are unanswered. Once `_broken` says why, nothing is sent, nothing waits and all have ended.
    """

    def __init__(
        self,
        address: str,
        area: HostArea,
        settings: StreamSettings | None = None,
        on_epoch_change: Callable[[int, int], None] | None = None,
    ) -> None:
        """Name a server (HOST:PORT or unix:PATH). *on_epoch_change* gets (old, new) before the reply that told."""
        self.address = address
        self.area = area
        self.counters = StreamCounters()
        self.server_epoch = 0
        """As of the last answer; a change means that pages the server held in memory are lost."""
        self.reopened = False
        """The area was open in this epoch already, and kept its pages."""
        self._settings = settings or StreamSettings()
        self._on_epoch_change = on_epoch_change
        self._waiting = WaitingOps(self._settings.queue_ops_max)
        self._unanswered: dict[int, Message] = {}
        """By request id; the oldest is first."""
        self._last_request_id = 0
        self._batch_slots_max = BATCH_SLOTS_MAX
        self._broken: str | None = None
        """Why nothing can be sent any more, for the error messages."""
        self._first_status: aio.AioRpcError | None = None
        self._is_closing = False
        self._pump_sleeps: asyncio.Future[None] | None = None
        self._room_waiters: list[asyncio.Future[None]] = []
        self._drain_waiters: list[asyncio.Future[None]] = []
        self._watchdog: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        """Connect, open the area, start the stream.

        Raises:
            TierUnreachable: nobody answers at the address. Definite, but for a connection that broke during Swapon.
            SwapTierError: the server refused the area; its class says why. Definite.
        """
        self._loop = asyncio.get_running_loop()
        self._channel = await connect(self.address, self._settings.connect_seconds)
        try:
            self._calls = AreaCalls(self._channel, self.area, self._settings.deadline_seconds)
            opened = await self._calls.swapon()
        except BaseException:
            await self._channel.close()
            raise
        self.server_epoch, self.reopened = opened.server_epoch, opened.reopened
        self._batch_slots_max = opened.batch_slots_max
        self._call = self._calls.exchange()
        self._call.add_done_callback(self._on_call_end)
        self._tasks = [asyncio.create_task(self._pump()), asyncio.create_task(self._read())]
        for task in self._tasks:
            task.add_done_callback(self._on_task_end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what was submitted (after an error: give it up), then end the stream and the connection."""
        self._is_closing = True
        try:
            if error is None:
                await self.drain()
                await self._end_stream()
        finally:
            self._break("this host closed the stream")
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
            await self._channel.close()

    # What mm's driver sees.

    @property
    def has_room(self) -> bool:
        """Whether submit() may be called now. Also when the stream is down: the reply then says so."""
        return self._waiting.has_room or self._broken is not None

    async def room(self) -> None:
        """Wait until there may be room, or the stream is down. A hint: ask `has_room` again."""
        if not self.has_room:
            await self._wait_in(self._room_waiters)

    def submit(self, effect: Request) -> asyncio.Future[RequestReply]:
        """Queue *effect* and return the future of its reply: never waits, never raises.

        The future gets a LoadReply or SlotReply, or one of:
            InvalidRequest, LimitReached: not a request of this area, or no room. Definite.
            TierUnreachable, DeadlinePassed: definite unless it had been sent.
            SwapTierError: the server refused the message it was in; its class says why and whether definite.
        """
        reply: asyncio.Future[RequestReply] = self._loop.create_future()
        refusal = self._refusal(effect)
        if refusal is not None:
            reply.set_exception(refusal)
            return reply
        self._waiting.add(Op(effect, reply))
        if len(self._unanswered) < self._settings.window_messages:
            self._wake_pump()
        return reply

    def _refusal(self, effect: Request) -> SwapTierError | None:
        """Return why *effect* cannot be queued. Checked here, since one bad slot would refuse a whole message."""
        if self._broken is not None or self._is_closing:
            why = self._broken or "this host is closing the stream"
            return self._unreachable(f"{why}. The request was not sent", definite=True)
        if not 0 <= effect.entry.offset < self.area.slots:
            return InvalidRequest(
                f"offset {effect.entry.offset} is outside area {self.area.name!r} of {self.area.slots} slots"
            )
        if isinstance(effect, Store) and len(effect.page) != PAGE_BYTES:
            return InvalidRequest(f"a page is {PAGE_BYTES} bytes long, not {len(effect.page)}. Nothing was stored")
        if not isinstance(effect, Lookup) and effect.generation <= NO_GENERATION:
            return InvalidRequest(f"generations start at 1, and slot {effect.entry.offset} got {effect.generation}")
        if not self._waiting.has_room:
            return LimitReached("too many requests wait for this tier. Not queued; wait for room() first")
        return None

    def _unreachable(self, what: str, *, definite: bool) -> TierUnreachable:
        return TierUnreachable(f"tier {self.address}: {what}", definite=definite)

    # What only the owner of the stream calls.

    async def drain(self) -> None:
        """Wait until nothing waits and nothing is unanswered."""
        while self._waiting or self._unanswered:
            await self._wait_in(self._drain_waiters)

    async def swapoff(self) -> int:
        """Close the area once everything submitted has ended; return how many pages the pool still held.

        Raises:
            SwapTierError: as the contract's Swapoff.
        """
        await self.drain()  # a unary call is not in the stream's order: it would overtake what is on its way
        return await self._calls.swapoff()

    async def stat(self) -> AreaStat:
        """Return the area's counters as the server has them now; what is on its way is not waited for.

        Raises:
            SwapTierError: as the contract's Stat.
        """
        return await self._calls.stat()

    # The pump sends, the reader resolves; both are tasks of this stream.

    async def _pump(self) -> None:
        """Send messages, as far as the window and what waits allow, until the stream is down."""
        while self._broken is None:
            if not self._waiting or len(self._unanswered) >= self._settings.window_messages:
                self._pump_sleeps = self._loop.create_future()
                await self._pump_sleeps
                continue
            ops = self._waiting.take_message(self._batch_slots_max)
            _wake_all(self._room_waiters)
            if not ops:  # all were cancelled
                self._wake_if_drained()
                continue
            self._last_request_id += 1
            message = Message(self.area.header(self._last_request_id), ops, sent_at=self._loop.time())
            self._unanswered[self._last_request_id] = message
            self._set_watchdog()
            self.counters.count_sent(message.request)
            try:
                await self._call.write(encode_exchange_request(message.request))
            except (aio.AioRpcError, asyncio.InvalidStateError):
                return  # the stream has ended; the reader is told why

    async def _read(self) -> None:
        """Take answers until the stream ends."""
        try:
            async for response in self._call:
                self._answer(response)
        except aio.AioRpcError as error:
            end = self._first_status or error
            # A server that drains says so, and that what it left unanswered had no effect.
            is_definite = status.from_rpc_error(end).definite
            self._break(f"the stream broke: {end.code().name} ({end.details()})", is_definite=is_definite)
        except ServerDefect as error:
            self._break(f"the stream was torn down: {error}")
        else:
            self._break("the server ended the stream")

    def _answer(self, response: pb.ExchangeResponse) -> None:
        """End the operations of one message with its answer.

        Raises:
            ServerDefect: the answer does not fit the question, which stays unanswered. Indefinite.
        """
        message = self._unanswered.get(response.request_id)
        if message is None:
            raise ServerDefect(f"an answer came to request {response.request_id}, which nobody is waiting for")
        if response.server_epoch != self.server_epoch:
            self._change_epoch(response.server_epoch)
        if response.HasField("error"):
            self.counters.messages_refused += 1
            message.fail(lambda: status.decode_exchange_error(response.error))
        else:
            replies = decode_exchange_response(response, message.request)
            self.counters.count_received(replies)
            message.resolve(replies)
        self.counters.round_trip_us.observe(int((self._loop.time() - message.sent_at) * 1e6))
        del self._unanswered[response.request_id]
        self._wake_pump()
        self._wake_if_drained()

    def _change_epoch(self, epoch: int) -> None:
        """Remember the server's new epoch and tell."""
        old, self.server_epoch = self.server_epoch, epoch
        self.counters.epoch_changes += 1
        if self._on_epoch_change is not None:
            self._on_epoch_change(old, epoch)

    # The end of a stream.

    async def _end_stream(self) -> None:
        """Tell the server that nothing follows, and let it end the stream its way."""
        if self._broken is None:
            await self._call.done_writing()
            await asyncio.wait(self._tasks[1:], timeout=self._settings.deadline_seconds)

    def _break(self, why: str, *, is_definite: bool = False) -> None:
        """End everything that has not ended, for the reason *why*. Idempotent.

        What was not sent ends definitely; what was sent and not answered, only if *is_definite*.
        """
        if self._broken is not None:
            return
        self._broken = why
        if not self._is_closing:
            self.counters.streams_broken += 1
        effect = "had no effect" if is_definite else "had been sent, and whether it took effect is unknown"
        for message in self._unanswered.values():
            message.fail(lambda: self._unreachable(f"{why}. The request {effect}", definite=is_definite))
        self._unanswered.clear()
        for op in self._waiting.drop_all():
            op.fail(self._unreachable(f"{why}. The request was not sent", definite=True))
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._call.cancel()
        self._wake_pump()
        _wake_all(self._room_waiters)
        _wake_all(self._drain_waiters)

    def _on_call_end(self, _call: object) -> None:
        """Keep the stream's status; what comes later may be grpc's own."""
        if self._first_status is None:
            self._first_status = status_now(self._call)

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        """Leave nobody waiting if the pump or the reader ended in a way it should not."""
        if task.cancelled():
            self._break("the stream's task was cancelled")
        elif (defect := task.exception()) is not None:
            self._break(f"a defect of this host's transport, {type(defect).__name__}")
            self._loop.call_exception_handler({"message": "swaptier stream failed", "exception": defect, "task": task})

    def _set_watchdog(self) -> None:
        """Have the oldest unanswered message's deadline watched; one timer per stream, not one per message."""
        if self._watchdog is None and self._unanswered:
            oldest = next(iter(self._unanswered.values()))
            self._watchdog = self._loop.call_at(oldest.sent_at + self._settings.deadline_seconds, self._check_deadline)

    def _check_deadline(self) -> None:
        """Tear the stream down if its oldest message is past its deadline, or watch the next oldest."""
        self._watchdog = None
        oldest = next(iter(self._unanswered.values()), None)
        seconds = self._settings.deadline_seconds
        if oldest is None or self._loop.time() < oldest.sent_at + seconds:
            self._set_watchdog()
            return
        late = f"{self.address} did not answer within {seconds:g} s; whether the request took effect is unknown"
        oldest.fail(lambda: DeadlinePassed(late))
        self._break(f"the stream was torn down after an answer did not come within {seconds:g} s")

    # Sleeping and waking.

    def _wake_pump(self) -> None:
        """Let the pump look again."""
        if self._pump_sleeps is not None and not self._pump_sleeps.done():
            self._pump_sleeps.set_result(None)

    def _wake_if_drained(self) -> None:
        """Let drain() return once nothing is left."""
        if self._drain_waiters and not self._waiting and not self._unanswered:
            _wake_all(self._drain_waiters)

    async def _wait_in(self, waiters: list[asyncio.Future[None]]) -> None:
        """Sleep until *waiters* are woken; a cancelled one stays behind, done, and is skipped."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        waiters.append(waiter)
        await waiter


def _wake_all(waiters: list[asyncio.Future[None]]) -> None:
    """Wake everyone who waits, in the order they came."""
    woken, waiters[:] = waiters[:], []
    for waiter in woken:
        if not waiter.done():
            waiter.set_result(None)
