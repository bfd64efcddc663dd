"""One connection to a tier server with its ordered stream: takes messages from the queue, deals out answers, ends once.

Touches the network (grpc.aio) and the event loop's timers. Rules of conduct:

- The pump sends a message whenever fewer than `window_messages` are unanswered and something waits; no timer holds
  anything back.
- Nothing is sent twice. The owner of the queue decides what becomes of what is unanswered when the connection ends.
- An operation whose own deadline passes ends alone, with its outcome unknown, whatever message it is in. A message
  without an answer for as long ends the connection: nothing behind it can be trusted to arrive. Neither happens
  before the answers are read that came while this host was stopped.
- The server answers in order. An answer that others overtake is lost, once more of them came than can be reordered on
  the way; one that comes to a message that is not waited for is late or came twice, and is not looked at.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from grpc import aio

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_client.area_calls import AreaCalls, HostArea, status_now
from swaptier_client.channel import connect
from swaptier_client.coalesce import QUEUE_OPS_MAX, RequestQueue
from swaptier_client.message import Message
from swaptier_client.metrics import StreamCounters
from swaptier_client.security import PLAIN, Security
from swaptier_wire import status
from swaptier_wire.awake import AwakeClock
from swaptier_wire.errors import (
    DeadlinePassed,
    ServerDefect,
    SwapTierError,
    TierUnreachable,
    Unauthenticated,
    UnknownArea,
)
from swaptier_wire.reply_codec import decode_exchange_response
from swaptier_wire.request_codec import encode_exchange_request
from swaptier_wire.types import BATCH_SLOTS_MAX

WINDOW_MESSAGES = 2
"""Unanswered messages at once: one being applied while the next is packed. Measured with 4 to 256 threads on two cores:
1 coalesces most and is as fast below 64 threads, 2 is 5 % faster from there on, 4 and 8 lose up to half below 256."""

DEADLINE_SECONDS = 10.0
"""From submitting an operation to its reply: thousands of round trips, and within a user's patience."""

CONNECT_SECONDS = 5.0
"""For the connection."""

GIVE_UP_SECONDS = 30.0
"""Without a connection: a server that is restarted by hand or by its supervisor is back within it."""

SETTLE_SECONDS = 0.1
"""Until the deadlines are looked at again, when this host has just been stopped."""

OVERTAKERS_MAX = 1
"""Answers that may overtake another one. The server never lets them; a middlebox may swap two."""


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Bounds of a stream; the defaults are for one machine or one rack."""

    deadline_seconds: float = DEADLINE_SECONDS
    """For each operation from submit() on, while there is a connection; and for each unary call."""
    connect_seconds: float = CONNECT_SECONDS
    give_up_seconds: float = GIVE_UP_SECONDS
    """Without a connection, until what waits fails. 0: what waits fails with the connection, and nothing reconnects."""
    window_messages: int = WINDOW_MESSAGES
    queue_ops_max: int = QUEUE_OPS_MAX
    security: Security = PLAIN


class AnswerLost(TierUnreachable):
    """Later messages of the stream were answered and this one was not; it may have been applied. Indefinite."""


class End(NamedTuple):
    """How a connection ended."""

    why: str
    is_definite: bool
    """What was sent and not answered had no effect; else that is unknown."""
    refusal: Unauthenticated | None = None
    """The server no longer lets this host in. Waiting does not help; another token may."""

    def error(self, address: str, what: str) -> SwapTierError:
        """Return the error of a request that it left unanswered, or that comes after it."""
        if self.refusal is not None:
            return Unauthenticated(f"tier {address}: {self.refusal}")
        return TierUnreachable(f"tier {address}: {what}", definite=self.is_definite)


class Listener(Protocol):
    """Hears what happens on the connection, as it happens."""

    def on_epoch(self, epoch: int) -> None:
        """An answer says that the server is in *epoch*. Called before the replies in it are dealt out."""

    def on_progress(self) -> None:
        """Something left the queue, or was answered."""


class Connection:
    """A connection, from Swapon to its end. Made, opened once, then run once.

    Invariants: every operation taken from the queue is in exactly one message of `unanswered` or has ended. At most
    `window_messages` are unanswered. Once `_end` says why, nothing is sent and no answer is taken.
    """

    def __init__(
        self,
        address: str,
        area: HostArea,
        settings: StreamSettings,
        waiting: RequestQueue,
        request_ids: Iterator[int],
        counters: StreamCounters,
        listener: Listener,
        awake: AwakeClock,
    ) -> None:
        """Serve the queue *waiting* of *area* once connected to *address*; *request_ids* rise; *awake* has the time."""
        self.unanswered: dict[int, Message] = {}
        """By request id; the oldest is first."""
        self._address = address
        self._area = area
        self._settings = settings
        self._waiting = waiting
        self._request_ids = request_ids
        self._counters = counters
        self._listener = listener
        self._awake = awake
        self._loop = asyncio.get_running_loop()
        self._last_request_id = 0
        self._end: End | None = None
        self._first_status: aio.AioRpcError | None = None
        self._pump_may_send = asyncio.Event()
        self._watchdog: asyncio.TimerHandle | None = None

    async def open(self, connect_seconds: float, seen_server_epoch: int, seen_incarnation: int) -> pb.SwaponResponse:
        """Connect within *connect_seconds* and open the area; return the server's answer.

        *seen_server_epoch* and *seen_incarnation* as for `AreaCalls.swapon`.

        Raises:
            TierUnreachable: no server answers at the address. Definite, but for a connection that broke during Swapon.
            SwapTierError: the server refused the area; its class says why. Definite.
        """
        security = self._settings.security
        self._channel = await connect(self._address, connect_seconds, security)
        try:
            self.calls = AreaCalls(
                self._channel, self._area, self._settings.deadline_seconds, metadata=security.metadata()
            )
            opened = await self.calls.swapon(seen_server_epoch, seen_incarnation)
        except BaseException:
            await self._channel.close()
            raise
        self._batch_slots_max = min(BATCH_SLOTS_MAX, opened.batch_slots_max)
        self._call = self.calls.exchange()
        self._call.add_done_callback(self._on_call_end)
        return opened

    async def run(self) -> End:
        """Send what waits and take answers until the stream ends; `unanswered` is then what had no answer."""
        pump, reader = asyncio.create_task(self._pump()), asyncio.create_task(self._read())
        for task in (pump, reader):
            task.add_done_callback(self._on_task_end)
        try:
            await asyncio.wait([reader])
        finally:
            self._finish("this host closed the stream")
            for task in (pump, reader):
                task.cancel()
            await asyncio.wait([pump, reader])
            await self.close()
        assert self._end is not None, "a stream that was read to its end has one"
        return self._end

    async def close(self) -> None:
        """End it, also if it never ran. Idempotent."""
        self._finish("this host closed the stream")
        await self._channel.close()

    async def end_stream(self) -> None:
        """Tell the server that nothing follows; it ends the stream in turn, and `run` returns."""
        if self._end is None:
            with contextlib.suppress(aio.AioRpcError, asyncio.InvalidStateError):  # it has ended already
                await self._call.done_writing()

    def wake(self) -> None:
        """Have the pump look at the queue, if it may send."""
        if len(self.unanswered) < self._settings.window_messages:
            self._pump_may_send.set()

    # The pump sends, the reader resolves; both are tasks of run().

    async def _pump(self) -> None:
        """Send messages, as far as the window and what waits allow, until the stream is down."""
        while self._end is None:
            if not self._waiting or len(self.unanswered) >= self._settings.window_messages:
                self._pump_may_send.clear()
                await self._pump_may_send.wait()
                continue
            now = self._awake.seconds()
            if self._awake.is_settled:
                for op in self._waiting.take_late(now):
                    op.fail(self._late("it was not sent", definite=True))
            ops = self._waiting.take_message(self._batch_slots_max)
            self._listener.on_progress()
            if not ops:  # all were late or cancelled
                continue
            self._last_request_id = next(self._request_ids)
            message = Message(self._area.header(self._last_request_id), ops, sent_at=now)
            self.unanswered[self._last_request_id] = message
            self._set_watchdog()
            self._counters.count_sent(message.request)
            try:
                await self._call.write(encode_exchange_request(message.request))
            except (aio.AioRpcError, asyncio.InvalidStateError):
                return  # the stream has ended; the reader learns why

    async def _read(self) -> None:
        """Take answers until the stream ends."""
        try:
            async for response in self._call:
                self._answer(response)
        except aio.AioRpcError as error:
            end = self._first_status or error
            # A server that drains says so, and that what it left unanswered had no effect.
            said = status.from_rpc_error(end)
            self._finish(
                f"the stream broke: {end.code().name} ({end.details()})",
                is_definite=said.definite,
                refusal=said if isinstance(said, Unauthenticated) else None,
            )
        except ServerDefect as error:
            self._finish(f"the stream was torn down: {error}")
        else:
            self._finish("the server ended the stream")

    def _answer(self, response: pb.ExchangeResponse) -> None:
        """End the operations of one message with its answer.

        Raises:
            ServerDefect: the answer does not fit the question, which stays unanswered. Indefinite.
        """
        self._listener.on_epoch(response.server_epoch)
        message = self.unanswered.get(response.request_id)
        if message is None:
            if not 0 < response.request_id <= self._last_request_id:
                raise ServerDefect(f"an answer came to request {response.request_id}, which was never sent")
            self._counters.answers_unexpected += 1
            return
        if response.HasField("error"):
            self._counters.messages_refused += 1
            refusal = status.decode_exchange_error(response.error)
            if isinstance(refusal, UnknownArea) and self._settings.give_up_seconds > 0:
                # The server forgot the area under the open stream. The next connection opens it again and says so.
                self._waiting.put_back(self.unanswered.pop(response.request_id).ops)
                self._finish(f"the server refused a message: {refusal}")
                return
            message.fail(lambda: status.decode_exchange_error(response.error))
        else:
            replies = decode_exchange_response(response, message.request)
            self._counters.count_received(replies)
            message.resolve(replies)
        self._counters.round_trip_us.observe(int((self._awake.seconds() - message.sent_at) * 1e6))
        del self.unanswered[response.request_id]
        self._give_up_overtaken(response.request_id)
        self._pump_may_send.set()
        self._listener.on_progress()

    def _give_up_overtaken(self, request_id: int) -> None:
        """End the messages that the answer to *request_id* is one too many to overtake: theirs are lost."""
        for older_id in [older_id for older_id in self.unanswered if older_id < request_id]:
            message = self.unanswered[older_id]
            message.overtaken += 1
            if message.overtaken <= OVERTAKERS_MAX:
                continue
            del self.unanswered[older_id]
            self._counters.answers_lost += 1
            what = f"tier {self._address}: the answer was lost: later ones came. Whether it took effect is unknown"
            message.fail(lambda what=what: AnswerLost(what))  # type: ignore[misc]  # mypy infers no default arguments

    # The end of a connection.

    def _finish(self, why: str, *, is_definite: bool = False, refusal: Unauthenticated | None = None) -> None:
        """End the stream for the reason *why*. Idempotent."""
        if self._end is not None:
            return
        self._end = End(why, is_definite, refusal)
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._call.cancel()
        self._pump_may_send.set()

    def _on_call_end(self, _call: object) -> None:
        """Keep the stream's status; what comes later may be grpc's own."""
        if self._first_status is None:
            self._first_status = status_now(self._call)

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        """Leave nothing waiting if the pump or the reader ended in a way it should not."""
        if task.cancelled():
            self._finish("the stream's task was cancelled")
        elif (defect := task.exception()) is not None:
            self._finish(f"a defect of this host's transport, {type(defect).__name__}")
            self._loop.call_exception_handler({"message": "swaptier stream failed", "exception": defect, "task": task})

    def _set_watchdog(self) -> None:
        """Have the earliest deadline watched; one timer per connection, not one per message."""
        if not self.unanswered or self._end is not None:
            return
        seconds = self._settings.deadline_seconds
        deadline = min(min(message.deadline, message.sent_at + seconds) for message in self.unanswered.values())
        due = self._loop.time() + max(deadline - self._awake.seconds(), SETTLE_SECONDS * (not self._awake.is_settled))
        if self._watchdog is not None and self._watchdog.when() > due:
            # An older operation was held back until now.
            self._watchdog.cancel()
            self._watchdog = None
        if self._watchdog is None:
            self._watchdog = self._loop.call_at(due, self._check_deadlines)

    def _check_deadlines(self) -> None:
        """End what is late: the connection if its oldest message is, else the operations that are."""
        self._watchdog = None
        if not self._awake.is_settled:
            self._set_watchdog()
            return
        now, seconds = self._awake.seconds(), self._settings.deadline_seconds
        oldest = next(iter(self.unanswered.values()), None)
        if oldest is not None and now >= oldest.sent_at + seconds:
            oldest.fail(lambda: self._late("whether it took effect is unknown"))
            self._finish(f"the stream was torn down after an answer did not come within {seconds:g} s")
            return
        for message in self.unanswered.values():
            message.fail_late(now, lambda: self._late("whether it took effect is unknown"))
        self._set_watchdog()

    def _late(self, effect: str, *, definite: bool = False) -> DeadlinePassed:
        seconds = self._settings.deadline_seconds
        return DeadlinePassed(
            f"tier {self._address} did not answer a request within {seconds:g} s; {effect}", definite=definite
        )
