"""One ordered stream to one tier server for one area, coalescing whatever waits, over one connection after the other.

Touches the network (through `connection.py`) and the monotonic clock. Rules of conduct:

- `submit()` never waits. `coalesce.py` decides what goes into a message and keeps each slot's order.
- Every operation ends once: with its reply, or with an error that says whether it may have taken effect. Not sent:
  definite. Sent and not answered: indefinite. Nothing that may have taken effect is sent twice: the caller asks again.
- When a connection breaks, what had not been sent waits for the next one, for `give_up_seconds`; what had been sent and
  is known to have had no effect waits with it. A refusal that no later attempt can change ends the stream at once.
- Time for which this host was stopped counts for no deadline: what came meanwhile is read first (`awake.py`).
- A new epoch of the server is reported once, before anything is sent to it, and every load that waits then requires its
  generation: what the server lost must come back as lost, not as whatever its device has.
- Bytes are checked on arrival (`message.py`): other bytes than those of the store become Outcome.ERROR, never a page.

Models: the path from swap_writepage() and swap_read_folio() to the device, with a network in between.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from itertools import count
from types import TracebackType
from typing import Self, TypeAlias, TypeVar

from swaptier_client.area_calls import AreaCalls, HostArea
from swaptier_client.coalesce import PendingRequest, RequestQueue
from swaptier_client.connection import Connection, End, StreamSettings
from swaptier_client.metrics import StreamCounters
from swaptier_client.mm.effects import Lookup, Request, RequestReply, Store
from swaptier_client.reconnect import PASSING, Clock, until_it_works
from swaptier_wire.awake import AwakeClock
from swaptier_wire.errors import InvalidRequest, LimitReached, SwapTierError, TierUnreachable, UnknownArea
from swaptier_wire.reply_codec import AreaStat
from swaptier_wire.types import NO_GENERATION, PAGE_BYTES

T = TypeVar("T")

BEAT_SECONDS = 0.5
"""How often a stream looks whether this host was stopped; half as much again, unless it was."""

UnaryCall: TypeAlias = Callable[[AreaCalls], Awaitable[T]]


class TierStream:
    """The stream of one host to one tier server, for one area. Made, entered once, left once.

    Invariants: every submitted operation is in `_waiting`, in a message of the connection, or ended. Once `_broken`
    says why, nothing is sent, nothing waits and all have ended.
    """

    def __init__(
        self,
        address: str,
        area: HostArea,
        settings: StreamSettings | None = None,
        on_epoch_change: Callable[[int, int], None] | None = None,
        clock: Clock | None = None,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Name a server (HOST:PORT or unix:PATH). *on_epoch_change* gets (old, new) before the reply that says new.

        Old and new are equal when the server is the same and forgot the area. *clock* is for waiting between attempts
        to connect, else that of the stream, which is *now_ns* while this host runs.
        """
        self.address = address
        self.area = area
        self.counters = StreamCounters()
        self.server_epoch = 0
        """As of the last answer; a change means that pages the server held in memory are lost."""
        self.reopened = False
        """The area was open in this epoch already when the stream began, and kept its pages."""
        self._incarnation = 0
        """Of the area, as of the last Swapon: a server that forgot it has another."""
        self.writes_through = False
        """The server said so last: what it answered a store with outlives it."""
        self._settings = settings or StreamSettings()
        self._on_epoch_change = on_epoch_change
        self._awake = AwakeClock(now_ns, 1.5 * BEAT_SECONDS)
        self._clock = clock or Clock(self._awake.seconds, asyncio.sleep)
        self._chance = random.Random(f"{area.client_id}/{area.client_epoch}/{area.name}")
        self._waiting = RequestQueue(self._settings.queue_ops_max)
        self._request_ids = count(1)
        self._connection: Connection | None = None
        """None while there is none."""
        self._broken: SwapTierError | None = None
        """Why nothing can be sent any more."""
        self._is_patient = self._settings.give_up_seconds > 0
        """A lost connection is replaced."""
        self._is_closing = False
        # Set and cleared at once: what waits looks again, and nothing stays set.
        self._has_room_again, self._has_drained, self._has_connected = (asyncio.Event() for _ in range(3))

    async def __aenter__(self) -> Self:
        """Connect, open the area, start the stream; with `give_up_seconds`, try for as long.

        Raises:
            TierUnreachable: no server answers at the address. Definite, but for a connection that broke during Swapon.
            SwapTierError: the server refused the area; its class says why. Definite.
        """
        self._loop = asyncio.get_running_loop()
        self._beat()
        try:
            await self._enter()
        except BaseException:
            self._heart.cancel()
            raise
        self._keeper = asyncio.create_task(self._keep_connected())
        return self

    async def _enter(self) -> None:
        try:
            await self._connect(self._settings.connect_seconds)
        except PASSING:
            if not self._is_patient:
                raise
            await self._until_it_works(self._connect)
            self.counters.reconnects += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what was submitted (after an error: give it up), then end the stream and the connection."""
        self._is_closing = True
        try:
            if error is None:
                await self.drain()
                if self._connection is not None:
                    await self._connection.end_stream()
                    await asyncio.wait([self._keeper], timeout=self._settings.deadline_seconds)
        finally:
            self._heart.cancel()
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            if self._connection is not None:  # the keeper was cancelled before it began
                await self._connection.close()
            self._break(self._unreachable("this host closed the stream"))

    def _beat(self) -> None:
        self._awake.beat()
        self._heart = self._loop.call_later(BEAT_SECONDS, self._beat)

    # What mm's driver sees.

    @property
    def has_room(self) -> bool:
        """Whether submit() may be called now. Also when the stream is down: the reply then says so."""
        return self._waiting.has_room or self._broken is not None

    @property
    def is_cut_off(self) -> bool:
        """Whether there is no connection now, though the stream is not closing."""
        return self._connection is None and not self._is_closing

    @property
    def epoch_changes(self) -> int:
        """How often the server started anew, or forgot the area, since the beginning."""
        return self.counters.epoch_changes

    async def room(self) -> None:
        """Wait until there may be room, or the stream is down. A hint: ask `has_room` again."""
        if not self.has_room:
            await self._has_room_again.wait()

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
        self._waiting.add(PendingRequest(effect, reply, self._awake.seconds() + self._settings.deadline_seconds))
        if self._connection is not None:
            self._connection.wake()
        return reply

    def _refusal(self, effect: Request) -> SwapTierError | None:
        """Return why *effect* cannot be queued. Checked here, since one bad slot would refuse a whole message."""
        if self._broken is not None:
            return self._not_sent(self._broken)
        if self._is_closing:
            return self._not_sent(self._unreachable("this host is closing the stream"))
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

    def _unreachable(self, what: str, *, definite: bool = True) -> TierUnreachable:
        return TierUnreachable(f"tier {self.address}: {what}", definite=definite)

    # What only the owner of the stream calls.

    async def drain(self) -> None:
        """Wait until nothing waits and nothing is unanswered."""
        while not self._is_drained:
            await self._has_drained.wait()

    @property
    def _is_drained(self) -> bool:
        return not self._waiting and (self._connection is None or not self._connection.unanswered)

    def give_up(self) -> None:
        """Wait for no connection any more: what needs one that is not there fails, now and from now on. Definite.

        For a host that is to end while its tier is gone.
        """
        self._is_patient = False
        if self._connection is None:
            self._break(self._unreachable("there is no connection, and this host waits for none"))

    async def swapoff(self) -> int:
        """Close the area once everything submitted has ended; return how many pages the pool still held.

        The stream takes no more requests afterwards. If the answer is lost the area is closed again, and what it
        held then is returned.

        Raises:
            SwapTierError: as the contract's Swapoff.
        """
        await self.drain()  # a unary call is not in the stream's order: it would overtake what is on its way
        dropped_pages = await self._unary(AreaCalls.swapoff, again=_swapoff_again)
        self._is_closing = True
        return dropped_pages

    async def stat(self) -> AreaStat:
        """Return the area's counters as the server has them now; what is on its way is not waited for.

        Raises:
            SwapTierError: as the contract's Stat.
        """
        return await self._unary(AreaCalls.stat, again=AreaCalls.stat)

    async def _unary(self, call: UnaryCall[T], *, again: UnaryCall[T]) -> T:
        """Return the answer of *call*, or of *again* where a failure may pass."""

        async def repeat(_seconds: float) -> T:
            return await again((await self._connected()).calls)

        try:
            return await call((await self._connected()).calls)
        except PASSING:
            if not self._is_patient or self._broken is not None:
                raise
            return await self._until_it_works(repeat)

    async def _connected(self) -> Connection:
        """Return the connection, once there is one.

        Raises:
            SwapTierError: there will be none. Definite.
        """
        while self._connection is None:
            if self._broken is not None:
                raise self._not_sent(self._broken)
            await self._has_connected.wait()
        return self._connection

    # What the connection reports.

    def on_epoch(self, epoch: int) -> None:
        """Remember the server's epoch; a new one is reported before the rest of the answer is used."""
        if epoch != self.server_epoch:
            self._change_epoch(epoch)

    def on_progress(self) -> None:
        """Wake what waits for room, or for everything to have ended."""
        if self._waiting.has_room:
            _pulse(self._has_room_again)
        if self._is_drained:
            _pulse(self._has_drained)

    def _change_epoch(self, epoch: int) -> None:
        old, self.server_epoch = self.server_epoch, epoch
        self.counters.epoch_changes += 1
        self._waiting.require_generations()
        if self._on_epoch_change is not None:
            self._on_epoch_change(old, epoch)

    # From one connection to the next.

    async def _keep_connected(self) -> None:
        """Run one connection after the other until the stream is left or given up. A task of this stream."""
        while True:
            assert self._connection is not None, "connected before this began, and again after each end"
            end = await self._run(self._connection)
            if self._is_closing or not self._is_patient:
                return self._break(end.error(self.address, end.why))
            try:
                if end.refusal is None:
                    await self._until_it_works(self._connect)
                else:
                    await self._connect(self._settings.connect_seconds)
                self.counters.reconnects += 1
            except PASSING as failure:
                waited = f"{end.why}, and there was no other within {self._settings.give_up_seconds:g} s ({failure})"
                return self._break(end.error(self.address, waited))
            except SwapTierError as refusal:
                return self._break(refusal)

    async def _run(self, connection: Connection) -> End:
        """Run *connection* to its end and see to what it leaves unanswered."""
        try:
            end = await connection.run()
        except asyncio.CancelledError:
            self._leave(connection, End("this host closed the stream", is_definite=False))
            raise
        if not self._is_closing:
            self.counters.streams_broken += 1
        self._leave(connection, end)
        return end

    def _leave(self, connection: Connection, end: End) -> None:
        """End what *connection* left unanswered, or let it wait for the next one if it had no effect."""
        self._connection = None
        may_wait = end.is_definite and self._is_patient and not self._is_closing
        effect = "had no effect" if end.is_definite else "had been sent, and whether it took effect is unknown"
        for message in reversed(connection.unanswered.values()):
            if may_wait:
                self._waiting.put_back(message.ops)
            else:
                message.fail(lambda: end.error(self.address, f"{end.why}. The request {effect}"))
        connection.unanswered.clear()
        self.on_progress()

    async def _connect(self, seconds: float) -> None:
        """Make a connection within *seconds* and open the area on it.

        Raises:
            SwapTierError: see `Connection.open`.
        """
        connection = Connection(
            self.address, self.area, self._settings, self._waiting, self._request_ids, self.counters, self, self._awake
        )
        seconds = min(seconds, self._settings.connect_seconds)
        opened = await connection.open(seconds, self.server_epoch, self._incarnation)
        self.writes_through = opened.writes_through
        if self.server_epoch == 0:
            self.server_epoch, self.reopened = opened.server_epoch, opened.reopened
        # A server from before incarnations sends none, and says only that it opened the area empty.
        elif not opened.reopened or (opened.server_epoch, opened.incarnation) != (self.server_epoch, self._incarnation):
            self._change_epoch(opened.server_epoch)
        self._incarnation = opened.incarnation
        self._waiting.extend_deadlines(self._awake.seconds() + self._settings.deadline_seconds)
        self._connection = connection
        _pulse(self._has_connected)

    async def _until_it_works(self, attempt: Callable[[float], Awaitable[T]]) -> T:
        return await until_it_works(
            attempt,
            clock=self._clock,
            chance=self._chance,
            give_up_seconds=self._settings.give_up_seconds,
            has_given_up=lambda: not self._is_patient,
        )

    def _break(self, why: SwapTierError) -> None:
        """End everything that waits, for the reason *why*, and take nothing more. Idempotent."""
        if self._broken is not None:
            return
        self._broken = why
        for op in self._waiting.drop_all():
            op.fail(self._not_sent(why))
        for event in (self._has_room_again, self._has_drained, self._has_connected):
            _pulse(event)

    def _not_sent(self, why: SwapTierError) -> SwapTierError:
        """Return an error of *why*'s class for a request that was not sent: each is raised in another task."""
        error = type(why)(f"{why}. The request was not sent")
        error.definite = True
        return error


async def _swapoff_again(calls: AreaCalls) -> int:
    """Close an area that an attempt whose answer was lost may have closed."""
    try:
        return await calls.swapoff()
    except UnknownArea:
        return 0


def _pulse(event: asyncio.Event) -> None:
    """Wake what waits for *event* now, in the order it came, and nothing that comes later."""
    event.set()
    event.clear()
