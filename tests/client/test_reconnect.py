"""Trying again: how long to wait, how often, and when there is no point. Time is a number here."""

import random
from itertools import islice

import pytest

from swaptier_client.reconnect import (
    FIRST_WAIT_SECONDS_MAX,
    WAIT_SECONDS_MAX,
    Clock,
    backoff_seconds,
    until_it_works,
)
from swaptier_wire.errors import ClientReplaced, LimitReached, SwapTierError, TierUnreachable


class Time:
    """Passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.slept: list[float] = []
        self.clock = Clock(lambda: self.seconds, self.sleep)

    async def sleep(self, seconds: float) -> None:
        """Pass at once."""
        self.slept.append(seconds)
        self.seconds += seconds


class Attempts:
    """Fails as told, then works; notes how many seconds it was left."""

    def __init__(self, *failures: SwapTierError) -> None:
        self.failures = list(failures)
        self.left: list[float] = []

    async def __call__(self, seconds_left: float) -> str:
        """Make one attempt."""
        self.left.append(seconds_left)
        if self.failures:
            raise self.failures.pop(0)
        return "connected"


def test_waits_are_jittered_over_the_whole_of_a_bound_that_doubles() -> None:
    """Each wait is anywhere from 0 to its bound; the bound doubles up to its limit."""
    for attempt in range(12):
        bound = min(WAIT_SECONDS_MAX, FIRST_WAIT_SECONDS_MAX * 2**attempt)
        waits = [next(islice(backoff_seconds(random.Random(seed)), attempt, None)) for seed in range(200)]
        assert 0 <= min(waits) < bound / 10
        assert bound * 0.9 < max(waits) <= bound


def test_the_same_seed_waits_the_same() -> None:
    """A run can be repeated."""
    first, second = (list(islice(backoff_seconds(random.Random(7)), 9)) for _ in range(2))
    assert first == second


async def test_it_is_tried_until_it_works() -> None:
    """And every attempt is told what is left of the patience."""
    time, attempts = Time(), Attempts(*(TierUnreachable("refused") for _ in range(5)))
    result = await until_it_works(attempts, clock=time.clock, chance=random.Random(1), give_up_seconds=30)
    assert result == "connected"
    assert len(attempts.left) == len(time.slept) == 6
    assert attempts.left == sorted(attempts.left, reverse=True)
    assert attempts.left[-1] == pytest.approx(30 - sum(time.slept))


async def test_it_gives_up_in_time_with_the_last_failure() -> None:
    """Not one wait reaches beyond the bound."""
    time, attempts = Time(), Attempts(*(TierUnreachable(f"refused {number}") for number in range(1000)))
    with pytest.raises(TierUnreachable, match=r"refused \d+"):
        await until_it_works(attempts, clock=time.clock, chance=random.Random(1), give_up_seconds=30)
    assert 30 - WAIT_SECONDS_MAX <= sum(time.slept) <= 30
    assert len(attempts.left) > 15


async def test_a_refusal_that_stands_ends_it_at_once() -> None:
    """Another client owns the area: the next attempt would be told the same."""
    time, attempts = Time(), Attempts(TierUnreachable("refused"), ClientReplaced("epoch 2 owns the area"))
    with pytest.raises(ClientReplaced):
        await until_it_works(attempts, clock=time.clock, chance=random.Random(1), give_up_seconds=30)
    assert len(attempts.left) == 2


async def test_a_server_that_says_when_is_not_asked_before() -> None:
    """RetryInfo of a limit counts more than the jitter."""
    time, attempts = Time(), Attempts(LimitReached("64 areas are open", retry_after_seconds=7.0))
    await until_it_works(attempts, clock=time.clock, chance=random.Random(1), give_up_seconds=30)
    assert time.slept[1] == 7.0


async def test_who_has_given_up_makes_no_further_attempt() -> None:
    """Also when there is patience left: the host is asked to end."""
    time, attempts = Time(), Attempts(*(TierUnreachable("refused") for _ in range(9)))
    with pytest.raises(TierUnreachable):
        await until_it_works(
            attempts,
            clock=time.clock,
            chance=random.Random(1),
            give_up_seconds=30,
            has_given_up=lambda: len(attempts.left) == 3,
        )
    assert len(attempts.left) == 3
