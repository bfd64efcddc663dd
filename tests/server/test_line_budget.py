"""How many lines one caller may cause, and what is said of the others."""

import pytest
from tests.server.conftest import Clock

from swaptier_server.line_budget import CALLERS_MAX, LINES_MAX, SPAN_SECONDS, LeftOut, LineBudget


@pytest.fixture
def clock() -> Clock:
    """Stands until told."""
    return Clock()


@pytest.fixture
def budget(clock: Clock) -> LineBudget:
    """A budget by that clock."""
    return LineBudget(clock)


def written(budget: LineBudget, kind: str, caller: str | None, lines: int) -> int:
    return sum(budget.may_write(kind, caller) for _ in range(lines))


def test_so_many_lines_are_written_in_a_span_and_the_others_counted(budget: LineBudget, clock: Clock) -> None:
    """When the span is over there are as many again; what was left out is told once."""
    assert written(budget, "area_opened", "alice", LINES_MAX + 7) == LINES_MAX
    clock.advance(SPAN_SECONDS - 1)
    assert list(budget.ended_spans()) == []
    clock.advance(1)
    assert list(budget.ended_spans()) == [LeftOut("area_opened", "alice", 7)]
    assert list(budget.ended_spans()) == []
    assert written(budget, "area_opened", "alice", 1) == 1
    assert budget.left_out == 7


def test_a_flood_of_one_kind_hides_no_other_and_no_other_callers(budget: LineBudget) -> None:
    """Of nobody known there is one budget; it is no tenant's, whatever that is called."""
    written(budget, "area_opened", "alice", 1000)
    written(budget, "area_opened", None, 1000)
    for kind, caller in (("area_closed", "alice"), ("area_opened", "bob"), ("area_opened", "anonymous")):
        assert written(budget, kind, caller, 1) == 1


def test_a_span_without_what_was_left_out_is_forgotten_in_silence(budget: LineBudget, clock: Clock) -> None:
    """The budget holds nothing of who caused a line an hour ago."""
    written(budget, "area_opened", "alice", LINES_MAX)
    clock.advance(SPAN_SECONDS)
    assert list(budget.ended_spans()) == []
    assert written(budget, "area_opened", "alice", LINES_MAX) == LINES_MAX


def test_more_callers_than_are_counted_apart_share_a_budget(budget: LineBudget, clock: Clock) -> None:
    """Whoever comes first keeps its own; memory is bounded."""
    for number in range(CALLERS_MAX):
        assert budget.may_write("area_opened", f"tenant-{number}")
    assert sum(budget.may_write("area_opened", f"late-{number}") for number in range(100)) == LINES_MAX
    assert budget.may_write("area_opened", "tenant-0")
    clock.advance(SPAN_SECONDS)
    assert list(budget.ended_spans()) == [LeftOut("area_opened", "", 100 - LINES_MAX)]
