"""Trying again until it works, until there is no point, or for long enough: exponential backoff with full jitter.

Pure, but for awaiting what it is given: the clock and the chance come from outside, so a test's time never passes.
Full jitter (any wait from 0 to the bound) because hosts that lost one server together must not come back together.
"""

import random
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple, TypeVar

from swaptier_wire.errors import Draining, LimitReached, ServerDefect, TierUnreachable

T = TypeVar("T")

FIRST_WAIT_SECONDS_MAX = 0.05
"""Bound of the first wait: a server that only dropped the connection is there at once."""

WAIT_SECONDS_MAX = 2.0
"""Bound of every wait: a server that comes back is found within it."""

PASSING = (TierUnreachable, Draining, LimitReached, ServerDefect)
"""What may be over at the next attempt. Any other answer (replaced, other geometry, no token) stands."""


class Clock(NamedTuple):
    """Time, as far as waiting goes."""

    now: Callable[[], float]
    """Seconds, never going back."""
    sleep: Callable[[float], Awaitable[object]]
    """Return after so many seconds."""


def backoff_seconds(chance: random.Random) -> Iterator[float]:
    """Yield the wait before each attempt of one outage: any time up to a bound that doubles with each."""
    bound = FIRST_WAIT_SECONDS_MAX
    while True:
        yield chance.uniform(0.0, bound)
        bound = min(WAIT_SECONDS_MAX, 2.0 * bound)


async def until_it_works(
    attempt: Callable[[float], Awaitable[T]],
    *,
    clock: Clock,
    chance: random.Random,
    give_up_seconds: float,
    has_given_up: Callable[[], bool] = lambda: False,
) -> T:
    """Return what *attempt* returns, once it does; it gets the seconds that are left and should not take more.

    Waits before the first attempt, too: this is called when something has just failed.

    Raises:
        SwapTierError: the last failure, after *give_up_seconds* or once *has_given_up* says so; or the first that no
            further attempt can change.
    """
    waits = backoff_seconds(chance)
    end = clock.now() + give_up_seconds
    wait_seconds = next(waits)
    while True:
        await clock.sleep(wait_seconds)
        try:
            return await attempt(max(0.0, end - clock.now()))
        except PASSING as failure:
            asked = failure.retry_after_seconds if isinstance(failure, LimitReached) else None
            wait_seconds = max(next(waits), asked or 0.0)
            if has_given_up() or clock.now() + wait_seconds >= end:
                raise
