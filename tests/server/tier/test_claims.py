"""Hand-offs: R2 to R6 of KERNEL.md section 5, one claim after the other. Time is moved by hand."""

from dataclasses import astuple

import pytest
from tests.builders import page_of
from tests.server.builders import HOST, put

from swaptier_server.tier.area import Area
from swaptier_server.tier.area_check import check_area
from swaptier_server.tier.counters import LeaseEnd
from swaptier_server.tier.device import DeviceError, MemoryDevice
from swaptier_server.tier.free import acknowledge, invalidate
from swaptier_server.tier.load import check_load, load, lookup
from swaptier_server.tier.page import StoredPage
from swaptier_server.tier.slot import SlotState
from swaptier_server.tier.swap_file import Client
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_server.tier.write_back import write_back, write_back_oldest
from swaptier_wire.errors import ClientReplaced, LimitReached
from swaptier_wire.types import (
    ZERO_PAGE,
    AreaOptions,
    LoadMode,
    LoadReply,
    Outcome,
    Reason,
    SlotReply,
    fill_page,
)

LEASE_NS = 1000
END_OF_TIME_NS = 1 << 62
POOL, DEVICE = 1 << 20, 0
"""Bytes of a pool that takes pages, and of one that leaves them to the device."""


class TriedTier:
    """A tier with one area, and the time."""

    def __init__(
        self, pool_bytes_max: int = POOL, device: MemoryDevice | None = None, *, free_on_read: bool = False
    ) -> None:
        self.now_ns = 0
        limits = TierLimits(pool_bytes_max, lease_ns=LEASE_NS, leases_per_area_max=3)
        self.tier = Tier(limits, 1, lambda _name: device or MemoryDevice(), now_ns=lambda: self.now_ns)
        self.area, _ = self.tier.swapon(HOST, "swap", 8, AreaOptions(device_free_on_read=free_on_read))

    def store(self, offset: int, generation: int, page: bytes) -> SlotReply:
        """Store a page."""
        return put(self.area, offset, generation, page)

    def claim(self, offset: int, generation: int, request_id: int, *, require_generation: bool = True) -> LoadReply:
        """Claim a page."""
        return load(
            self.area, offset, generation, LoadMode.CLAIM, request_id=request_id, require_generation=require_generation
        )

    def acknowledge(self, offset: int, generation: int, request_id: int) -> Outcome:
        """End a hand-off."""
        return acknowledge(self.area, offset, generation, request_id).outcome

    def pass_time(self, ns: int) -> int:
        """Let time pass and what has ended end; say how many leases that were."""
        self.now_ns += ns
        ended = self.tier.expire_leases()
        self.tier.check_invariants()
        return ended


@pytest.fixture(params=[POOL, DEVICE], ids=["pool", "device"])
def tried(request: pytest.FixtureRequest) -> TriedTier:
    """A tier that has page 1 as generation 1 of slot 0: in the pool, or on the device. A claim is the same for both."""
    made = TriedTier(request.param)
    assert made.store(0, 1, page_of(1)).outcome in (Outcome.STORED, Outcome.DEVICE)
    return made


# A hand-off


def test_a_claim_is_answered_with_the_page_and_keeps_it_until_it_is_acknowledged(tried: TriedTier) -> None:
    assert tried.claim(0, 1, 7).page == page_of(1)
    assert tried.area.handed_off_pages == 1
    assert tried.acknowledge(0, 1, 7) is Outcome.ACKNOWLEDGED
    tried.tier.check_invariants()
    assert (tried.area.handed_off_pages, tried.area.stored_pages, tried.area.device_pages) == (0, 0, 0)
    assert tried.tier.pool.bytes == 0
    assert tried.claim(0, 1, 8) == LoadReply(Outcome.LOST, Reason.TAKEN)


def test_a_claim_whose_answer_was_lost_is_answered_again_with_the_same_bytes(tried: TriedTier) -> None:
    """The hazard of an exclusive load: here the retry does not find an empty slot."""
    first = tried.claim(0, 1, 7)
    assert tried.claim(0, 1, 7) == tried.claim(0, 1, 7) == first
    assert tried.area.counters.replayed_claims == 2
    assert tried.area.counters.leases_begun == 1


def test_a_same_filled_page_is_handed_off_as_its_word() -> None:
    tried = TriedTier()
    tried.store(0, 1, fill_page(9))
    assert tried.claim(0, 1, 7).fill_word == tried.claim(0, 1, 7).fill_word == 9
    assert tried.acknowledge(0, 1, 7) is Outcome.ACKNOWLEDGED
    tried.tier.check_invariants()


@pytest.mark.parametrize("mode", LoadMode)
def test_nobody_else_gets_what_is_handed_off(tried: TriedTier, mode: LoadMode) -> None:
    """R6. Not even a copy: whoever claimed the page may be writing to it already."""
    tried.claim(0, 1, 7)
    for is_safe in (True, False):
        reply = load(tried.area, 0, 1, mode, request_id=8, require_generation=is_safe)
        assert reply == LoadReply(Outcome.CLAIMED, generation=1)
    assert tried.claim(0, 1, 7).page == page_of(1), "and whoever has claimed it still does"


def test_the_generation_is_looked_at_before_the_claimant(tried: TriedTier) -> None:
    tried.claim(0, 1, 7)
    assert tried.claim(0, 2, 8) == tried.claim(0, 2, 7) == LoadReply(Outcome.STALE_GENERATION, generation=1)


def test_an_acknowledgement_is_answered_the_same_however_often_it_comes(tried: TriedTier) -> None:
    tried.claim(0, 1, 7)
    outcomes = [tried.acknowledge(0, 1, 7) for _ in range(3)]
    invalidate(tried.area, 0, 1)
    outcomes.append(tried.acknowledge(0, 1, 7))
    assert set(outcomes) == {Outcome.ACKNOWLEDGED}
    assert tried.area.counters.repeated_acknowledges == 3
    assert tried.acknowledge(0, 1, 8) is Outcome.LEASE_ENDED, "but not to somebody else"


def test_an_acknowledgement_of_what_was_never_claimed_changes_nothing(tried: TriedTier) -> None:
    assert tried.acknowledge(0, 1, 7) is Outcome.LEASE_ENDED
    assert tried.acknowledge(0, 2, 7) is Outcome.LEASE_ENDED
    assert tried.acknowledge(5, 1, 7) is Outcome.LEASE_ENDED
    assert tried.claim(0, 1, 8).page == page_of(1)


def test_a_lookup_sees_an_entry_that_is_handed_off() -> None:
    tried = TriedTier()
    tried.store(0, 1, page_of(1))
    tried.claim(0, 1, 7)
    assert lookup(tried.area, 0).outcome is Outcome.HIT


# What ends it


def test_a_lease_that_ends_gives_the_page_back(tried: TriedTier) -> None:
    """R5: whoever asks next gets it, as if nobody had."""
    before = astuple(tried.area.held(0))
    tried.claim(0, 1, 7)
    assert tried.pass_time(LEASE_NS - 1) == 0
    assert tried.claim(0, 1, 8).outcome is Outcome.CLAIMED
    assert tried.pass_time(1) == 1
    assert astuple(tried.area.held(0)) == before
    assert tried.claim(0, 1, 8).page == page_of(1)
    assert tried.area.counters.leases_ended[LeaseEnd.EXPIRED] == 1


def test_a_claim_that_is_asked_again_lasts_as_long_again(tried: TriedTier) -> None:
    tried.claim(0, 1, 7)
    for _ in range(5):
        assert tried.pass_time(LEASE_NS - 1) == 0
        assert tried.claim(0, 1, 7).page == page_of(1)
    assert tried.tier.next_lease_end_ns() == tried.now_ns + LEASE_NS
    assert tried.acknowledge(0, 1, 7) is Outcome.ACKNOWLEDGED
    assert tried.tier.next_lease_end_ns() is None


def test_an_acknowledgement_that_comes_after_its_lease_leaves_the_page_where_it_is(tried: TriedTier) -> None:
    """A client slept too long. The page may be promised to another by now; even if not, it is the tier's."""
    tried.claim(0, 1, 7)
    tried.pass_time(LEASE_NS)
    assert tried.acknowledge(0, 1, 7) is Outcome.LEASE_ENDED
    assert tried.claim(0, 1, 8).page == page_of(1)
    assert tried.acknowledge(0, 1, 7) is Outcome.LEASE_ENDED
    assert tried.claim(0, 1, 8).page == page_of(1), "the second claimant's hand-off goes on"
    assert tried.acknowledge(0, 1, 8) is Outcome.ACKNOWLEDGED
    assert tried.acknowledge(0, 1, 7) is Outcome.LEASE_ENDED, "and he alone is told that it is his"
    assert tried.area.counters.acknowledges[Outcome.LEASE_ENDED] == 3


def test_a_late_acknowledgement_never_deletes_the_next_page_of_the_slot(tried: TriedTier) -> None:
    tried.claim(0, 1, 7)
    tried.pass_time(LEASE_NS)
    tried.store(0, 2, page_of(2))
    assert tried.acknowledge(0, 1, 7) is Outcome.STALE_GENERATION
    assert tried.claim(0, 2, 7).page == page_of(2), "an old request id may claim anew"
    assert tried.acknowledge(0, 1, 7) is Outcome.STALE_GENERATION
    assert tried.area.handed_off_pages == 1


def test_a_newer_store_ends_a_hand_off(tried: TriedTier) -> None:
    """R1: whoever stores has the page, and what was handed off is an older one."""
    tried.claim(0, 1, 7)
    tried.store(0, 2, page_of(2))
    assert tried.area.counters.leases_ended[LeaseEnd.SUPERSEDED] == 1
    assert tried.claim(0, 2, 8).page == page_of(2)
    assert tried.claim(0, 1, 7) == LoadReply(Outcome.STALE_GENERATION, generation=2)


def test_a_late_or_repeated_store_leaves_a_hand_off_alone(tried: TriedTier) -> None:
    tried.claim(0, 1, 7)
    first = tried.area.held(0).store_reply
    assert tried.store(0, 1, page_of(1)) == first
    assert tried.store(0, 1, page_of(2)).outcome is Outcome.STALE_GENERATION
    assert tried.acknowledge(0, 1, 7) is Outcome.ACKNOWLEDGED


def test_an_invalidation_frees_what_is_handed_off(tried: TriedTier) -> None:
    """R4, in any state."""
    tried.claim(0, 1, 7)
    assert invalidate(tried.area, 0, 0).outcome is Outcome.STALE_GENERATION
    assert tried.area.handed_off_pages == 1
    invalidate(tried.area, 0, 1)
    assert tried.area.counters.leases_ended[LeaseEnd.INVALIDATED] == 1
    assert tried.acknowledge(0, 1, 7) is Outcome.LEASE_ENDED
    assert tried.claim(0, 1, 7) == LoadReply(Outcome.LOST, Reason.FREED)
    tried.tier.check_invariants()


def test_a_host_that_starts_anew_loses_its_claims(tried: TriedTier) -> None:
    tried.claim(0, 1, 7)
    area, _ = tried.tier.swapon(Client("host", 2), "swap", 8, AreaOptions())
    tried.tier.check_invariants()
    assert tried.tier.next_lease_end_ns() is None
    assert acknowledge(area, 0, 1, 7).outcome is Outcome.LEASE_ENDED
    with pytest.raises(ClientReplaced):
        tried.tier.area(HOST, "swap")


# In what order, and how many


def test_leases_end_in_the_order_in_which_they_were_begun_and_no_more_than_asked_for() -> None:
    tried = TriedTier()
    for offset in (2, 0, 1):
        tried.store(offset, 1, page_of(offset))
        tried.claim(offset, 1, 7)
        tried.now_ns += 10
    tried.claim(2, 1, 7)  # again, so it is the last now
    tried.now_ns += 10 * LEASE_NS
    back = []
    while tried.tier.expire_leases(leases_max=1):
        back.append([offset for offset in range(3) if tried.area.held(offset).state is SlotState.POOLED])
    assert back == [[0], [0, 1], [0, 1, 2]]


def test_a_lease_does_not_end_before_it_is_ended() -> None:
    """Being overdue is nothing that a request could see: an end is an event like any other."""
    tried = TriedTier()
    tried.store(0, 1, page_of(1))
    tried.claim(0, 1, 7)
    tried.now_ns += 2 * LEASE_NS
    assert tried.claim(0, 1, 8).outcome is Outcome.CLAIMED
    assert tried.acknowledge(0, 1, 7) is Outcome.ACKNOWLEDGED
    assert tried.tier.expire_leases() == 0


def test_an_area_has_a_limit_of_leases_that_repeats_do_not_meet() -> None:
    tried = TriedTier()
    for offset in range(5):
        tried.store(offset, 1, page_of(offset))
    claims = [LoadMode.CLAIM] * 3
    check_load(tried.area, [0, 1, 2], claims)
    for offset in range(3):
        tried.claim(offset, 1, offset)
    with pytest.raises(LimitReached, match="3 claims that were not acknowledged, and 1 more would pass its limit of 3"):
        check_load(tried.area, [3], [LoadMode.CLAIM])
    check_load(tried.area, [0, 1, 2], claims)
    check_load(tried.area, [3, 4], [LoadMode.SHARED, LoadMode.EXCLUSIVE])
    check_load(tried.area, [6, 7], [LoadMode.CLAIM] * 2)
    tried.acknowledge(0, 1, 0)
    check_load(tried.area, [3, 1], [LoadMode.CLAIM] * 2)


# Where there is nothing to hand off


@pytest.mark.parametrize("end", ["never", "taken", "freed"])
def test_a_claim_of_what_the_slot_does_not_hold_hands_nothing_off(end: str) -> None:
    """Without require_generation it is answered by the device, stale or not, as any load is."""
    tried = TriedTier()
    if end != "never":
        tried.store(0, 1, page_of(1))
    if end == "taken":
        load(tried.area, 0, 1, LoadMode.EXCLUSIVE)
    elif end == "freed":
        invalidate(tried.area, 0, 1)
    reply = tried.claim(0, 1, 7, require_generation=False)
    assert (reply.outcome, reply.page) == (Outcome.DEVICE, ZERO_PAGE)
    assert tried.claim(0, 1, 7).outcome is Outcome.LOST
    assert (tried.area.handed_off_pages, tried.area.counters.leases_begun) == (0, 0)
    assert tried.acknowledge(0, 1, 7) is Outcome.LEASE_ENDED


def test_a_claim_without_a_required_generation_hands_off_what_there_is() -> None:
    tried = TriedTier()
    tried.store(0, 5, page_of(5))
    assert tried.claim(0, 9, 7, require_generation=False).generation == 5
    assert tried.acknowledge(0, 5, 7) is Outcome.ACKNOWLEDGED


def test_a_claim_of_the_pool_only_hands_nothing_off_that_is_on_the_device() -> None:
    tried = TriedTier(DEVICE)
    tried.store(0, 1, page_of(1))
    reply = load(tried.area, 0, 1, LoadMode.CLAIM, request_id=7, pool_only=True)
    assert reply == LoadReply(Outcome.MISS, generation=1)
    assert tried.area.handed_off_pages == 0


class UnreadableDevice(MemoryDevice):
    """A device that cannot be read while the test says so."""

    is_broken = False

    def read(self, offset: int) -> StoredPage:
        """Fail, or do as a device does."""
        if self.is_broken:
            raise DeviceError
        return super().read(offset)


def test_a_page_that_cannot_be_read_is_not_handed_off() -> None:
    device = UnreadableDevice()
    tried = TriedTier(DEVICE, device)
    tried.store(0, 1, page_of(1))
    device.is_broken = True
    assert tried.claim(0, 1, 7) == LoadReply(Outcome.ERROR, Reason.DEVICE_ERROR, 1)
    assert tried.area.handed_off_pages == 0
    device.is_broken = False
    assert tried.claim(0, 1, 7).page == page_of(1)
    device.is_broken = True
    assert tried.claim(0, 1, 7).outcome is Outcome.ERROR
    assert tried.area.handed_off_pages == 1, "a hand-off that is under way goes on"


def test_a_device_that_frees_on_read_keeps_a_claimed_page_until_it_is_acknowledged() -> None:
    """e914d8f00391, made safe: it is freed when it is certain that it was read."""
    tried = TriedTier(DEVICE, free_on_read=True)
    tried.store(0, 1, page_of(1))
    assert tried.claim(0, 1, 7).page == page_of(1)
    tried.pass_time(LEASE_NS)
    assert tried.claim(0, 1, 8).page == page_of(1)
    assert tried.acknowledge(0, 1, 8) is Outcome.ACKNOWLEDGED
    assert load(tried.area, 0, 1, LoadMode.SHARED).page == ZERO_PAGE


# And the other owners of a page


def test_what_is_handed_off_is_not_written_back() -> None:
    tried = TriedTier()
    for offset in range(2):
        tried.store(offset, 1, page_of(offset))
    tried.claim(0, 1, 7)
    assert not write_back(tried.area, 0)
    assert write_back_oldest(tried.area, 1 << 20, 100).written == 1
    assert [tried.area.held(offset).state for offset in range(2)] == [SlotState.HANDED_OFF, SlotState.ON_DEVICE]


def test_a_page_whose_lease_ended_is_the_newest_of_those_that_may_go() -> None:
    tried = TriedTier()
    for offset in range(3):
        tried.store(offset, 1, page_of(offset))
    tried.claim(0, 1, 7)
    tried.pass_time(LEASE_NS)
    assert [slot.offset for slot in tried.tier.pool.oldest_first()] == [1, 2, 0]


def test_an_explorer_can_end_any_lease_at_any_time() -> None:
    tried = TriedTier()
    tried.store(0, 1, page_of(1))
    assert tried.tier.expire_leases(END_OF_TIME_NS) == 0
    tried.claim(0, 1, 7)
    assert tried.tier.expire_leases(END_OF_TIME_NS) == 1
    assert tried.tier.expire_leases(END_OF_TIME_NS) == 0
    assert tried.acknowledge(0, 1, 7) is Outcome.LEASE_ENDED


# The recount


def test_a_recount_finds_a_lease_that_drifted() -> None:
    tried = TriedTier()
    tried.store(0, 1, page_of(1))
    tried.claim(0, 1, 7)
    tried.area.handed_off_pages += 1
    with pytest.raises(AssertionError, match="handed-off pages"):
        check_area(tried.area)
    tried.area.handed_off_pages -= 1
    tried.area.known_slots[0].state = SlotState.POOLED
    with pytest.raises(AssertionError, match="leases disagree"):
        check_area(tried.area)


def test_a_recount_finds_an_area_that_was_closed_with_its_leases() -> None:
    tried = TriedTier()
    tried.store(0, 1, page_of(1))
    tried.claim(0, 1, 7)
    area: Area = tried.tier.areas.pop("swap")
    with pytest.raises(AssertionError):
        tried.tier.check_invariants()
    area.close()
    area.forget_slots(1)
    tried.tier.check_invariants()
