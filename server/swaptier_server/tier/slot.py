"""The life of a slot: where its page is, or what became of it.

Pure. `TRANSITIONS` is the whole machine; an event that it does not list for a state is a defect of the tier, not
something a client can cause. Drawn (`ANY` stands for every state; `tests/server/tier/test_slot.py` reads these lines):

    ANY --STORED_IN_POOL----> POOLED    --TAKEN_BY_LOAD--------> TAKEN
    ANY --STORED_ON_DEVICE--> ON_DEVICE --DROPPED_BY_DEVICE----> TAKEN
    ANY --STORE_REFUSED-----> REFUSED
    ANY --INVALIDATED-------> FREED

A slot begins NEVER_STORED and ends with its area. A shared load, a lookup, a repeated, late or damaged request are not
events: they leave the slot as it was.

Rules for this file's editors: change the drawing, the table and LOST_REASONS together. A state in which the tier does
not have the page says why, because a host that is told "lost" must be told what became of it.

Models: the presence of an entry in zswap's tree for a swap entry. The kernel has no memory of why there is none.
"""

from enum import IntEnum
from typing import Final

from swaptier_server.tier.page import StoredPage
from swaptier_wire.types import NO_GENERATION, Reason, SlotReply


class SlotState(IntEnum):
    """Where the slot's current page is. An IntEnum because it is hashed on every request (0.1 us cheaper)."""

    NEVER_STORED = 0
    """Nobody stored to it since the area was opened."""
    POOLED = 1
    """The pool holds it."""
    ON_DEVICE = 2
    """The pool refused it, the area's device has it."""
    TAKEN = 3
    """A load took it: an exclusive one from the pool, or any from a device that frees on read."""
    FREED = 4
    """The host said that the slot is free."""
    REFUSED = 5
    """Its last store was refused by pool and device, which also ended what the slot held before."""


class SlotEvent(IntEnum):
    """What happens to a slot."""

    STORED_IN_POOL = 0
    STORED_ON_DEVICE = 1
    STORE_REFUSED = 2
    TAKEN_BY_LOAD = 3
    """An exclusive load answered from the pool. One answered from the device leaves the page there."""
    DROPPED_BY_DEVICE = 4
    """The device read the page out and forgot it (AreaOptions.device_free_on_read)."""
    INVALIDATED = 5


TRANSITIONS: Final[dict[tuple[SlotState, SlotEvent], SlotState]] = {
    **{(state, SlotEvent.STORED_IN_POOL): SlotState.POOLED for state in SlotState},
    **{(state, SlotEvent.STORED_ON_DEVICE): SlotState.ON_DEVICE for state in SlotState},
    **{(state, SlotEvent.STORE_REFUSED): SlotState.REFUSED for state in SlotState},
    **{(state, SlotEvent.INVALIDATED): SlotState.FREED for state in SlotState},
    (SlotState.POOLED, SlotEvent.TAKEN_BY_LOAD): SlotState.TAKEN,
    (SlotState.ON_DEVICE, SlotEvent.DROPPED_BY_DEVICE): SlotState.TAKEN,
}

LOST_REASONS: Final[dict[SlotState, Reason]] = {
    SlotState.NEVER_STORED: Reason.NEVER_STORED,
    SlotState.TAKEN: Reason.TAKEN,
    SlotState.FREED: Reason.FREED,
    SlotState.REFUSED: Reason.REFUSED_STORE,
}
"""Why the tier does not have the page; the states that are not here are those in which it has."""


class Slot:
    """One slot that has been stored to or invalidated; also its tombstone.

    Invariants: `entry` is set exactly in POOLED. `generation` never falls. There is at most one Slot per slot of
    the area, so what is remembered about the dead is bounded by the area's slot count.
    """

    __slots__ = ("area", "entry", "generation", "offset", "state", "store_checksum", "store_reply")

    def __init__(self, area: str, offset: int) -> None:
        self.area = area
        self.offset = offset
        self.state = SlotState.NEVER_STORED
        self.generation = NO_GENERATION
        """The highest that a store or an invalidation has named."""
        self.entry: StoredPage | None = None
        """The pool's entry."""
        self.store_checksum = 0
        """Of the page stored as `generation`; meaningless without `store_reply`."""
        self.store_reply: SlotReply | None = None
        """The answer to the store of `generation`, for its repeats; None when only an invalidation named it."""

    def step(self, event: SlotEvent) -> None:
        """Move to the state that *event* leads to."""
        after = TRANSITIONS.get((self.state, event))
        assert after is not None, (
            f"slot {self.offset} of {self.area!r}: {event.name} cannot happen in {self.state.name}"
        )
        self.state = after

    def __repr__(self) -> str:
        return f"Slot({self.area!r}, {self.offset}, {self.state.name}, generation={self.generation})"
