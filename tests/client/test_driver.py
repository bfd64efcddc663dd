"""The driver against a fake tier: replies go back in, failures are thrown in, no wake-up is lost."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import page_of

from swaptier_client.driver import Driver, Preemption, PreemptionCoin
from swaptier_client.mm.effects import (
    Acknowledge,
    Batch,
    Effect,
    Invalidate,
    Load,
    Lookup,
    Path,
    Preempt,
    Reply,
    Request,
    RequestReply,
    Store,
    SwapEntry,
    Wait,
    WaitQueue,
)
from swaptier_client.mm.lost_reply import ask, batch, load
from swaptier_wire.errors import SwapTierError, TierUnreachable
from swaptier_wire.types import ZERO_PAGE, LoadMode, LoadReply, Outcome, SlotReply

NEVER = Preemption(probability=0.0)
ALWAYS = Preemption(probability=1.0, turns_max=64)


class FakeTier:
    """Keeps one page per slot. Answers at once, or when `answer_next` is called if it was made slow."""

    def __init__(self, *, is_slow: bool = False, room: int = 1000) -> None:
        self.pages: dict[int, bytes] = {}
        self.submitted: list[Request] = []
        self.failures: dict[int, SwapTierError] = {}
        self.room_left = room
        self.epoch_changes = 0
        self._is_slow = is_slow
        self._unanswered: list[tuple[Request, asyncio.Future[RequestReply]]] = []
        self._room_wanted = asyncio.Event()

    @property
    def has_room(self) -> bool:
        """Whether the room given is not used up."""
        return self.room_left > 0

    async def room(self) -> None:
        """Wait for give_room()."""
        await self._room_wanted.wait()

    def give_room(self, ops: int) -> None:
        """Take *ops* more."""
        self.room_left += ops
        self._room_wanted.set()

    def submit(self, effect: Request) -> asyncio.Future[RequestReply]:
        """Note *effect*; answer it now unless slow."""
        assert self.has_room
        self.room_left -= 1
        self.submitted.append(effect)
        future: asyncio.Future[RequestReply] = asyncio.get_running_loop().create_future()
        self._unanswered.append((effect, future))
        if not self._is_slow:
            self.answer_next()
        return future

    def answer_next(self) -> None:
        """Answer the oldest unanswered effect."""
        effect, future = self._unanswered.pop(0)
        failure = self.failures.get(effect.entry.offset)
        if future.cancelled():
            return
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(self._apply(effect))

    def _apply(self, effect: Request) -> RequestReply:
        match effect:
            case Store():
                self.pages[effect.entry.offset] = effect.page
                return SlotReply(Outcome.STORED)
            case Load():
                page = self.pages.get(effect.entry.offset, ZERO_PAGE)
                return LoadReply(Outcome.HIT, page=page, generation=effect.generation)
            case _:
                return SlotReply(Outcome.INVALIDATED)


def entry(offset: int, swap_type: int = 0) -> SwapEntry:
    return SwapEntry(swap_type, offset)


def store_then_load(offset: int) -> Path[bytes | None]:
    stored = yield from ask(Store(entry(offset), 1, page_of(offset)))
    assert stored.outcome is Outcome.STORED
    loaded = yield from load(Load(entry(offset), 1, LoadMode.SHARED, request_id=1))
    return loaded.content()


async def loop_turns_during(run: Callable[[], asyncio.Task[None]]) -> int:
    """Return how many turns the loop makes until the task that *run* starts is done."""
    turns = 0
    task = run()
    while not task.done():
        turns += 1
        await asyncio.sleep(0)
    await task
    return turns


async def test_replies_are_sent_into_the_path_and_its_return_value_comes_back() -> None:
    """A path that stores and loads gets the bytes it stored."""
    tier = FakeTier()
    assert await Driver([tier], seed=1).run(store_then_load(7)) == page_of(7)
    assert [type(effect) for effect in tier.submitted] == [Store, Load]


async def test_a_request_goes_to_the_tier_of_its_swap_type() -> None:
    """entry.type indexes the tiers."""
    tiers = [FakeTier(), FakeTier()]

    def path() -> Path[None]:
        yield from ask(Invalidate(entry(3, swap_type=1), 1))

    await Driver(tiers, seed=1).run(path())
    assert not tiers[0].submitted
    assert len(tiers[1].submitted) == 1


async def test_a_path_with_nothing_to_wait_for_never_goes_through_the_loop() -> None:
    """Replies that are there already and preemptions that do not happen cost no turn of the loop."""
    driver = Driver([FakeTier()], seed=1, preemption=NEVER)
    ran_meanwhile: list[str] = []

    def path() -> Path[None]:
        for offset in range(10):
            yield Preempt("test")
            yield from store_then_load(offset)
            yield from batch((Invalidate(entry(offset), 1),))

    asyncio.get_running_loop().call_soon(ran_meanwhile.append, "the loop turned")
    await driver.run(path())
    assert not ran_meanwhile


async def test_a_transport_failure_is_thrown_into_the_path_which_may_go_on() -> None:
    """The very error of the tier arrives at the yield, and a path that catches it yields its next effect."""
    tier = FakeTier()
    tier.failures[1] = TierUnreachable("gone", definite=True)

    def path() -> Path[SwapTierError]:
        try:
            yield from ask(Invalidate(entry(1), 1))
        except SwapTierError as error:
            yield from ask(Invalidate(entry(2), 1))
            return error
        raise AssertionError

    assert await Driver([tier], seed=1).run(path()) is tier.failures[1]
    assert [effect.entry.offset for effect in tier.submitted] == [1, 2]


async def test_a_failure_the_path_does_not_catch_reaches_the_caller() -> None:
    """run() raises what the path raises."""
    tier = FakeTier()
    tier.failures[1] = TierUnreachable("gone", definite=True)
    with pytest.raises(TierUnreachable, match="gone"):
        await Driver([tier], seed=1).run(store_then_load(1))


async def test_a_batch_starts_everything_before_it_waits_and_keeps_failures_in_place() -> None:
    """Requests of a batch are all in the tier's hands at once; the reply list keeps their order."""
    tier = FakeTier(is_slow=True)
    tier.failures[1] = TierUnreachable("gone", definite=True)
    task = asyncio.ensure_future(
        Driver([tier], seed=1).run(batch(tuple(Invalidate(entry(offset), 1) for offset in range(3))))
    )
    await asyncio.sleep(0)
    assert len(tier.submitted) == 3
    for _ in range(3):
        tier.answer_next()
    replies = await task
    assert replies == [SlotReply(Outcome.INVALIDATED), tier.failures[1], SlotReply(Outcome.INVALIDATED)]


@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize("epoch_changes", [0, 1])
async def test_a_load_that_waited_for_room_across_a_restart_requires_its_generation(
    epoch_changes: int, *, is_batch: bool
) -> None:
    """It was made for the server that is gone: the new one would answer with whatever its device has."""
    tier = FakeTier(room=0)
    asked = Load(entry(1), 3, LoadMode.SHARED, 1)
    path: Path[object] = batch((asked,)) if is_batch else load(asked)
    task = asyncio.create_task(Driver([tier], seed=1, preemption=NEVER).run(path))
    await asyncio.sleep(0)
    tier.epoch_changes += epoch_changes
    tier.give_room(1)
    await task
    assert tier.submitted == [asked._replace(require_generation=epoch_changes > 0)]


async def test_a_full_tier_holds_the_path_back_until_there_is_room() -> None:
    """Back-pressure: nothing is submitted above the tier's bound, and a batch continues where it stopped."""
    tier = FakeTier(room=1)
    task = asyncio.ensure_future(Driver([tier], seed=1).run(batch((Invalidate(entry(1), 1), Invalidate(entry(2), 1)))))
    await asyncio.sleep(0)
    assert len(tier.submitted) == 1
    tier.give_room(1)
    assert len(await task) == 2


async def test_a_waiting_path_is_woken_by_its_queue_and_not_before() -> None:
    """Wait parks the path; wake_all() makes it runnable but does not run it inside the waker's atomic step."""
    driver = Driver([], seed=1)
    queue = WaitQueue("test")
    done: list[int] = []

    def sleeper(number: int) -> Path[None]:
        yield Wait(queue)
        done.append(number)

    tasks = [asyncio.ensure_future(driver.run(sleeper(number))) for number in range(3)]
    await asyncio.sleep(0)
    assert len(queue.waiters) == 3
    queue.wake_all()
    assert done == []
    await asyncio.gather(*tasks)
    assert done == [0, 1, 2]


@given(st.lists(st.sampled_from(["lock", "hold"]), min_size=1, max_size=30), st.integers(0, 2**32))
async def test_no_wake_up_is_lost_whatever_the_interleaving(holders: list[str], seed: int) -> None:
    """Paths that take turns on one lock, preempted at random, all get it: check, Wait, recheck never sleeps forever."""
    driver = Driver([], seed=seed, preemption=Preemption(probability=0.5, turns_max=16))
    queue = WaitQueue("lock")
    holder: list[int] = []
    finished: list[int] = []

    def path(number: int, kind: str) -> Path[None]:
        yield Preempt("before lock")
        while holder:
            yield Wait(queue)
        holder.append(number)
        if kind == "hold":
            yield Preempt("holding")
            yield Preempt("still holding")
        assert holder == [number]
        holder.clear()
        queue.wake_all()
        finished.append(number)

    async with asyncio.timeout(10):
        await asyncio.gather(*(driver.run(path(number, kind)) for number, kind in enumerate(holders)))
    assert sorted(finished) == list(range(len(holders)))
    assert not queue.waiters


async def test_a_cancelled_waiter_leaves_its_queue_and_is_not_resumed() -> None:
    """After the cancel the queue has forgotten it, the path's finally has run, and the others still wake."""
    driver = Driver([], seed=1)
    queue = WaitQueue("test")
    cleaned: list[str] = []

    def sleeper(name: str) -> Path[None]:
        try:
            yield Wait(queue)
            cleaned.append(f"{name} woke")
        finally:
            cleaned.append(f"{name} left")

    victim = asyncio.ensure_future(driver.run(sleeper("victim")))
    other = asyncio.ensure_future(driver.run(sleeper("other")))
    await asyncio.sleep(0)
    victim.cancel()
    with pytest.raises(asyncio.CancelledError):
        await victim
    assert len(queue.waiters) == 1
    queue.wake_all()
    await other
    assert cleaned == ["victim left", "other woke", "other left"]


async def test_a_waiter_cancelled_and_woken_in_the_same_turn_does_no_harm() -> None:
    """Cancel first, wake before the task has noticed: neither the waker nor the cancelled path fails."""
    driver = Driver([], seed=1)
    queue = WaitQueue("test")

    def sleeper() -> Path[None]:
        yield Wait(queue)

    victim = asyncio.ensure_future(driver.run(sleeper()))
    await asyncio.sleep(0)
    victim.cancel()
    queue.wake_all()
    with pytest.raises(asyncio.CancelledError):
        await victim
    assert not queue.waiters


async def test_cancelling_a_path_in_a_batch_cancels_what_it_waited_for() -> None:
    """No reply is left without a reader, and the path is closed where it stood."""
    tier = FakeTier(is_slow=True)
    closed: list[bool] = []

    def path() -> Path[None]:
        try:
            yield from batch((Invalidate(entry(1), 1), Invalidate(entry(2), 1)))
        finally:
            closed.append(True)

    task = asyncio.ensure_future(Driver([tier], seed=1).run(path()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed == [True]
    assert all(future.cancelled() for _, future in tier._unanswered)


def test_the_same_seed_draws_the_same_preemptions() -> None:
    """Determinism: lengths depend on seed and parameters only; another seed differs."""
    preemption = Preemption(probability=0.3, turns_max=100)
    coin, same, other = (PreemptionCoin(preemption, seed) for seed in (5, 5, 6))
    drawn = [coin.turns() for _ in range(500)]
    assert drawn == [same.turns() for _ in range(500)]
    assert drawn != [other.turns() for _ in range(500)]


def test_preemptions_have_the_documented_heavy_tail() -> None:
    """P(N >= k) = 1/k up to the bound: half last one turn, about one in a hundred a hundred, none longer."""
    coin = PreemptionCoin(Preemption(probability=1.0, turns_max=128), seed=1)
    lengths = Counter(coin.turns() for _ in range(20_000))
    at_least = {k: sum(count for turns, count in lengths.items() if turns >= k) / 20_000 for k in (1, 2, 10, 100)}
    assert at_least[1] == 1.0
    assert at_least[2] == pytest.approx(1 / 2, abs=0.02)
    assert at_least[10] == pytest.approx(1 / 10, abs=0.01)
    assert at_least[100] == pytest.approx(1 / 100, abs=0.003)
    assert max(lengths) == 128


async def test_a_preempted_path_lets_others_run_for_exactly_its_turns() -> None:
    """Each turn drawn is one turn of the loop."""
    driver = Driver([], seed=3, preemption=ALWAYS)
    expected = PreemptionCoin(ALWAYS, seed=3)

    def path() -> Path[None]:
        yield Preempt("test")

    for _ in range(20):
        turns = await loop_turns_during(lambda: asyncio.ensure_future(driver.run(path())))
        assert turns == expected.turns() + 1  # the last turn is the one that ends the task


async def test_a_preemption_ends_in_time_when_turns_are_long() -> None:
    """With no time at all, every preemption lasts the one turn in which that is noticed."""
    driver = Driver([], seed=3, preemption=Preemption(probability=1.0, seconds_max=0.0))

    def path() -> Path[None]:
        yield Preempt("test")

    for _ in range(20):
        assert await loop_turns_during(lambda: asyncio.ensure_future(driver.run(path()))) == 2


@pytest.mark.parametrize(("probability", "turns_max"), [(-0.1, 1), (1.1, 1), (0.5, 0)])
def test_impossible_preemption_settings_are_refused(probability: float, turns_max: int) -> None:
    """A probability is within 0 and 1; a preemption lasts a turn at least."""
    with pytest.raises(ValueError, match="preemption"):
        Preemption(probability, turns_max)


async def test_every_effect_of_mm_has_its_branch_in_the_driver() -> None:
    """A new effect has no sample here and fails, until someone has taught this driver (and the other two) about it."""
    queue = WaitQueue("test")
    samples: dict[str, tuple[Effect, type]] = {
        "Load": (Load(entry(1), 1, LoadMode.SHARED, request_id=1), LoadReply),
        "Store": (Store(entry(1), 1, ZERO_PAGE), SlotReply),
        "Lookup": (Lookup(entry(1)), SlotReply),
        "Acknowledge": (Acknowledge(entry(1), 1, request_id=1), type(None)),
        "Invalidate": (Invalidate(entry(1), 1), SlotReply),
        "Batch": (Batch(()), list),
        "Wait": (Wait(queue), type(None)),
        "Preempt": (Preempt("test"), type(None)),
    }

    def path(effect: Effect) -> Path[Reply]:
        return (yield effect)

    for kind in get_args(Effect):
        effect, reply_type = samples[kind.__name__]
        task = asyncio.ensure_future(Driver([FakeTier()], seed=1).run(path(effect)))
        await asyncio.sleep(0)
        queue.wake_all()
        assert isinstance(await task, reply_type)


async def test_an_acknowledgement_is_handed_over_and_not_waited_for() -> None:
    """The path goes on while the tier is slow, and a failure of what was posted disturbs nobody."""
    tier = FakeTier(is_slow=True)
    tier.failures[1] = TierUnreachable("gone", definite=False)

    def path() -> Path[str]:
        yield Acknowledge(entry(1), 1, request_id=7)
        return "went on"

    assert await Driver([tier], seed=1).run(path()) == "went on"
    assert [effect.entry.offset for effect in tier.submitted] == [1]
    tier.answer_next()


@pytest.mark.parametrize("is_batch", [False, True])
async def test_what_keeps_failing_with_an_unknown_outcome_is_repeated_after_longer_and_longer_pauses(
    *, is_batch: bool
) -> None:
    """At once the second time, then after twice the pause each time, up to a bound; an answer ends it."""
    tier = FakeTier()
    tier.failures[1] = TierUnreachable("no answer", definite=False)
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    def path() -> Path[None]:
        store = Store(entry(1), 1, ZERO_PAGE)
        if is_batch:
            yield from batch((store, Lookup(entry(2))))
        else:
            with suppress(TierUnreachable):
                yield from ask(store)
        tier.failures.clear()
        yield from ask(Lookup(entry(3)))
        yield from ask(Lookup(entry(3)))

    await Driver([tier], seed=1, preemption=NEVER, sleep=sleep).run(path())
    repeats = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6]
    assert pauses == [*repeats, 2.0]
    assert [effect.entry.offset for effect in tier.submitted].count(1) == len(repeats) + 2
