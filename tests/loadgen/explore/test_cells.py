"""Every policy in every world is what the specification says: in the quick worlds always, in all by `make explore`."""

import time
from dataclasses import replace
from functools import cache

import pytest
from tests.loadgen.explore.test_mutations import MUTATIONS

from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.explore.cell import Cell, Question, ask
from swaptier_loadgen.explore.expectation import LOSES, Expected, expected
from swaptier_loadgen.explore.search import Found, Limits, explore
from swaptier_loadgen.explore.violation import Kind, Violation
from swaptier_loadgen.explore.world import Bounds, World
from swaptier_loadgen.explore.worlds import WORLDS
from swaptier_loadgen.explore.worlds.paths import increment_page, reclaim, zap_page
from swaptier_loadgen.explore.worlds.spec import spawn_reclaim, spawn_threads

QUICK = (
    "double-fault",
    "aborted-install",
    "slot-reuse",
    "lost-reply",
    "retried-load",
    "delayed-invalidate",
)
SLOWER = ("reclaim-vs-fault", "fork-share", "early-lookup", "server-restart", "server-killed")
"""A policy takes seconds there: always asked are the original bug, the merged fix, and the two that keep every page."""
ALWAYS = ("exclusive", "exclusive-if-swapcache", "shared", "claim")
SAFE_AT_LARGE = ("cache-on-hit", "shared", "exclusive-if-swapcache", "no-bypass")
LARGE = Bounds(threads=3, slots=1, swap_outs=2, install_failures=1)


CELLS = [
    pytest.param(
        policy,
        world,
        marks=() if world in QUICK or (world in SLOWER and policy in ALWAYS) else pytest.mark.exhaustive,
    )
    for world in WORLDS
    for policy in POLICIES
]
CLEAN = list(dict.fromkeys((mutation.policy, mutation.world) for mutation in MUTATIONS))


@cache
def cell_of(policy: str, world: str) -> Cell:
    """Return what all schedules of a world come to; several tests look at one search."""
    return ask(Question(policy, world, WORLDS[world].bounds), now=time.process_time)


def check(policy: str, world: str) -> None:
    cell = cell_of(policy, world)
    assert cell.is_as_expected, f"{cell.verdict}, expected {cell.expected}: {cell.violation}\n{cell.question.command()}"
    assert cell.result.is_exhaustive or cell.violation is not None, f"cut off by {cell.result.bound}"


@pytest.mark.parametrize(("policy", "world"), CELLS)
def test_a_policy_does_in_a_world_what_its_specification_says(policy: str, world: str) -> None:
    """It loses a page in some schedule, or in none of all of them."""
    check(policy, world)


@pytest.mark.parametrize(("policy", "world"), CLEAN)
def test_the_worlds_of_the_mutations_accuse_nobody_when_nothing_is_broken(policy: str, world: str) -> None:
    """What a mutation is caught by, the real code passes, exhaustively."""
    cell = cell_of(policy, world)
    assert cell.result.is_exhaustive, cell.violation


@pytest.mark.exhaustive
@pytest.mark.parametrize("policy", SAFE_AT_LARGE)
def test_three_threads_two_swap_outs_and_a_failed_install_lose_nothing(policy: str) -> None:
    """Three threads increment one page whose slot is reused twice; one install fails. Exhaustive."""
    cell = ask(Question(policy, "slot-reuse", LARGE), now=time.process_time)
    assert cell.result.is_exhaustive, cell.verdict


@pytest.mark.exhaustive
def test_three_threads_and_a_zap_lose_nothing_on_a_device_that_is_not_synchronous() -> None:
    """The slot of the page that was claimed is freed and taken again before a fault locks the folio; all notice it.

    One schedule of it is in tests/client/mm/test_fault.py, always.
    """

    def build() -> World:
        world = World(POLICIES["claim"], Bounds(threads=3))
        there = world.add_host(is_synchronous=False)
        process = world.add_process(there)
        world.run_alone(there, increment_page(world, there, process, 0))
        world.run_alone(there, reclaim(there, 1))
        spawn_threads(world, there, process, "increment")
        world.spawn("zap", zap_page(world, there, process, 0), there)
        spawn_reclaim(world, there)
        return world

    result = explore(build, Limits(), now=time.process_time)
    assert result.found is None, result.found
    assert result.bound is None


def test_a_second_swap_out_takes_what_was_faulted_back_after_the_first() -> None:
    """Else a world whose page begins mapped never reuses the slot, and calls a policy safe that has no pin."""
    bounds = WORLDS["reclaim-vs-fault"].bounds
    assert bounds.swap_outs == 2
    assert ask(Question("shared-unpinned", "reclaim-vs-fault", bounds), now=time.process_time).violation is not None


@pytest.mark.exhaustive
@pytest.mark.parametrize("world", ["lease-end", "server-restart"])
def test_claim_keeps_the_page_of_two_threads_through_two_swap_outs(world: str) -> None:
    """Replies that are lost, leases that end, servers that die: at every point of it. Exhaustive."""
    bounds = replace(WORLDS[world].bounds, threads=2, swap_outs=2)
    cell = ask(Question("claim", world, bounds), now=time.process_time)
    assert cell.result.is_exhaustive, cell.violation


@pytest.mark.parametrize("world", ["lost-reply", "lease-end", "server-restart"])
def test_claim_keeps_a_page_that_two_processes_share(world: str) -> None:
    """It is claimed into the swapcache then, and acknowledged: in time, too late, or to a server that is gone."""
    bounds = replace(WORLDS[world].bounds, processes=2)
    cell = ask(Question("claim", world, bounds), now=time.process_time)
    assert cell.result.is_exhaustive, cell.violation
    assert cell.is_as_expected


@pytest.mark.parametrize("policy", ["store-back", *SAFE_AT_LARGE])
def test_an_answer_older_than_a_restart_is_not_believed(policy: str) -> None:
    """A store answered before the tier is killed and heard after: nobody maps zeros, the process is told at worst."""
    cell = ask(Question(policy, "server-killed", Bounds(threads=1, swap_outs=1)), now=time.process_time)
    assert cell.result.is_exhaustive, cell.violation


def test_a_page_that_a_durable_server_does_not_have_any_more_is_a_loss_although_it_is_told() -> None:
    """Nobody but the policy took it from there. Sharing the page, the merged fix takes it too."""
    bounds = replace(WORLDS["server-restart"].bounds, processes=2)
    for policy, within in (("exclusive", WORLDS["server-restart"].bounds), ("exclusive-if-swapcache", bounds)):
        cell = ask(Question(policy, "server-restart", within), now=time.process_time)
        assert cell.violation is not None and cell.violation.kind is Kind.LOST_PAGE and cell.is_as_expected
    assert expected(POLICIES["exclusive-if-swapcache"], "server-restart", bounds) is Expected.MAY_LOSE


def test_a_policy_that_tells_must_not_lose_within_other_bounds() -> None:
    """It may be that nobody has to be told there; to lose a page in silence is as wrong as within the world's own."""
    bounds = replace(WORLDS["server-killed"].bounds, processes=1)
    assert expected(POLICIES["claim"], "server-killed", bounds) is Expected.MAY_TELL
    cell = ask(Question("claim", "server-killed", bounds), now=time.process_time)
    assert cell.result.is_exhaustive and cell.is_as_expected
    lost = replace(cell.result, found=Found(Violation(Kind.LOST_PAGE, "v1 is gone"), ()))
    assert not replace(cell, result=lost).is_as_expected


def test_every_world_says_what_it_asks_and_who_loses_in_it() -> None:
    """A world without a question or without a row in the table is not finished."""
    assert set(LOSES) == set(WORLDS)
    for name, world in WORLDS.items():
        assert world.name == name
        assert world.question.endswith((":", "?", ".")) and "?" in (world.build.__doc__ or "")
        assert set(LOSES[name]) <= set(POLICIES)


def test_within_other_bounds_a_policy_that_can_lose_need_not() -> None:
    """The table is exact only for the bounds it was made for; a policy that must be safe must be so in all."""
    wider = WORLDS["double-fault"].bounds
    wider = Bounds(wider.threads, wider.processes, wider.slots, swap_outs=1, install_failures=1)
    assert expected(POLICIES["exclusive"], "double-fault", wider) is Expected.MAY_LOSE
    assert expected(POLICIES["shared"], "double-fault", wider) is Expected.SAFE
