"""The slot state machine: its drawing and its table say the same, and nothing else can happen."""

import itertools
import re

import pytest

from swaptier_server.tier import slot as slot_module
from swaptier_server.tier.slot import (
    DEVICE_STATES,
    HANDED_OFF_STATES,
    LOST_REASONS,
    POOL_STATES,
    TRANSITIONS,
    Slot,
    SlotEvent,
    SlotState,
)
from swaptier_wire.types import Reason

EVERY_PAIR = list(itertools.product(SlotState, SlotEvent))


def drawn_transitions() -> dict[tuple[SlotState, SlotEvent], SlotState]:
    """The arrows of the drawing in the module's docstring."""
    transitions: dict[tuple[SlotState, SlotEvent], SlotState] = {}
    for line in (slot_module.__doc__ or "").splitlines():
        words = re.split(r"\s+--([A-Z_]+)-+>\s+", line.strip())
        for start, event, end in zip(words[0::2], words[1::2], words[2::2], strict=False):
            for state in SlotState if start == "ANY" else [SlotState[start]]:
                transitions[state, SlotEvent[event]] = SlotState[end]
    return transitions


def test_the_drawing_and_the_table_say_the_same() -> None:
    assert drawn_transitions() == TRANSITIONS


@pytest.mark.parametrize(("state", "event"), EVERY_PAIR)
def test_every_event_either_moves_a_slot_or_is_refused(state: SlotState, event: SlotEvent) -> None:
    slot = Slot("area", 3)
    slot.state = state
    if (state, event) in TRANSITIONS:
        slot.step(event)
        assert slot.state is TRANSITIONS[state, event]
    else:
        with pytest.raises(AssertionError, match=f"slot 3 of 'area': {event.name} cannot happen in {state.name}"):
            slot.step(event)
        assert slot.state is state


def test_every_state_can_be_reached() -> None:
    reached = {SlotState.NEVER_STORED}
    while True:
        further = {after for (before, _), after in TRANSITIONS.items() if before in reached} - reached
        if not further:
            break
        reached |= further
    assert reached == set(SlotState)


def test_no_slot_forgets_that_it_was_used() -> None:
    assert SlotState.NEVER_STORED not in TRANSITIONS.values()


def test_every_state_either_has_the_page_or_says_why_not() -> None:
    assert set(LOST_REASONS) | set(POOL_STATES) | set(DEVICE_STATES) == set(SlotState)
    assert set(HANDED_OFF_STATES) < set(POOL_STATES) | set(DEVICE_STATES), "who hands a page off still has it"
    assert len(set(LOST_REASONS.values())) == len(LOST_REASONS), "two states, one reason"
    assert Reason.NONE not in LOST_REASONS.values()


def test_only_a_page_that_the_tier_has_can_be_taken() -> None:
    takers = {state for (state, event), after in TRANSITIONS.items() if after is SlotState.TAKEN and event}
    assert takers == set(POOL_STATES) | set(DEVICE_STATES)


def test_a_page_changes_hands_only_where_it_was_claimed() -> None:
    for event in (SlotEvent.ACKNOWLEDGED, SlotEvent.LEASE_ENDED):
        assert {state for state, happens in TRANSITIONS if happens is event} == set(HANDED_OFF_STATES)
    for before in HANDED_OFF_STATES:
        after = TRANSITIONS[before, SlotEvent.LEASE_ENDED]
        assert TRANSITIONS[after, SlotEvent.CLAIMED] is before, "a lease that ends leaves the page where it was"


def test_a_slot_says_in_an_error_what_it_is_and_no_byte_of_its_page() -> None:
    assert repr(Slot("swap-0", 7)) == "Slot('swap-0', 7, NEVER_STORED, generation=0)"
