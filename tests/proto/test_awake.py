"""A clock that stands still while its program does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swaptier_wire.awake import LATE_BEATS_MAX, AwakeClock

SECOND = 1_000_000_000


class Wall:
    """The clock under it."""

    def __init__(self) -> None:
        self.now_ns = 100 * SECOND

    def pass_time(self, seconds: float) -> None:
        """Let it go on."""
        self.now_ns += round(seconds * SECOND)


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def awake(wall: Wall) -> AwakeClock:
    return AwakeClock(lambda: wall.now_ns, step_seconds=1.5)


def test_while_the_loop_runs_it_keeps_time(awake: AwakeClock, wall: Wall) -> None:
    """Beats in time change nothing: an hour is an hour."""
    for _ in range(3600):
        wall.pass_time(1.0)
        assert awake.beat() == 0.0
        assert awake.is_settled
    assert awake.seconds() == 3700.0


def test_an_hour_for_which_the_program_was_stopped_counts_as_one_step(awake: AwakeClock, wall: Wall) -> None:
    """So what had two seconds left when it was stopped has some left when it goes on."""
    wall.pass_time(3600)
    assert awake.seconds() == 101.5
    assert not awake.is_settled
    assert awake.beat() == 3598.5
    assert awake.seconds() == 101.5
    wall.pass_time(1.0)
    assert awake.seconds() == 102.5


def test_nothing_is_settled_until_the_loop_has_run_for_a_whole_interval_again(awake: AwakeClock, wall: Wall) -> None:
    """The beat that comes late is the first thing that runs: what was queued is read after it."""
    wall.pass_time(10)
    awake.beat()
    assert not awake.is_settled
    wall.pass_time(1.0)
    assert not awake.is_settled
    assert awake.beat() == 0.0
    assert awake.is_settled


def test_a_loop_that_is_only_slow_is_settled_after_some_late_beats(awake: AwakeClock, wall: Wall) -> None:
    """Else nothing would ever expire under a load that makes each beat late. Each of them counts as one step."""
    for late_beats in range(1, 2 * LATE_BEATS_MAX):
        wall.pass_time(2)
        assert not awake.is_settled
        assert awake.beat() == 0.5
        assert awake.is_settled == (late_beats >= LATE_BEATS_MAX)
        assert awake.seconds() == 100 + 1.5 * late_beats
    wall.pass_time(1)
    awake.beat()
    assert awake.is_settled
    wall.pass_time(2)
    awake.beat()
    assert not awake.is_settled


@given(st.lists(st.tuples(st.integers(-(10**12), 10**12), st.booleans())))
def test_it_never_goes_back_and_never_runs_ahead_of_its_beats(jumps: list[tuple[int, bool]]) -> None:
    """Whatever the clock under it does, as when that is faked and set back by years."""
    wall = Wall()
    awake = AwakeClock(lambda: wall.now_ns, step_seconds=1.5)
    said, beats = awake.now_ns(), 1
    for jump_ns, is_beat in jumps:
        wall.now_ns += jump_ns
        assert said <= awake.now_ns() <= 100 * SECOND + beats * 3 * SECOND // 2
        said = awake.now_ns()
        if is_beat:
            awake.beat()
            beats += 1
