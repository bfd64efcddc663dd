"""The calls that are under way, and how they are ended from outside: by a drain, or because they wait for too long.

Touches asyncio tasks. All methods run on the event loop. Rules:
  - while draining, no new call of the tier is let in: it is refused as Draining, which is definite;
  - a call whose message has begun to be applied answers it, then ends; one that waits for a message or for the turn of
    one ends at once. So when a call is ended from outside, every message without an answer had no effect, and a
    definite error is true of it;
  - a message that has begun is applied to its end although its call was cancelled meanwhile; see `turns`;
  - a call that was ended and whose client does not take the answer gives its places back: gRPC ends it when its client
    reads or goes, and cannot before, but it counts for nothing, keeps no area alive and applies nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final, TypeVar, cast

from grpc import aio

from swaptier_server.access.access import NOBODY_IN_PARTICULAR, Caller
from swaptier_server.rpc.turns import Turns, Work
from swaptier_server.tier.slices import Slices
from swaptier_wire.errors import Draining, LimitReached, SwapTierError

_T = TypeVar("_T")

REQUEST_SECONDS_MAX: Final = 30.0
"""From the head of a request to its one message. A batch takes milliseconds; who needs longer holds a place for it."""

DRAIN_STEP_SECONDS: Final = 1.0
"""Of the time that a drain has, as much as it takes for the loop to be held up at most."""

DRAINING_TEXT: Final = (
    "the server is shutting down and takes no new requests; nothing was applied. Ask again when another one serves: "
    "its epoch, if it is new, says that pages held in memory only are lost"
)


def is_end(message: object) -> bool:
    """Tell whether *message*, just read from a stream, says that there are no more."""
    return message is aio.EOF


class OpenCall:
    """One call, seen from its handler's task. Made by `Traffic.call`."""

    def __init__(
        self, caller: Caller, flow: Hashable, opened_ns: int, turns: Turns, *, is_stream: bool, is_drained: bool
    ) -> None:
        task = asyncio.current_task()
        assert task is not None, "calls are handled by tasks"
        self.caller: Final = caller
        self.opened_ns: Final = opened_ns
        self.is_stream: Final = is_stream
        """It may wait for a message for as long as its client likes."""
        self.is_drained: Final = is_drained
        """It is of the tier: a drain ends it and waits for it."""
        self._flow: Final = flow
        self._turns: Final = turns
        self._task: Final = task
        self._is_waiting = False
        self._is_writing = False
        self._work: Work[object] | None = None
        """What it wants done and waits for."""
        self._end: SwapTierError | None = None
        self.places: Final = ExitStack()
        """What the call holds as long as it lasts; closed by who made it, or by `give_back`."""

    @property
    def is_waiting(self) -> bool:
        """It waits for its client."""
        return self._is_waiting

    async def next(self, read: Callable[[], Awaitable[_T]]) -> _T:
        """Return the next message of the call, as *read* gives it.

        Raises:
            SwapTierError: what `end` was given; whatever came after the last answer was not applied. Definite.
        """
        if self._end is not None:
            raise self._end
        self._is_waiting = True
        try:
            message = await read()
        except asyncio.CancelledError:
            # Ours if we end it, the client's otherwise. If both, the client does not see the difference.
            if self._end is None:
                raise
            self._task.uncancel()
            raise self._end from None
        finally:
            self._is_waiting = False
        return message

    async def send(self, write: Callable[[], Awaitable[None]]) -> None:
        """Have *write* send an answer; it waits for a client that takes none."""
        self._is_writing = True
        try:
            await write()
        finally:
            self._is_writing = False

    def give_back(self) -> None:
        """Give the places of the call back, if it was ended and waits for its client to take an answer."""
        if self._end is not None and self._is_writing:
            self.places.close()

    async def in_turn(self, steps: Slices[_T]) -> _T:
        """Return what *steps* return, when it is the caller's turn; see `turns`. Once begun they are run to their end.

        Raises:
            SwapTierError: what `end` was given, and *steps* were not begun. Definite.
            Exception: what *steps* raised.
        """
        if self._end is not None:
            raise self._end
        work = Work(steps)
        self._turns.submit(self._flow, work)
        if not work.is_over:
            await self._be_waited_for(work)
        return work.result()

    async def _be_waited_for(self, work: Work[_T]) -> None:
        over = asyncio.get_running_loop().create_future()
        work.on_end = lambda: None if over.done() else over.set_result(None)
        self._work = cast("Work[object]", work)
        try:
            await over
        except asyncio.CancelledError:
            if self._work is not None:  # else `end` has withdrawn it
                self._turns.withdraw(self._flow, work)
                raise
            assert self._end is not None, "nothing else withdraws work"
            self._task.uncancel()
            raise self._end from None
        finally:
            self._work = None

    def end(self, error: SwapTierError) -> bool:
        """Make the call end with *error*: now when it waits for a message or its turn, else after the answer it gives.

        Returns whether it had not been ended before.

        *error* is definite.
        """
        assert error.definite, "a call that is ended here had no further effect"
        if self._end is not None:
            return False
        self._end = error
        is_withdrawn = self._work is not None and self._turns.withdraw(self._flow, self._work)
        if is_withdrawn:  # now: until the task sees that it is cancelled, it could begin
            self._work = None
        if self._is_waiting or is_withdrawn:
            self._task.cancel()
        return True


class Traffic:
    """Counts what is under way and ends it on request."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        """Count by the monotonic clock *now_ns*."""
        self.is_draining = False
        self._now_ns: Final = now_ns
        self._calls: Final[set[OpenCall]] = set()
        self._drained_calls = 0
        self.turns: Final = Turns(lambda work: asyncio.get_running_loop().call_soon(work))
        """Whose message is applied next."""
        self._quiet: Final = asyncio.Event()
        self._quiet.set()

    @property
    def in_flight(self) -> int:
        """Calls of the tier, streams included."""
        return self._drained_calls

    @property
    def open_streams(self) -> int:
        """Of `in_flight`, the streams."""
        return sum(call.is_drained and call.is_stream for call in self._calls)

    @contextmanager
    def call(
        self,
        caller: Caller = NOBODY_IN_PARTICULAR,
        flow: Hashable = None,
        *,
        is_stream: bool = False,
        is_drained: bool = True,
    ) -> Iterator[OpenCall]:
        """Register the call that the current task handles while the block runs; what it wants done is of *flow*.

        Raises:
            Draining: it would have to be drained, and the server shuts down. Definite.
        """
        if is_drained and self.is_draining:
            raise Draining(DRAINING_TEXT)
        call = OpenCall(caller, flow, self._now_ns(), self.turns, is_stream=is_stream, is_drained=is_drained)
        self._calls.add(call)
        self._drained_calls += is_drained
        if is_drained:
            self._quiet.clear()
        call.places.callback(self._forget, call)
        with call.places:
            yield call

    def _forget(self, call: OpenCall) -> None:
        self._calls.discard(call)
        self._drained_calls -= call.is_drained
        if not self._drained_calls:
            self._quiet.set()

    def end_late_requests(self) -> int:
        """End the requests whose one message has not come in time; return how many."""
        latest_ns = self._now_ns() - round(REQUEST_SECONDS_MAX * 1e9)
        late = [call for call in self._calls if not call.is_stream and call.is_waiting and call.opened_ns < latest_ns]
        for call in late:
            call.end(
                LimitReached(
                    f"the message of this request did not arrive within {REQUEST_SECONDS_MAX:g} s; nothing was "
                    "applied. Send it again",
                    retry_after_seconds=0.0,
                )
            )
        return len(late)

    def end_unwanted(self, objection: Callable[[Caller], SwapTierError | None]) -> int:
        """End the calls of callers that are not wanted any more, each with the *objection* to it; return how many.

        Those that were ended the last time and still write give their places back.
        """
        unwanted = [(call, error) for call in self._calls if (error := objection(call.caller)) is not None]
        ended = 0
        for call, error in unwanted:
            if call.end(error):
                ended += 1
            else:
                call.give_back()
        return ended

    async def drain(self, seconds: float) -> int:
        """Refuse what is new, end what waits, wait for the rest at most *seconds*; return what is still in flight."""
        self.is_draining = True
        for call in list(self._calls):
            if call.is_drained:
                call.end(Draining(DRAINING_TEXT))
        while seconds > 0 and self._drained_calls:
            # In steps: a server that is stopped meanwhile loses one, and not the time of those it waits for.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), min(seconds, DRAIN_STEP_SECONDS))
            seconds -= DRAIN_STEP_SECONDS
        return self.in_flight
