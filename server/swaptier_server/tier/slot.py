"""The life of a slot: where its page is, or what became of it.

Pure. `TRANSITIONS` is the whole machine; an event that it does not list for a state is a defect of the tier, not
something a client can cause. Drawn (`ANY` stands for every state; `tests/server/tier/test_slot.py` reads these lines):

    ANY --STORED_IN_POOL----> POOLED     --TAKEN_BY_LOAD-----> TAKEN
    ANY --STORED_ON_DEVICE--> ON_DEVICE  --DROPPED_BY_DEVICE-> TAKEN
    ANY --STORE_REFUSED-----> REFUSED
    ANY --INVALIDATED-------> FREED

    POOLED            --DROPPED_BY_POOL--> ON_DEVICE
    NEVER_STORED      --FOUND_ON_DEVICE--> ON_DEVICE

    POOLED            --CLAIMED------> HANDED_OFF        --ACKNOWLEDGED--> TAKEN
    HANDED_OFF        --LEASE_ENDED--> POOLED
    ON_DEVICE         --CLAIMED------> DEVICE_HANDED_OFF --ACKNOWLEDGED--> TAKEN
    DEVICE_HANDED_OFF --LEASE_ENDED--> ON_DEVICE

A slot begins NEVER_STORED and ends with its area. A shared load, a lookup, a repeated, late or damaged request are not
events: they leave the slot as it was.

Rules for this file's editors: change the drawing, the table and LOST_REASONS together. A state in which the tier does
not have the page says why, because a host that gets LOST must learn what became of it.

Models: the presence of an entry in zswap's tree for a swap entry. The kernel has no memory of why there is none, and
needs no hand-off, because the return of a function cannot be lost.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from swaptier_server.tier.page import StoredPage
from swaptier_wire.types import NO_GENERATION, Reason, SlotReply


class SlotState(IntEnum):
    """Where the slot's current page is. An IntEnum because it is hashed on every request (0.1 us cheaper)."""

    NEVER_STORED = 0
    """No store since the area was opened, or since the server started, for all the tier knows."""
    POOLED = 1
    """The pool holds it. A write-through area's device has it too."""
    ON_DEVICE = 2
    """The area's device has it, and only that."""
    TAKEN = 3
    """A load took it: an exclusive one from the pool, an acknowledged claim, any from a device that frees on read."""
    FREED = 4
    """The host said that the slot is free."""
    REFUSED = 5
    """Its last store was refused by pool and device, which also ended what the slot held before."""
    HANDED_OFF = 6
    """As POOLED, and a claim's lease runs: its claimant may have it already, no other load is answered."""
    DEVICE_HANDED_OFF = 7
    """As ON_DEVICE, and a claim's lease runs."""


class SlotEvent(IntEnum):
    """What happens to a slot."""

    STORED_IN_POOL = 0
    STORED_ON_DEVICE = 1
    STORE_REFUSED = 2
    TAKEN_BY_LOAD = 3
    """An exclusive load answered from the pool, which takes a copy that was written through along. One answered from
    the device leaves the page there."""
    DROPPED_BY_DEVICE = 4
    """The device read the page out and forgot it (AreaOptions.device_free_on_read)."""
    INVALIDATED = 5
    DROPPED_BY_POOL = 6
    """Written back: the device has the page, so the pool's entry could go. In a write-through area it had it before."""
    FOUND_ON_DEVICE = 7
    """The server started, and the device had kept the page."""
    CLAIMED = 8
    ACKNOWLEDGED = 9
    LEASE_ENDED = 10


TRANSITIONS: Final[dict[tuple[SlotState, SlotEvent], SlotState]] = {
    **{(state, SlotEvent.STORED_IN_POOL): SlotState.POOLED for state in SlotState},
    **{(state, SlotEvent.STORED_ON_DEVICE): SlotState.ON_DEVICE for state in SlotState},
    **{(state, SlotEvent.STORE_REFUSED): SlotState.REFUSED for state in SlotState},
    **{(state, SlotEvent.INVALIDATED): SlotState.FREED for state in SlotState},
    (SlotState.POOLED, SlotEvent.TAKEN_BY_LOAD): SlotState.TAKEN,
    (SlotState.ON_DEVICE, SlotEvent.DROPPED_BY_DEVICE): SlotState.TAKEN,
    (SlotState.POOLED, SlotEvent.DROPPED_BY_POOL): SlotState.ON_DEVICE,
    (SlotState.NEVER_STORED, SlotEvent.FOUND_ON_DEVICE): SlotState.ON_DEVICE,
    (SlotState.POOLED, SlotEvent.CLAIMED): SlotState.HANDED_OFF,
    (SlotState.HANDED_OFF, SlotEvent.ACKNOWLEDGED): SlotState.TAKEN,
    (SlotState.HANDED_OFF, SlotEvent.LEASE_ENDED): SlotState.POOLED,
    (SlotState.ON_DEVICE, SlotEvent.CLAIMED): SlotState.DEVICE_HANDED_OFF,
    (SlotState.DEVICE_HANDED_OFF, SlotEvent.ACKNOWLEDGED): SlotState.TAKEN,
    (SlotState.DEVICE_HANDED_OFF, SlotEvent.LEASE_ENDED): SlotState.ON_DEVICE,
}

HANDED_OFF_STATES: Final = (SlotState.HANDED_OFF, SlotState.DEVICE_HANDED_OFF)
"""A lease runs."""
POOL_STATES: Final = (SlotState.POOLED, SlotState.HANDED_OFF)
"""The pool has an entry."""
DEVICE_STATES: Final = (SlotState.ON_DEVICE, SlotState.DEVICE_HANDED_OFF)
"""Only the device has the page."""

LOST_REASONS: Final[dict[SlotState, Reason]] = {
    SlotState.NEVER_STORED: Reason.NEVER_STORED,
    SlotState.TAKEN: Reason.TAKEN,
    SlotState.FREED: Reason.FREED,
    SlotState.REFUSED: Reason.REFUSED_STORE,
}
"""Why the tier does not have the page; the states that are not here are those in which it has."""


@dataclass(slots=True, eq=False)
class Slot:
    """One slot that has been stored to or invalidated.

    Invariants: `entry` is set exactly in POOL_STATES. `generation` never falls. There is at most one Slot per slot of
    the area; while it holds nothing that takes bytes of the pool, and no lease runs, `slot_table` keeps it as a row.
    """

    area: str
    offset: int
    state: SlotState = SlotState.NEVER_STORED
    generation: int = NO_GENERATION
    """The highest that a store or an invalidation has named."""
    entry: StoredPage | None = None
    """The pool's entry."""
    store_checksum: int = 0
    """Of the page stored as `generation`; meaningless without `store_reply`."""
    store_reply: SlotReply | None = None
    """The answer to the store of `generation`, for its repeats; None when only an invalidation named it."""
    device_generation: int = NO_GENERATION
    """Of the page that the device was given last; NO_GENERATION when it has none, for all the tier knows."""
    claimant: int | None = None
    """In HANDED_OFF_STATES, the request id that the lease belongs to; else the one that acknowledged, if any."""
    is_referenced: bool = False
    """A load looked at the pooled page since it was stored or last passed over (zswap: referenced)."""

    @property
    def is_backed(self) -> bool:
        """The device has the current generation too."""
        return self.device_generation == self.generation != NO_GENERATION

    def step(self, event: SlotEvent) -> None:
        """Move to the state that *event* leads to."""
        after = TRANSITIONS.get((self.state, event))
        assert after is not None, (
            f"slot {self.offset} of {self.area!r}: {event.name} cannot happen in {self.state.name}"
        )
        self.state = after

    def __repr__(self) -> str:
        return f"Slot({self.area!r}, {self.offset}, {self.state.name}, generation={self.generation})"
