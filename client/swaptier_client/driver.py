"""Runs the paths of mm on asyncio: takes each effect a path yields, performs it, and sends the reply back in.

Touches the event loop and nothing else; the wire is behind `TierLink`. Rules of conduct:

- Between two effects of one path nothing else runs: the driver resumes a path, and it runs to its next yield.
- Only what must wait goes through the loop. A reply that is there already, a wait-free path and most `Preempt`s do not.
- A transport failure is thrown into the path; in a `Batch` it stands in the list in place of the reply.
- A path whose request failed with an unknown outcome twice or more asks again after a pause that doubles each time.
- A path whose task is cancelled is closed: its `finally` clauses run at once, and may not yield.

Models: the scheduler, as far as mm sees it: wait_event(), wake_up_all() and involuntary preemption.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from swaptier_client.mm.effects import Acknowledge, Batch, Load, Path, Preempt, Reply, Request, RequestReply, Wait
from swaptier_client.mm.lost_reply import is_unknown
from swaptier_wire.errors import SwapTierError

T = TypeVar("T")

PREEMPTION_TURNS_MAX = 1024
"""The longest preemption, in turns of the loop: measured 4 us each while it only waits for the tier, so some 4 ms or
ten round trips, in which another thread can fault a page in, have it reclaimed and have its slot reused."""

PREEMPTION_SECONDS_MAX = 0.1
"""And in time: a turn in which other threads touch many resident pages was measured at 20 ms, 5,000 times as long."""


FIRST_PAUSE_SECONDS = 0.05
"""Before a request is made for the third time. The second time is at once: a lost answer is mostly one of its kind."""

PAUSE_SECONDS_MAX = 2.0
"""Bound of the pause: as long as `reconnect` waits between connections."""


class TierLink(Protocol):
    """A tier server as the driver sees it: `swaptier_client.transport.TierStream`, or a fake."""

    @property
    def has_room(self) -> bool:
        """Whether submit() may be called now."""

    @property
    def epoch_changes(self) -> int:
        """How often the server started anew, or forgot the area, since the beginning."""

    async def room(self) -> None:
        """Wait until there may be room. A hint: ask `has_room` again. Returns also when the tier is unreachable."""

    def submit(self, effect: Request) -> asyncio.Future[RequestReply]:
        """Start *effect*; the future gets its reply or a SwapTierError, also when it could not be started."""


@dataclass(frozen=True, slots=True)
class Preemption:
    """How often and how long a path loses its CPU at a `Preempt`.

    With *probability* it yields to the loop for N turns, where P(N >= k) = 1/k up to *turns_max*: half of the
    preemptions last one turn, one in a hundred lasts a hundred. So a vCPU is preempted: mostly the neighbour
    runs for a moment, now and then the host takes the CPU away for many round trips, long enough for another thread
    to fault the same page in, free its slot and have the slot reused. A tail that falls faster never gets there; a
    fixed length only ever finds the one race it fits. The mean is ln(turns_max) + 0.6 turns, 7.5 by default.
    """

    probability: float = 0.05
    """0 never preempts, 1 always does."""
    turns_max: int = PREEMPTION_TURNS_MAX
    """Turns of the event loop, 1 or more."""
    seconds_max: float = PREEMPTION_SECONDS_MAX
    """It ends with the first turn after this long, however many are left."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"preemption probability {self.probability} is not within 0 and 1")
        if self.turns_max < 1:
            raise ValueError(f"a preemption lasts at least 1 turn, not {self.turns_max}")


class PreemptionCoin:
    """Draws how long each preemption lasts. The same seed draws the same lengths, whatever paths get them."""

    def __init__(self, preemption: Preemption, seed: int) -> None:
        self._draw = random.Random(seed).random
        self._preemption = preemption

    def turns(self) -> int:
        """Return how many turns of the loop to yield for: mostly 0."""
        if self._draw() >= self._preemption.probability:
            return 0
        # 1/u for a uniform u in (0, 1] is at least k with probability 1/k.
        return min(int(1.0 / (1.0 - self._draw())), self._preemption.turns_max)


class Driver:
    """Performs the effects of many paths at once, each in its own task, against the tiers of one host."""

    def __init__(
        self,
        tiers: Sequence[TierLink],
        *,
        seed: int,
        preemption: Preemption | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """Perform requests on tiers[entry.type]; preempt as *preemption* says, drawn from *seed*; pause by *sleep*."""
        self._tiers = tuple(tiers)
        self._sleep = sleep
        preemption = preemption or Preemption()
        self._preemption_turns = PreemptionCoin(preemption, seed).turns
        self._preemption_seconds_max = preemption.seconds_max

    async def run(self, path: Path[T]) -> T:
        """Perform *path* to its end and return what it returns.

        Raises:
            SwapTierError: a request failed and the path did not catch it. `definite` says whether it took effect.
            Exception: whatever else the path raises.
        """
        reply: Reply = None
        failure: SwapTierError | None = None
        unknown_in_a_row = 0
        try:
            while True:
                if failure is None:
                    effect = path.send(reply)
                else:
                    effect, failure = path.throw(failure), None
                reply = None
                # In the order of how often they come and how cheap they are; what is left is a request.
                if isinstance(effect, Preempt):
                    turns = self._preemption_turns()
                    if turns:
                        await _preempt(turns, self._preemption_seconds_max)
                elif isinstance(effect, Wait):
                    await _wait(effect)
                elif isinstance(effect, Batch):
                    await self._pause(unknown_in_a_row)
                    reply = replies = await self._batch(effect)
                    unknown_in_a_row = unknown_in_a_row + 1 if any(map(is_unknown, replies)) else 0
                elif isinstance(effect, Acknowledge):
                    await self._post(effect)
                else:
                    await self._pause(unknown_in_a_row)
                    tier = self._tiers[effect.entry.type]
                    try:
                        reply = await tier.submit(await _when_there_is_room(tier, effect))
                    except SwapTierError as error:
                        failure = error
                    unknown_in_a_row = unknown_in_a_row + 1 if is_unknown(failure) else 0
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]  # a generator's return value has no type in StopIteration
        except BaseException:
            path.close()  # no-op when the path itself raised; else it was cancelled at the effect it waits for
            raise

    async def _pause(self, unknown_in_a_row: int) -> None:
        """Wait before a path asks again whose requests had no known outcome so often, each after the other."""
        if unknown_in_a_row > 1:
            await self._sleep(min(FIRST_PAUSE_SECONDS * 2 ** (unknown_in_a_row - 2), PAUSE_SECONDS_MAX))

    async def _post(self, effect: Acknowledge) -> None:
        """Hand *effect* to its tier and wait for nothing: what becomes of it is the lease's business."""
        tier = self._tiers[effect.entry.type]
        tier.submit(await _when_there_is_room(tier, effect)).add_done_callback(_forget)

    async def _batch(self, effect: Batch) -> list[RequestReply | BaseException]:
        """Start all requests, then wait for all; a failure stands in its request's place."""
        futures: list[asyncio.Future[RequestReply]] = []
        replies: list[RequestReply | BaseException] = []
        try:
            for request in effect.requests:
                tier = self._tiers[request.entry.type]
                futures.append(tier.submit(await _when_there_is_room(tier, request)))
            for future in futures:
                try:
                    replies.append(await future)
                except SwapTierError as error:
                    replies.append(error)
        finally:
            for future in futures[len(replies) :]:  # cancelled in the middle: the rest has no reader
                future.cancel()
        return replies


async def _when_there_is_room(tier: TierLink, request: Request) -> Request:
    """Wait until *tier* has room, and return the request to make then.

    A load that was made for a server that is gone by then requires its generation, as those that wait in the stream do:
    the new one may never have had the page, and would answer with whatever its device has.
    """
    epoch_changes = tier.epoch_changes
    while not tier.has_room:
        await tier.room()
    if isinstance(request, Load) and tier.epoch_changes != epoch_changes:
        return request._replace(require_generation=True)
    return request


def _forget(posted: asyncio.Future[RequestReply]) -> None:
    """Take the outcome of a posted request, so that asyncio does not report a failure as never retrieved."""
    if not posted.cancelled():
        posted.exception()


async def _preempt(turns: int, seconds_max: float) -> None:
    """Let the loop make *turns* turns, or as many as fit into *seconds_max*."""
    time = asyncio.get_running_loop().time
    end = time() + seconds_max
    for _ in range(turns):
        await asyncio.sleep(0)
        if time() >= end:
            return


async def _wait(effect: Wait) -> None:
    """Sleep until the queue is woken. Parks before anything else can run, so no wake-up falls in between."""
    woken = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not woken.done():  # the task may have been cancelled between the wake-up and now
            woken.set_result(None)

    effect.queue.park(wake)
    try:
        await woken
    except asyncio.CancelledError:
        effect.queue.unpark(wake)
        raise
