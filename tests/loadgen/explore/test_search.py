"""The search finds the known bugs at once and by the shortest way, and does not lose a state by merging two."""

import time
from collections.abc import Callable
from itertools import count

import pytest

from swaptier_client.mm.folio import Folio
from swaptier_client.mm.policy import POLICIES
from swaptier_client.mm.swap_map import SwapSlot
from swaptier_loadgen.explore import state_key
from swaptier_loadgen.explore.cell import Question, ask
from swaptier_loadgen.explore.expectation import Expected, expected
from swaptier_loadgen.explore.search import Bound, Limits, Schedule, Transition, explore, replay
from swaptier_loadgen.explore.violation import Kind, Violation
from swaptier_loadgen.explore.walk import walk
from swaptier_loadgen.explore.world import Bounds, World
from swaptier_loadgen.explore.worlds import WORLDS
from swaptier_server.tier.load import load
from swaptier_wire.types import LoadMode

SLOT_FIELDS_LEFT_OUT = frozenset(
    ("duplication", "entry_bytes", "is_storing", "owners", "pool_loads", "was_rescued")  # only counters read them
)
SLOT_FIELDS_WRITTEN = frozenset(
    ("claim_id", "count", "entry", "folio", "generation", "has_cache", "in_doubt", "in_pool", "is_freeing", "is_zero",
     "lost", "on_device", "queue", "reader")
)  # fmt: skip
FOLIO_FIELDS_LEFT_OUT = frozenset(("backed_checksum",))
FOLIO_FIELDS_WRITTEN = frozenset(
    ("content", "dirty", "entry", "is_locked", "lock_queue", "mappings", "read_error", "readahead", "referenced",
     "refs", "source", "uptodate")
)  # fmt: skip

WORLDS_TO_A_KNOWN_BUG_MAX = 2_000
"""Worlds built, each replayed to one state: what a search costs, and within a second on any machine of today."""
PLAIN_RUNS_MAX = 60_000
"""Schedules of a world small enough to be enumerated one by one."""

PLAIN = [
    ("double-fault", Bounds(threads=2, swap_outs=0)),
    ("aborted-install", Bounds(threads=1, swap_outs=0, install_failures=1)),
    ("slot-reuse", Bounds(threads=1, swap_outs=1)),
    ("zap-vs-fault", Bounds(threads=1, swap_outs=0)),
    ("lost-reply", Bounds(threads=1, swap_outs=0, lost_replies=1)),
    ("server-restart", Bounds(threads=1, swap_outs=0)),
    ("server-killed", Bounds(threads=1, swap_outs=0)),
]


def build(policy: str, world: str, bounds: Bounds | None = None) -> Callable[[], World]:
    spec = WORLDS[world]
    return lambda: spec.build(POLICIES[policy], bounds or spec.bounds)


@pytest.mark.parametrize(
    ("policy", "world", "kind"),
    [
        ("exclusive", "aborted-install", Kind.LOST_PAGE),
        ("shared-unpinned", "slot-reuse", Kind.STALE_ZEROS),
        ("cache-on-hit-early", "early-lookup", Kind.LOST_PAGE),
    ],
)
def test_a_known_bug_is_found_after_few_states(policy: str, world: str, kind: Kind) -> None:
    """The seed's bug, slot reuse without a pin, and the look before the pin."""
    result = explore(build(policy, world), now=time.process_time)
    assert result.found is not None and result.found.violation.kind is kind
    assert result.replays < WORLDS_TO_A_KNOWN_BUG_MAX


def test_a_lost_update_by_slot_reuse_is_among_what_shared_unpinned_does() -> None:
    """The shortest way reads after the free; the kernel's own report read before it, and lost the newer version.

    Schedule: one thread reads v1 and stops before the page table; the other maps v1, writes v2, and reclaim gives v2
    the same slot; the first compares equal, maps v1 and frees the slot with v2 in it.
    """
    world = build("shared-unpinned", "slot-reuse")()
    world.start()
    slow, fast, reclaim = 0, 1, 2
    kinds: list[Kind] = []

    def step(task: int, times: int = 1) -> None:
        for _ in range(times):
            world.choices.begin(())
            try:
                world.step(task)
                world.check()
            except Violation as violation:
                kinds.append(violation.kind)

    step(slow, 3)
    while fast in world.enabled() and not kinds:
        step(fast)
    while reclaim in world.enabled() and not kinds:
        step(reclaim)
    step(slow)
    assert kinds == [Kind.LOST_UPDATE]


@pytest.mark.parametrize(("world", "bounds"), PLAIN, ids=[name for name, _ in PLAIN])
@pytest.mark.parametrize("policy", ["exclusive", "shared-unpinned", "cache-on-hit", "store-back", "no-bypass"])
def test_merging_states_changes_nothing_of_what_is_found(policy: str, world: str, bounds: Bounds) -> None:
    """Every schedule run one by one, without keys, finds a violation as early, or none, as the search does."""
    found = explore(build(policy, world, bounds), now=time.process_time).found
    plain, length = every_schedule(build(policy, world, bounds))
    assert (found is None) == (not plain)
    if found is not None:
        assert len(found.schedule) == length
        assert found.violation.kind in plain


def every_schedule(make: Callable[[], World]) -> tuple[set[Kind], int]:
    """Enumerate; return the kinds of the shortest violations and their length."""
    kinds: dict[int, set[Kind]] = {}
    runs = 0
    pending: list[Schedule] = [()]
    while pending:
        schedule = pending.pop()
        if kinds and len(schedule) > min(kinds):
            continue
        enabled = replay(make, schedule).enabled()
        for task in enabled:
            scripts: list[tuple[int, ...]] = [()]
            while scripts:
                runs += 1
                assert runs < PLAIN_RUNS_MAX, "not a world for plain enumeration"
                script = scripts.pop()
                world = replay(make, schedule)
                world.choices.begin(script)
                try:
                    world.step(task)
                    world.check()
                    if not world.enabled():
                        world.finish()
                except Violation as violation:
                    kinds.setdefault(len(schedule) + 1, set()).add(violation.kind)
                else:
                    pending.append((*schedule, Transition(task, script)))
                scripts += world.choices.alternatives()
    return (kinds[min(kinds)], min(kinds)) if kinds else (set(), 0)


def test_equal_states_reached_in_another_order_by_symmetric_threads_have_one_key() -> None:
    """Which of two equal threads is where does not matter."""
    one, other = build("shared", "slot-reuse")(), build("shared", "slot-reuse")()
    for world, task in ((one, 0), (other, 1)):
        world.start()
        for _ in range(2):
            world.choices.begin(())
            world.step(task)
    assert state_key.state_key(one) == state_key.state_key(other)
    other.step(1)
    assert state_key.state_key(one) != state_key.state_key(other)


def test_what_the_swap_file_holds_and_who_knows_of_which_server_is_in_the_key() -> None:
    """Two states that differ in nothing else go on differently."""
    worlds = [build("claim", "server-restart")() for _ in range(5)]
    for world in worlds:
        world.start()
    _, dropped, restarted, told, claimed = worlds
    dropped.hosts[0].network.areas[0].device.drop(0)
    for world in (restarted, told):
        world.server.restart()
    told.hosts[0].network.tell_of_restart()
    slot = claimed.hosts[0].host.devices[0].slots[0]
    load(claimed.hosts[0].network.areas[0], 0, slot.generation, LoadMode.CLAIM, request_id=9)
    assert len({state_key.state_key(world) for world in worlds}) == len(worlds)


def test_it_is_in_the_key_whether_the_lease_is_that_of_the_hosts_own_claim() -> None:
    """The claim's repeat is answered, or told that somebody else has the page."""
    keys = set()
    for request_id in (1, 2):
        world = build("claim", "lease-end")()
        world.start()
        slot = world.hosts[0].host.devices[0].slots[0]
        slot.claim_id = 1
        load(world.hosts[0].network.areas[0], 0, slot.generation, LoadMode.CLAIM, request_id=request_id)
        keys.add(state_key.state_key(world))
    assert len(keys) == 2


def test_every_field_of_a_slot_and_of_a_folio_is_in_the_key_or_left_out_on_purpose() -> None:
    """Who adds a field to mm must say whether a branch reads it; else two different states would become one."""
    assert set(SwapSlot.__slots__) == SLOT_FIELDS_WRITTEN | SLOT_FIELDS_LEFT_OUT
    assert set(Folio.__slots__) == FOLIO_FIELDS_WRITTEN | FOLIO_FIELDS_LEFT_OUT


def test_a_search_that_was_cut_off_says_by_what_and_is_not_exhaustive() -> None:
    """States, depth, seconds, preemptions: none of them may pass for a proof."""
    make = build("shared", "slot-reuse")
    for limits, bound in (
        (Limits(states_max=10), Bound.STATES),
        (Limits(depth_max=3), Bound.DEPTH),
        (Limits(preemptions=0), Bound.PREEMPTIONS),
    ):
        result = explore(make, limits, now=time.process_time)
        assert result.bound is bound
        assert not result.is_exhaustive
    ticks = iter(range(10**6))
    larger = build("shared", "fork-share")
    assert explore(larger, Limits(seconds_max=0.5), now=lambda: float(next(ticks))).bound is Bound.SECONDS


def test_an_interrupted_search_returns_what_it_covered() -> None:
    """Ctrl-C is an answer, and not one of "none"."""
    asked = count()
    make = build("cache-on-hit", "zap-vs-fault")
    result = explore(make, now=time.process_time, is_asked_to_end=lambda: next(asked) == 9)
    assert result.bound is Bound.INTERRUPTED
    assert result.states > 9 and not result.is_exhaustive
    walked = walk(make, 1, 50, now=time.process_time, is_asked_to_end=lambda: next(asked) == 30)
    assert (walked.bound, walked.replays) == (Bound.INTERRUPTED, 20)


def test_one_preemption_is_enough_for_the_seeds_bug_and_none_for_slot_reuse() -> None:
    """The bound counts switches away from a task that could go on: the ABA race needs two."""
    assert explore(build("exclusive", "aborted-install"), Limits(preemptions=0), now=time.process_time).found
    make = build("shared-unpinned", "slot-reuse")
    assert explore(make, Limits(preemptions=0), now=time.process_time).found is None
    assert explore(make, Limits(preemptions=2), now=time.process_time).found


def test_random_walks_find_the_bug_and_prove_nothing() -> None:
    """A walk's counterexample replays like any other."""
    make = build("exclusive", "aborted-install")
    result = walk(make, seed=7, walks=200, now=time.process_time)
    assert result.found is not None
    world = replay(make, result.found.schedule[:-1])
    last = result.found.schedule[-1]
    world.choices.begin(last.script)
    world.step(last.task)
    with pytest.raises(Violation, match="lost page"):
        world.check()
    clean = walk(build("shared", "aborted-install"), seed=7, walks=50, now=time.process_time)
    assert clean.found is None and clean.bound is Bound.WALKS and not clean.is_exhaustive


def test_a_policy_that_loads_exclusively_into_the_swapcache_loses_a_lost_reply_when_pages_are_shared() -> None:
    """exclusive-if-swapcache is spared only while its faults bypass."""
    bounds = Bounds(threads=1, processes=2, swap_outs=0, lost_replies=1)
    cell = ask(Question("exclusive-if-swapcache", "lost-reply", bounds), now=time.process_time)
    assert cell.violation is not None and cell.violation.kind is Kind.LOST_PAGE
    assert expected(POLICIES["exclusive-if-swapcache"], "lost-reply", bounds) is Expected.MAY_LOSE
    shared = ask(Question("shared", "lost-reply", bounds), now=time.process_time)
    assert shared.result.is_exhaustive
