"""The recount of an area and of what each tenant has: gauges, counters, leases and accounts against the slots.

Pure.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from swaptier_server.tier.account import Accounts
from swaptier_server.tier.area import Area
from swaptier_server.tier.slot import DEVICE_STATES, HANDED_OFF_STATES, POOL_STATES, Slot, SlotState
from swaptier_wire.types import NO_GENERATION, LoadMode, Outcome


def check_areas(open_areas: Mapping[str, Area], ending: Iterable[Area]) -> list[Slot]:
    """Recount the areas that are open, by name, and those that are closed and end; return the slots on LRUs.

    Raises:
        AssertionError: as check_area(), or an area is not where it belongs. A defect of the tier.
    """
    on_lru: list[Slot] = []
    for name, area in open_areas.items():
        assert area.name == name, f"area {area.name!r} is filed under {name!r}"
        assert not area.is_closed, f"area {name!r} is closed and still listed"
        assert area.client.epoch == area.account.epochs[area.client.id], f"area {name!r} is of a life that is over"
        on_lru += check_area(area)
    for area in ending:
        assert area.is_closed, f"area {area.name!r} ends and is open"
        check_area(area)
    return on_lru


def check_area(area: Area) -> list[Slot]:
    """Recount everything; return the slots that must be on the area's LRU, in no particular order.

    Raises:
        AssertionError: the gauges or counters do not agree with the slots. A defect of the tier.
    """
    where = f"area {area.name!r}"
    slots = list(area.known_slots.values())
    for slot in slots:
        _check_slot(area, slot, where)
    states = Counter(slot.state for slot in slots)
    lengths = [slot.entry.length for slot in slots if slot.entry is not None]
    assert area.stored_pages == len(lengths), f"{where}: stored pages"
    assert area.same_filled_pages == lengths.count(0), f"{where}: same-filled pages"
    assert area.pool_bytes == sum(lengths), f"{where}: pool bytes"
    quota = area.options.pool_bytes_max
    assert quota is None or area.pool_bytes <= quota, f"{where}: {area.pool_bytes} bytes, and a quota of {quota}"
    assert area.device_pages == sum(states[state] for state in DEVICE_STATES), f"{where}: device pages"
    assert area.handed_off_pages == sum(states[state] for state in HANDED_OFF_STATES), f"{where}: handed-off pages"
    assert area.handed_off_pages <= area.leases_max, f"{where}: too many leases"
    written = sum(slot.device_generation != NO_GENERATION for slot in slots)
    assert area.is_closed or area.written_pages == written, (
        f"{where}: {area.written_pages} written pages, not {written}"
    )
    _check_counters(area, where)
    return [slot for slot in slots if slot.state is SlotState.POOLED and slot.entry and slot.entry.length]


def _check_slot(area: Area, slot: Slot, where: str) -> None:
    assert 0 <= slot.offset < area.slots, f"{where}: {slot} is outside"
    assert (slot.entry is not None) == (slot.state in POOL_STATES), f"{where}: {slot} and its entry disagree"
    if slot.entry is not None:
        assert slot.entry.generation == slot.generation, f"{where}: {slot} holds an older page"
    assert slot.device_generation <= slot.generation, f"{where}: the device is ahead of {slot}"
    if slot.state in DEVICE_STATES or (slot.entry is not None and area.writes_through):
        assert slot.is_backed, f"{where}: the device does not have the page of {slot}"
    is_leased = slot.state in HANDED_OFF_STATES
    assert is_leased == (slot in area.leases), f"{where}: {slot} and the leases disagree"
    assert slot.claimant is not None or not is_leased, f"{where}: {slot} is handed off without a claimant"


def _check_counters(area: Area, where: str) -> None:
    counters = area.counters
    taken = counters.loads[LoadMode.EXCLUSIVE]
    came = counters.stores[Outcome.STORED]
    went = (
        counters.duplicate_entries
        + taken[Outcome.HIT]
        + taken[Outcome.SAME_FILLED]
        + counters.acknowledged_entries
        + counters.invalidates[Outcome.INVALIDATED]
        + counters.written_back_pages
    )
    assert area.is_closed or came == went + area.stored_pages, f"{where}: {came} entries came, {went} went"
    begun, ended = counters.leases_begun, sum(counters.leases_ended.values())
    assert begun == ended + area.handed_off_pages, f"{where}: {begun} leases begun, {ended} ended"


def check_accounts(
    accounts: Accounts, open_areas: Collection[Area], ending: Collection[Area], swept: Collection[Area]
) -> None:
    """Recount what each tenant has: of areas that are open, that are closed and end, and whose devices have pages.

    Raises:
        AssertionError: an account does not agree with the areas. A defect of the tier.
    """
    for account in accounts:
        its = [area for area in open_areas if area.account is account]
        held = [*its, *(area for area in ending if area.account is account)]
        written = [*its, *(area for area in swept if area.account is account)]
        counted = (
            len(its),
            sum(area.slots for area in its),
            sum(area.pool_bytes for area in held),
            sum(area.stored_pages - area.same_filled_pages for area in held),
            sum(area.written_pages for area in written),
            sum(area.handed_off_pages for area in held),
        )
        has = tuple(part.used for part in account.parts)
        assert counted == has, f"tenant {account.name!r} has {counted}, and its account says {has}"
    for bound in accounts.bounds:
        assert bound.used == sum(part.used for part in bound.parts), "a bound and its parts disagree"
        assert bound.lent == sum(part.over for part in bound.parts), "what is lent and its parts disagree"
        assert bound.lent <= max(0, bound.lendable) or bound.used <= bound.most, "more is used than there may be"
