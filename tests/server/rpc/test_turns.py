"""Whose message is worked on next: the order of turns, without gRPC, tasks and clock."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swaptier_server.rpc.turns import BLOCKED, MESSAGE, QUANTUM, TURN, Turns, Work
from swaptier_server.tier.slices import SLICE_SLOTS, Slices


class Loop:
    """An event loop that makes a turn when it is told to, and notes what was worked on."""

    def __init__(self) -> None:
        self.turns = Turns(self._call_soon)
        self.done: list[str] = []
        """Whose slices were run, in order."""
        self._soon: list[Callable[[], None]] = []

    def _call_soon(self, work: Callable[[], None]) -> None:
        self._soon.append(work)

    def turn(self) -> None:
        """Make a turn."""
        soon, self._soon = self._soon, []
        for work in soon:
            work()

    def turn_until_idle(self) -> None:
        """Make turns for as long as there is something to do."""
        while self._soon:
            self.turn()

    def slices(self, who: str, *costs: int) -> Slices[str]:
        """Return work of so many slices."""
        for cost in costs:
            self.done.append(who)
            yield cost
        return who

    def ask(self, who: str, *costs: int) -> Work[str]:
        """Submit work."""
        work = Work(self.slices(who, *costs))
        self.turns.submit(who, work)
        return work


def test_where_nobody_waits_work_is_done_at_once() -> None:
    """A request of a quiet server waits for no turn of the loop."""
    loop = Loop()
    work = loop.ask("a", 1)
    assert work.is_over
    assert work.result() == "a"


def test_a_turn_of_the_loop_spends_a_slice_more_than_it_may_at_most() -> None:
    """Then sockets, clocks and health have theirs."""
    loop = Loop()
    loop.ask("a", *[SLICE_SLOTS] * 100)
    while loop.turns.submitted and loop.done.count("a") < 100:
        before = len(loop.done)
        loop.turn()
        assert (len(loop.done) - before) * SLICE_SLOTS < TURN + SLICE_SLOTS


def test_who_asks_now_and_then_waits_for_nobody_and_cannot_have_all_the_time() -> None:
    """It is served before those that wait for their turn, in the same turn of the loop, but once a round."""
    loop = Loop()
    for _ in range(32):
        loop.ask("busy", *[SLICE_SLOTS] * 8)
    loop.turn()
    assert loop.ask("quiet", 16).is_over
    asked = 0
    before = loop.done.count("busy")
    for _ in range(100):
        for _ in range(50):
            asked += loop.ask("greedy", 16).is_over
        loop.turn()
    busy = loop.done.count("busy") - before
    assert busy * SLICE_SLOTS >= 0.4 * 100 * TURN


@given(st.integers(1, 40), st.integers(1, 8))
def test_a_tenant_waits_for_a_quantum_and_a_slice_of_each_other(streams: int, others: int) -> None:
    """Thirty-two streams of full batches of each of the others are before it, and none is done meanwhile."""
    loop = Loop()
    for _ in range(streams):
        for other in range(others):
            loop.ask(f"other{other}", *[SLICE_SLOTS] * 8)
    loop.turn()
    before = len(loop.done)
    mine = loop.ask("mine", 1)
    while not mine.is_over:
        loop.turn()
    waited = loop.done[before:]
    for other in range(others):
        assert waited.count(f"other{other}") * SLICE_SLOTS <= QUANTUM + SLICE_SLOTS


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 300)), min_size=3, max_size=60))
def test_tenants_that_always_ask_are_given_equally_much(costs: list[tuple[str, int]]) -> None:
    """Whatever their slices cost, large or small: what one overspends is missing in its next turns."""
    loop = Loop()
    spent = dict.fromkeys("abc", 0)

    def endless(who: str, mine: list[int]) -> Slices[None]:
        while True:
            for cost in mine:
                spent[who] += cost
                yield cost

    for who in "abc":
        mine = [cost for name, cost in costs if name == who] or [1]
        loop.turns.submit(who, Work(endless(who, mine)))
    for _ in range(100):
        loop.turn()
        assert max(spent.values()) - min(spent.values()) <= 2 * (QUANTUM + 300)


def test_small_messages_are_not_for_nothing() -> None:
    """A flood of them has no more of the time than large ones."""
    loop = Loop()
    loop.ask("large", *[SLICE_SLOTS] * 100)
    small = [loop.ask("small", 1) for _ in range(1000)]
    for _ in range(20):
        loop.turn()
    assert sum(work.is_over for work in small) * (MESSAGE + 1) <= loop.done.count("large") * SLICE_SLOTS + QUANTUM + 33


def test_within_a_tenant_what_came_first_is_done_first_and_to_its_end() -> None:
    """So no message of a tenant sees another one of its own half done."""
    loop = Loop()
    works = [Work(loop.slices(name, *[SLICE_SLOTS] * 4)) for name in "xyz"]
    for work in works:
        loop.turns.submit("tenant", work)
    loop.turn_until_idle()
    assert loop.done == ["x"] * 4 + ["y"] * 4 + ["z"] * 4


def test_work_that_has_not_begun_can_be_withdrawn() -> None:
    """Its call was cancelled or ended: nothing of it is done."""
    loop = Loop()
    first = loop.ask("a", *[SLICE_SLOTS] * 8)
    second = loop.ask("a", 1)
    assert not loop.turns.withdraw("a", first), "it has begun"
    assert loop.turns.withdraw("a", second)
    other = loop.ask("b", 1)
    loop.turn_until_idle()
    assert (first.is_over, second.has_begun, other.is_over) == (True, False, True)


def test_on_hold_nothing_is_done_and_nothing_is_lost() -> None:
    """While a thread has the swap file, not even what has begun goes on."""
    loop = Loop()
    begun = loop.ask("a", *[SLICE_SLOTS] * 8)
    loop.turns.hold()
    waiting = loop.ask("b", 1)
    done = list(loop.done)
    loop.turn_until_idle()
    assert loop.done == done
    assert not begun.is_over
    loop.turns.let_go()
    loop.turn_until_idle()
    assert begun.is_over
    assert waiting.is_over


def test_work_that_holds_itself_up_goes_on_when_it_is_let_go() -> None:
    """A message after which the log has to be brought in is at its end, the next one waits."""
    loop = Loop()

    def holding() -> Slices[None]:
        yield 1
        loop.turns.hold()

    loop.turns.submit("a", Work(holding()))
    second = loop.ask("a", 1)
    loop.turn_until_idle()
    assert not second.has_begun
    loop.turns.let_go()
    assert second.is_over


def test_what_has_begun_is_run_to_its_end_before_the_server_ends() -> None:
    """What has not begun is left."""
    loop = Loop()
    begun = [loop.ask("a", *[SLICE_SLOTS] * 8), loop.ask("b", *[SLICE_SLOTS] * 8)]
    loop.turn()
    left = [loop.ask("a", 1), loop.ask("b", 1)]
    loop.turns.finish()
    assert [work.is_over for work in begun] == [True, True]
    assert [work.has_begun for work in left] == [False, False]


def test_work_that_waits_for_other_work_lets_it_go_first() -> None:
    """Two connections that share an area: the second message goes on when the first is at its end."""
    loop = Loop()
    first = loop.ask("a", *[SLICE_SLOTS] * 8)

    def after_the_first() -> Slices[None]:
        while not first.is_over:
            yield BLOCKED
        yield 1

    second = Work(after_the_first())
    loop.turns.submit("b", second)
    while not second.is_over:
        loop.turn()
    assert first.is_over


def test_what_work_raises_is_its_callers() -> None:
    """And the next one's turn comes all the same."""
    loop = Loop()

    def failing() -> Slices[None]:
        yield 1
        raise ZeroDivisionError

    work = Work(failing())
    loop.turns.submit("a", work)
    with pytest.raises(ZeroDivisionError):
        work.result()
    assert loop.ask("a", 1).is_over
