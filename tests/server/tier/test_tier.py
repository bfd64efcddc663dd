"""Who owns an area, in which of its lives, and how many there may be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import page_of
from tests.server.builders import put

from swaptier_server.tier import account as account_module
from swaptier_server.tier.area import SLOTS_FORGOTTEN_MAX, Area
from swaptier_server.tier.load import load, lookup
from swaptier_server.tier.swap_file import Client
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.errors import AreaExists, AreaNotOwned, ClientReplaced, InvalidRequest, LimitReached, UnknownArea
from swaptier_wire.types import AreaOptions, LoadMode, Outcome

ALICE, BOB = Client("alice", 1), Client("bob", 1)
ALICE_REBOOTED = Client("alice", 2)
DEFAULT = AreaOptions()
PAGE = page_of(1)


def new_tier(pool_bytes_max: int = 1 << 20, areas_max: int = 64, slots_per_area_max: int = 1 << 20) -> Tier:
    return Tier(TierLimits(pool_bytes_max, areas_max=areas_max, slots_per_area_max=slots_per_area_max), epoch=9)


def open_with_page(tier: Tier, client: Client = ALICE, name: str = "swap") -> Area:
    area, _ = tier.swapon(client, name, 8, DEFAULT)
    assert put(area, 0, 1, PAGE).outcome is Outcome.STORED
    return area


def test_opening_an_area_again_in_the_same_life_keeps_its_pages() -> None:
    tier = new_tier()
    area = open_with_page(tier)
    assert tier.swapon(ALICE, "swap", 8, DEFAULT) == (area, True)
    assert tier.area(ALICE, "swap") is area
    assert lookup(area, 0).outcome is Outcome.HIT


@pytest.mark.parametrize(("slots", "options"), [(9, DEFAULT), (8, AreaOptions(device_free_on_read=True))])
def test_an_open_area_cannot_be_opened_with_another_shape(slots: int, options: AreaOptions) -> None:
    tier = new_tier()
    area = open_with_page(tier)
    with pytest.raises(AreaExists, match="is open with 8 slots"):
        tier.swapon(ALICE, "swap", slots, options)
    assert tier.area(ALICE, "swap") is area


def test_many_areas_end_as_few_slots_at_a_time_as_one() -> None:
    """A reboot of a host that has them all is one Swapon, and holds the loop up no longer than one Swapoff."""
    tier = new_tier(pool_bytes_max=1 << 26)
    for name in "abcd":
        area, _ = tier.swapon(ALICE, name, 500, DEFAULT)
        for offset in range(500):
            put(area, offset, 1, PAGE)
    entry_bytes, pages = area.pool_bytes // 500, 4 * 500
    tier.swapon(ALICE._replace(epoch=ALICE.epoch + 1), "e", 8, DEFAULT)
    while pages > SLOTS_FORGOTTEN_MAX:
        pages -= SLOTS_FORGOTTEN_MAX
        assert tier.pool.bytes == pages * entry_bytes
        assert list(tier.pool.oldest_first()) == []
        tier.check_invariants()
        tier.end_some()
    assert tier.pool.bytes == 0


def test_a_large_area_ends_some_slots_at_a_time_and_is_gone_from_the_first_moment() -> None:
    """Its name can be opened anew at once, the shrinker leaves it alone, and the books are right at every step."""
    tier = new_tier(pool_bytes_max=1 << 26)
    area, _ = tier.swapon(ALICE, "swap", 4000, DEFAULT)
    for offset in range(4000):
        put(area, offset, 1, PAGE)
    entry_bytes = area.pool_bytes // 4000
    for offset in range(10):
        load(area, offset, 1, LoadMode.CLAIM, request_id=7)
    assert tier.swapoff(ALICE, "swap") == 4000
    assert tier.pool.bytes == (4000 - SLOTS_FORGOTTEN_MAX) * entry_bytes
    assert list(tier.pool.oldest_first()) == []
    with pytest.raises(UnknownArea):
        tier.area(ALICE, "swap")
    again = open_with_page(tier)
    load(again, 0, 1, LoadMode.CLAIM, request_id=8)
    tier.check_invariants()
    assert tier.expire_leases(now_ns=1 << 62, leases_max=5) == 5
    held_bytes = tier.pool.bytes
    while tier.is_ending:
        tier.end_some(100)
        tier.check_invariants()
        assert held_bytes - 100 * entry_bytes <= tier.pool.bytes <= held_bytes
        held_bytes = tier.pool.bytes
    assert tier.pool.bytes == entry_bytes
    assert lookup(again, 0).outcome is Outcome.HIT
    assert tier.expire_leases(now_ns=1 << 62) == 1


def test_a_rebooted_host_starts_with_an_empty_area_of_any_shape() -> None:
    tier = new_tier()
    before = open_with_page(tier)
    after, is_reopened = tier.swapon(ALICE_REBOOTED, "swap", 4, AreaOptions(device_free_on_read=True))
    assert not is_reopened
    assert lookup(after, 0).outcome is Outcome.MISS
    assert before.is_closed
    assert tier.pool.bytes == 0
    tier.check_invariants()


def test_a_host_that_was_replaced_is_refused_everywhere() -> None:
    tier = new_tier()
    open_with_page(tier)
    tier.swapon(ALICE_REBOOTED, "swap", 8, DEFAULT)
    for name in ("swap", "another"):
        with pytest.raises(ClientReplaced, match="started anew as epoch 2; epoch 1 can do nothing"):
            tier.swapon(ALICE, name, 8, DEFAULT)
        with pytest.raises(ClientReplaced):
            tier.area(ALICE, name)
        with pytest.raises(ClientReplaced):
            tier.swapoff(ALICE, name)


def test_a_replaced_host_is_refused_even_after_its_successor_closed_everything() -> None:
    tier = new_tier()
    tier.swapon(ALICE_REBOOTED, "swap", 8, DEFAULT)
    tier.swapoff(ALICE_REBOOTED, "swap")
    with pytest.raises(ClientReplaced):
        tier.swapon(ALICE, "swap", 8, DEFAULT)


def test_all_areas_of_a_hosts_past_life_end_at_once() -> None:
    tier = new_tier(areas_max=3)
    open_with_page(tier, name="first")
    open_with_page(tier, name="second")
    open_with_page(tier, BOB, name="bobs")
    tier.swapon(ALICE_REBOOTED, "third", 8, DEFAULT)
    assert set(tier.areas) == {"bobs", "third"}
    tier.check_invariants()


def test_a_rebooted_host_must_open_its_area_before_it_uses_it() -> None:
    tier = new_tier()
    area = open_with_page(tier)
    with pytest.raises(UnknownArea, match=r"opened by epoch 1 .* not by epoch 2"):
        tier.area(ALICE_REBOOTED, "swap")
    assert tier.area(ALICE, "swap") is area, "asking in vain replaces nobody"


def test_nobody_touches_an_area_of_another_client() -> None:
    tier = new_tier()
    area = open_with_page(tier)
    mallory = Client("mallory", 99)
    for attempt in (
        lambda: tier.swapon(mallory, "swap", 8, DEFAULT),
        lambda: tier.area(mallory, "swap"),
        lambda: tier.swapoff(mallory, "swap"),
    ):
        with pytest.raises(AreaNotOwned):
            attempt()
    assert tier.area(ALICE, "swap") is area
    assert lookup(area, 0).outcome is Outcome.HIT


def test_a_request_to_an_area_that_is_not_open_is_told_to_open_it() -> None:
    with pytest.raises(UnknownArea, match=r"no area 'swap' is open; nothing changed\. Swapon first"):
        new_tier().area(ALICE, "swap")


def test_closing_an_area_says_how_many_pages_it_held_and_forgets_them() -> None:
    tier = new_tier()
    open_with_page(tier)
    assert tier.swapoff(ALICE, "swap") == 1
    assert tier.pool.bytes == 0
    with pytest.raises(UnknownArea):
        tier.swapoff(ALICE, "swap")
    again, is_reopened = tier.swapon(ALICE, "swap", 8, DEFAULT)
    assert not is_reopened
    assert load(again, 0, 1, LoadMode.SHARED).generation == 0, "the device is new too"


def test_an_area_can_be_dropped_without_its_client() -> None:
    tier = new_tier()
    open_with_page(tier)
    assert tier.drop_area("swap") == 1
    assert not tier.areas
    with pytest.raises(UnknownArea):
        tier.drop_area("swap")


def test_areas_share_one_pool() -> None:
    tier = new_tier(pool_bytes_max=100)
    first = open_with_page(tier, ALICE, "first")
    second, _ = tier.swapon(BOB, "second", 8, DEFAULT)
    outcomes = [put(second, offset, 1, PAGE).outcome for offset in range(8)]
    assert outcomes[0] is Outcome.STORED
    assert outcomes[-1] is Outcome.DEVICE
    assert tier.pool.reached_full
    assert tier.pool.limit_hits
    assert put(first, 1, 1, PAGE).outcome is Outcome.DEVICE
    assert tier.swapoff(BOB, "second") == outcomes.count(Outcome.STORED)
    assert put(first, 1, 2, PAGE).outcome is Outcome.STORED
    tier.check_invariants()


def test_there_is_a_limit_on_areas_and_on_slots() -> None:
    tier = new_tier(areas_max=1, slots_per_area_max=8)
    with pytest.raises(LimitReached, match=r"9 slots; nothing changed\. This server allows 8"):
        tier.swapon(ALICE, "swap", 9, DEFAULT)
    tier.swapon(ALICE, "swap", 8, DEFAULT)
    with pytest.raises(LimitReached, match=r"1 areas in all, of which 1 are taken; .* --areas-max"):
        tier.swapon(BOB, "other", 8, DEFAULT)
    tier.swapon(ALICE, "swap", 8, DEFAULT)
    tier.swapon(ALICE_REBOOTED, "other", 8, DEFAULT)


def test_a_refused_reboot_changes_nothing() -> None:
    tier = new_tier(areas_max=2, slots_per_area_max=8)
    area = open_with_page(tier)
    open_with_page(tier, BOB, "bobs")
    for name, slots in (("bobs", 8), ("swap", 9), ("swap", 0), ("", 8)):
        with pytest.raises((AreaNotOwned, LimitReached, InvalidRequest)):
            tier.swapon(ALICE_REBOOTED, name, slots, DEFAULT)
    assert tier.area(ALICE, "swap") is area


@pytest.mark.parametrize("text", ["", "x" * 129, "ü" * 65])
def test_names_have_1_to_128_bytes(text: str) -> None:
    tier = new_tier()
    with pytest.raises(InvalidRequest, match=r"area name is .* bytes long"):
        tier.swapon(ALICE, text, 8, DEFAULT)
    with pytest.raises(InvalidRequest, match=r"client id is .* bytes long"):
        tier.swapon(Client(text, 1), "swap", 8, DEFAULT)
    tier.swapon(Client("x" * 128, 1), "ü" * 64, 8, DEFAULT)


def test_an_area_without_slots_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="with 0 slots"):
        new_tier().swapon(ALICE, "swap", 0, DEFAULT)


@pytest.mark.parametrize(
    "limits",
    [
        TierLimits(-1),
        TierLimits(1, accept_threshold_percent=101),
        TierLimits(1, accept_threshold_percent=-1),
        TierLimits(1, areas_max=0),
        TierLimits(1, slots_per_area_max=0),
    ],
)
def test_a_tier_with_limits_that_nothing_satisfies_is_not_made(limits: TierLimits) -> None:
    with pytest.raises(ValueError, match=r"limit|threshold|slots"):
        Tier(limits, 1)


def test_what_is_remembered_of_past_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_module, "CLIENTS_REMEMBERED_MAX", 4)
    tier = new_tier(areas_max=2)
    tier.swapon(Client("stays", 5), "swap", 8, DEFAULT)
    for number in range(20):
        tier.swapon(Client(f"passes-{number}", 1), "other", 8, DEFAULT)
        tier.swapoff(Client(f"passes-{number}", 1), "other")
        tier.check_invariants()
    with pytest.raises(ClientReplaced):
        tier.area(Client("stays", 4), "swap")


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 4), st.sampled_from("xyz")), max_size=30))
def test_an_area_always_belongs_to_the_newest_life_that_opened_one(requests: list[tuple[str, int, str]]) -> None:
    tier = new_tier(areas_max=2)
    newest: dict[str, int] = {}
    for client_id, epoch, name in requests:
        try:
            tier.swapon(Client(client_id, epoch), name, 8, DEFAULT)
        except ClientReplaced:
            assert epoch < newest[client_id]
        except (AreaNotOwned, LimitReached):
            assert epoch >= newest.get(client_id, 0)
        else:
            newest[client_id] = epoch
        tier.check_invariants()
        assert all(area.client.epoch == newest[area.client.id] for area in tier.areas.values())
