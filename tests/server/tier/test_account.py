"""What is shared by tenants: no tenant takes what another was promised, and none is pushed out for another."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.builders import put

from swaptier_server.swapfile.file import SqliteSwapFile
from swaptier_server.tier import account as account_module
from swaptier_server.tier import tier as tier_module
from swaptier_server.tier.account import Bound, Part
from swaptier_server.tier.area import Area
from swaptier_server.tier.device import MemoryDevice
from swaptier_server.tier.free import acknowledge, invalidate
from swaptier_server.tier.load import check_load, load
from swaptier_server.tier.shrinker import DrainProgress
from swaptier_server.tier.store import check_store
from swaptier_server.tier.swap_file import Client, SwapFile
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.errors import ClientReplaced, LimitReached
from swaptier_wire.types import PAGE_BYTES, AreaOptions, LoadMode, Outcome, Reason

SLOTS = 256
TENANTS = ("alice", "bob", "carol", "dave")


def noise(number: int) -> bytes:
    """A page that does not compress."""
    return Random(number).randbytes(PAGE_BYTES)


def tenant_of(client_id: str) -> str:
    return client_id.partition("|")[0]


def divided(
    tenants: int = 4,
    devices: Callable[[str], MemoryDevice] = lambda _: MemoryDevice(),
    swap_file: SwapFile | None = None,
    **limits: int,
) -> Tier:
    """A tier that is divided among *tenants*."""
    bounds = TierLimits(**({"pool_bytes_max": 1 << 20} | limits))
    tier = Tier(bounds, 1, devices, swap_file=swap_file, tenant_of=tenant_of)
    tier.accounts.divide(tenants)
    return tier


def opened(tier: Tier, tenant: str, name: str = "a", slots: int = SLOTS, *, writeback: bool = True) -> Area:
    client = Client(f"{tenant}|host", 1)
    return tier.swapon(client, f"{tenant}|{name}", slots, AreaOptions(writeback=writeback))[0]


def stored(area: Area, offsets: Sequence[int], generation: int = 1) -> list[Outcome]:
    return [put(area, offset, generation, noise(offset + 1)).outcome for offset in offsets]


# The bound itself


@given(
    st.integers(0, 40),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12), st.booleans(), st.integers(0, 5)), max_size=60),
)
def test_a_share_is_always_there_for_its_tenant(most: int, steps: list[tuple[int, int, bool, int]]) -> None:
    """Whatever the others took or gave back, whoever is within the share gets it, and all together stay in bounds."""
    bound = Bound()
    bound.divide(most, 4)
    parts = [Part(bound) for _ in range(4)]
    for who, amount, gives_back, _ in steps:
        part = parts[who]
        if gives_back:
            part.take(-min(amount, part.used))
        elif part.may_take(amount):
            part.take(amount)
        else:
            assert part.used + amount > bound.reserved
        assert bound.used == sum(each.used for each in parts) <= most
        assert bound.lent == sum(each.over for each in parts) <= bound.lendable
        for each in parts:
            assert each.may_take(each.room()) and not each.may_take(each.room() + 1)


def test_each_of_many_tenants_has_one_where_there_are_as_many() -> None:
    """Four of 33 tenants could have all of 64 areas, and the others none."""
    bound = Bound()
    for most, tenants, reserved in ((64, 32, 1), (64, 33, 1), (64, 64, 1), (64, 65, 0), (0, 2, 0), (1, 1, 0)):
        bound.divide(most, tenants)
        assert (bound.reserved, bound.lendable) == (reserved, most - reserved * tenants)


def test_half_of_a_bound_is_reserved_and_a_single_tenant_is_lent_all() -> None:
    bound = Bound()
    bound.divide(100, 4)
    assert (bound.reserved, bound.lendable) == (12, 52)
    bound.divide(100, 1)
    assert (bound.reserved, bound.lendable) == (0, 100)


# The pool


def test_a_neighbour_that_fills_the_pool_takes_no_page_of_a_share() -> None:
    """Its areas may not write back, so nothing of it can be moved: the others' shares were never lent to it."""
    tier = divided(pool_bytes_max=64 * PAGE_BYTES)
    greedy = opened(tier, "alice", writeback=False)
    assert stored(greedy, range(64)).count(Outcome.STORED) == 8 + 32
    for tenant in TENANTS[1:]:
        area = opened(tier, tenant)
        assert stored(area, range(8)) == [Outcome.STORED] * 8, "its share"
        assert put(area, 8, 1, noise(9)) == (Outcome.DEVICE, Reason.POOL_LIMIT, 0), "all the rest is lent"
        while tier.pool.wants_shrink:
            tier.shrink()
        assert area.stored_pages == 8, "nothing of a share is written back for others"
    tier.check_invariants()


def test_who_borrowed_most_pays_first_and_keeps_its_share() -> None:
    tier = divided(pool_bytes_max=64 * PAGE_BYTES)
    modest, greedy, late = (opened(tier, tenant) for tenant in TENANTS[:3])
    assert stored(modest, range(10)) == [Outcome.STORED] * 10
    assert stored(greedy, range(38)) == [Outcome.STORED] * 38
    assert stored(late, range(9)) == [Outcome.STORED] * 8 + [Outcome.DEVICE]
    assert tier.shrink() > 0 and not tier.pool.wants_shrink
    assert (modest.stored_pages, late.stored_pages) == (10, 8)
    assert greedy.counters.written_back_pages > 0 and greedy.stored_pages >= 8
    assert put(late, 9, 1, noise(1)).outcome is Outcome.STORED
    tier.check_invariants()


def test_claims_that_pin_the_pool_are_their_tenants_own() -> None:
    """All that is lent is pinned, by claims that are not acknowledged, and nothing of it can be written back."""
    tier = divided(pool_bytes_max=64 * PAGE_BYTES)
    greedy = opened(tier, "alice")
    stored(greedy, range(40))
    for offset in range(40):
        assert load(greedy, offset, 1, LoadMode.CLAIM, request_id=7).outcome is Outcome.HIT
    area = opened(tier, "bob")
    assert stored(area, range(8)) == [Outcome.STORED] * 8
    tier.check_invariants()


def test_claims_have_a_bound_for_all_with_a_share_in_it() -> None:
    tier = divided(leases_max=16)
    greedy, other = opened(tier, "alice"), opened(tier, "bob")
    for area in (greedy, other):
        stored(area, range(16))
    for offset in range(10):
        check_load(greedy, [offset], [LoadMode.CLAIM])
        load(greedy, offset, 1, LoadMode.CLAIM, request_id=7)
    with pytest.raises(LimitReached, match=r"10 claims .* 2 of the server's 16 are reserved"):
        check_load(greedy, [10], [LoadMode.CLAIM])
    check_load(other, [0, 1], [LoadMode.CLAIM, LoadMode.CLAIM])


def test_short_pages_cannot_be_more_than_the_pool_may_have_entries() -> None:
    """A page that takes 30 bytes of the pool takes 600 of the server."""
    tier = divided(pool_entries_max=16)
    text = b"abcdefgh" * 500
    area = opened(tier, "alice")
    replies = [put(area, offset, 1, text.ljust(PAGE_BYTES, b"%d" % (offset % 10))) for offset in range(12)]
    assert [reply.outcome for reply in replies] == [Outcome.STORED] * 10 + [Outcome.DEVICE] * 2
    assert replies[-1].reason is Reason.POOL_LIMIT
    assert tier.shrink() and not tier.pool.wants_shrink
    assert put(area, 20, 1, text.ljust(PAGE_BYTES, b"y")).outcome is Outcome.STORED
    assert put(opened(tier, "bob"), 0, 1, text.ljust(PAGE_BYTES, b"z")).outcome is Outcome.STORED
    tier.check_invariants()


# The device


def test_a_tenant_cannot_fill_the_device_for_others() -> None:
    """The refusal names the bound, and ends what the slot held, as any refused store does."""
    tier = divided(pool_bytes_max=0, device_pages_max=64)
    greedy, other = opened(tier, "alice"), opened(tier, "bob")
    assert stored(greedy, range(64)).count(Outcome.DEVICE) == 8 + 32
    reply = put(greedy, 63, 2, noise(1))
    assert (reply.outcome, reply.reason) == (Outcome.REJECTED, Reason.DEVICE_LIMIT)
    assert greedy.counters.rejects[Reason.DEVICE_LIMIT] == 25
    assert stored(greedy, range(40), generation=2) == [Outcome.DEVICE] * 40, "what it has can be overwritten"
    assert stored(other, range(8)) == [Outcome.DEVICE] * 8
    assert put(other, 8, 1, noise(1)).reason is Reason.DEVICE_LIMIT
    tier.check_invariants()


def test_a_drain_loses_no_page_to_a_bound() -> None:
    """The pool had taken the pages, and the device was full: 96 of 100 were gone with their server."""
    tier = divided(2, device_pages_max=4)
    area = opened(tier, "alice")
    stored(area, range(100))
    assert [*tier.drain()][-1] == DrainProgress(written=100)
    assert area.device_pages == 100


def test_a_small_device_forgets_what_was_freed_a_moment_ago() -> None:
    """While few slots were in use none was a row, and only rows were searched: all stores were REJECTED."""
    area = opened(divided(1, pool_bytes_max=0, device_pages_max=8), "alice")
    stored(area, range(8))
    for offset in range(8):
        invalidate(area, offset, 1)
    check_store(area, [8, 9], [1, 1])
    assert stored(area, [8, 9]) == [Outcome.DEVICE] * 2


def test_a_host_that_restarts_takes_no_more_than_it_had() -> None:
    """Although more is lent by now than may be, since tenants were added."""
    tier = divided(1, areas_max=4)
    for host in range(4):
        tier.swapon(Client(f"alice|{host}", 1), f"alice|{host}", SLOTS, AreaOptions())
    tier.accounts.divide(2)
    assert tier.swapon(Client("alice|0", 2), "alice|0", SLOTS, AreaOptions())[0].client.epoch == 2
    with pytest.raises(LimitReached):
        opened(tier, "alice", "one more")


def test_a_pool_that_shares_for_more_tenants_fill_beyond_its_limit_is_shrunk() -> None:
    """Nobody is refused then, so the pool stayed above its limit, by half of it at most."""
    tier = divided(1, pool_bytes_max=16 * PAGE_BYTES)
    stored(opened(tier, "alice"), range(16))
    tier.accounts.divide(4)
    for tenant in ("bob", "carol", "dave"):
        assert stored(opened(tier, tenant), range(2)) == [Outcome.STORED] * 2
        while tier.pool.wants_shrink:
            tier.shrink()
        assert tier.pool.bytes <= tier.pool.bytes_max
    tier.check_invariants()


def test_a_full_device_forgets_pages_of_slots_that_hold_nothing() -> None:
    """A swap device has as many slots as it has room for; here an area may have more, and cycles through them."""
    tier = divided(pool_bytes_max=0, device_pages_max=64)
    area = opened(tier, "alice", slots=4096)
    for start in range(0, 4096, 32):
        offsets = range(start, start + 32)
        check_store(area, offsets, [1] * 32)
        assert stored(area, offsets) == [Outcome.DEVICE] * 32
        for offset in offsets:
            invalidate(area, offset, 1)
        area.known_slots.pack()
    assert area.written_pages <= 40
    tier.check_invariants()


def test_pages_of_an_area_that_ended_count_until_they_are_gone() -> None:
    """Else a tenant that opens and closes areas would have more than it may."""
    tier = divided(pool_bytes_max=0, device_pages_max=64)
    area = opened(tier, "alice")
    stored(area, range(40))
    tier.drop_area(area.name)
    area = opened(tier, "alice")
    assert stored(area, [0]) == [Outcome.REJECTED]
    while tier.is_ending:
        tier.end_some()
        tier.check_invariants()
    assert stored(area, range(40), generation=2) == [Outcome.DEVICE] * 40


def test_what_tenants_have_closed_is_forgotten_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the pages of a small area do not stay charged until a large one that another closed before is gone."""
    monkeypatch.setattr(tier_module, "SLOTS_FORGOTTEN_MAX", 0)
    tier = divided(pool_bytes_max=64 * PAGE_BYTES)
    large, small = opened(tier, "alice"), opened(tier, "bob")
    stored(large, range(20)), stored(small, range(2))
    tier.drop_area(large.name), tier.drop_area(small.name)
    for _ in range(2):
        tier.end_some(2)
    assert (large.stored_pages, small.stored_pages) == (18, 0)
    tier.check_invariants()


@pytest.mark.parametrize("is_file", [False, True], ids=["memory", "file"])
def test_what_the_devices_of_closed_areas_have_is_deleted_in_turn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_file: bool
) -> None:
    """So what one tenant closed is its own again soon, however much another closed before."""
    monkeypatch.setattr(tier_module, "SWEEP_PAGES_MAX", 2)
    with SqliteSwapFile(tmp_path / "swap") if is_file else nullcontext() as file:
        tier = divided(swap_file=file, pool_bytes_max=0)
        large, small = opened(tier, "alice"), opened(tier, "bob")
        stored(large, range(20)), stored(small, range(2))
        tier.drop_area(large.name), tier.drop_area(small.name)
        assert (large.written_pages, small.written_pages) == (20, 2)
        while small.written_pages:
            tier.end_some()
            tier.check_invariants()
        assert large.written_pages == 18
        while tier.is_ending:
            tier.end_some()
        assert tier.accounts.bounds.device_pages.used == 0


# Areas, slots, and who is remembered


def test_areas_and_slots_have_a_share_for_each_tenant() -> None:
    tier = divided(areas_max=8, slots_max=1000)
    for number in range(5):
        opened(tier, "alice", str(number), slots=10)
    with pytest.raises(LimitReached, match=r"8 areas in all, .* 5 by this tenant, for whom 1 are .*-max"):
        opened(tier, "alice", "5", slots=10)
    with pytest.raises(LimitReached, match=r"1000 slots in all, .* 0 by this tenant, for whom 125 are reserved"):
        opened(tier, "bob", slots=10_000)
    for tenant in TENANTS[1:]:
        opened(tier, tenant, slots=125)
    tier.check_invariants()


def test_one_more_tenant_than_there_are_shares_is_refused_or_all_have_less() -> None:
    tier = divided(tenants=2, areas_max=8)
    opened(tier, "alice"), opened(tier, "bob"), opened(tier, "carol")
    assert tier.accounts.bounds.areas.reserved == 1
    tier.accounts.divide(3, may_be_more=False)
    with pytest.raises(LimitReached, match=r"3 tenants have something .* --tenants-max"):
        opened(tier, "dave")
    tier.drop_area("bob|a")
    while tier.is_ending:
        tier.end_some()
    opened(tier, "dave")


def test_a_tenant_that_comes_and_goes_makes_the_server_forget_no_other_tenants_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that was replaced stays replaced: its pages are its successor's."""
    monkeypatch.setattr(account_module, "CLIENTS_REMEMBERED_MAX", 4)
    tier = divided()
    tier.swapon(Client("bob|host", 5), "bob|a", 8, AreaOptions())
    tier.drop_area("bob|a")
    for number in range(50):
        tier.swapon(Client(f"alice|{number}", 1), "alice|a", 8, AreaOptions())
        tier.drop_area("alice|a")
    with pytest.raises(ClientReplaced):
        tier.swapon(Client("bob|host", 4), "bob|a", 8, AreaOptions())
    assert [len(account.epochs) for account in tier.accounts] == [1, 4]


def test_tenants_without_an_area_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_module, "ACCOUNTS_MAX", 3)
    tier = divided(areas_max=64)
    opened(tier, "stays")
    for number in range(9):
        opened(tier, f"passes-{number}")
        tier.drop_area(f"passes-{number}|a")
        tier.end_some()
        tier.check_invariants()
    assert {account.name for account in tier.accounts} == {"stays", "passes-7", "passes-8"}
    assert all(len(bound.parts) == 3 for bound in tier.accounts.bounds)


# All of it together

ITS_OFFSETS = st.integers(0, 7)
BOBS = st.tuples(st.sampled_from(["store", "shared", "exclusive", "claim", "acknowledge", "free"]), ITS_OFFSETS)
ALICES = st.tuples(st.sampled_from(["fill", "claim", "shrink", "close", "pass"]), st.integers(0, 3))


def act_greedily(tier: Tier, what: str, area_number: int) -> None:
    """Take what can be had, keep it from being written back, or give it up; no refusal is of interest."""
    name = f"alice|{area_number}"
    if what == "shrink":
        tier.shrink()
        return
    if what == "close":
        if name in tier.areas:
            tier.drop_area(name)
            tier.end_some()
        return
    with suppress(LimitReached):
        area = tier.areas.get(name) or opened(tier, "alice", str(area_number), slots=64, writeback=area_number < 2)
        if what == "fill":
            stored(area, range(64), area.held(63).generation + 1)
        for offset in range(64) if what == "claim" else ():
            check_load(area, [offset], [LoadMode.CLAIM])
            load(area, offset, 0, LoadMode.CLAIM, request_id=3)


def act(area: Area, what: str, offset: int) -> object:
    """Do something that stays within the share, and return the answer."""
    generation = area.held(offset).generation
    if what == "store":
        return put(area, offset, generation + 1, noise(generation))
    if what == "free":
        return invalidate(area, offset, generation)
    if what == "acknowledge":
        return acknowledge(area, offset, generation, 5)
    mode = LoadMode[what.upper()]
    check_load(area, [offset], [mode])
    return load(area, offset, generation, mode, request_id=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(BOBS, ALICES), max_size=30))
def test_within_its_share_a_tenant_is_answered_as_if_it_were_alone(
    steps: list[tuple[tuple[str, int], tuple[str, int]]],
) -> None:
    """Areas, slots, pool, devices and claims are all taken by the other, who lets nothing of them go."""
    limits = {"pool_bytes_max": 32 * PAGE_BYTES, "device_pages_max": 32, "leases_max": 32, "areas_max": 4}
    beside, alone = divided(2, **limits), divided(2, **limits)
    areas = [opened(tier, "bob", slots=8) for tier in (beside, alone)]
    for bobs, alices in steps:
        act_greedily(beside, *alices)
        answers = [act(area, *bobs) for area in areas]
        assert answers[0] == answers[1]
    beside.check_invariants()
