"""A livelock of several tasks is no clean world."""

import pytest

from swaptier_client.mm import fault
from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.explore.endless import Edges
from swaptier_loadgen.explore.search import explore
from swaptier_loadgen.explore.violation import Kind
from swaptier_loadgen.explore.worlds import WORLDS


def edges(*pairs: tuple[int, int]) -> Edges:
    made = Edges()
    for source, target in pairs:
        made.add(source, target)
    return made


def test_a_circle_with_a_way_out_ends() -> None:
    """0 and 1 may go round for ever, and need not."""
    assert edges((0, 1), (1, 0), (1, 2)).first_without_end(3, [2]) is None


def test_a_circle_without_a_way_out_does_not_end() -> None:
    """Once in 1, nobody gets to 3 any more; 1 is met before 2."""
    assert edges((0, 1), (1, 2), (2, 1), (0, 3)).first_without_end(4, [3]) == 1


def test_two_threads_that_never_install_are_a_livelock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the entry never the same again, every fault would be taken again, for ever, by both."""
    monkeypatch.setattr(fault, "pte_same", lambda _current, _orig: False)
    world = WORLDS["double-fault"]
    result = explore(lambda: world.build(POLICIES["shared"], world.bounds), now=lambda: 0.0)
    assert result.found is not None
    assert result.found.violation.kind is Kind.LIVELOCK
