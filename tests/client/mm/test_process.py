"""Fork, zap, move and exit: who still owns a page, and what is left when nobody does."""

import pytest
from tests.client.mm.stage import Stage, at_preempt, at_wait

from swaptier_client.mm.effects import Batch, Invalidate, Store
from swaptier_client.mm.errors import NotMapped, OutOfMemory
from swaptier_client.mm.folio import PresentPte, Process, SwapPte
from swaptier_client.mm.policy import POLICIES
from swaptier_client.mm.process import exit_process, fork, move, move_unguarded, zap
from swaptier_client.mm.reclaim import swap_out
from swaptier_client.mm.swap_map import SWAP_MAP_MAX
from swaptier_loadgen.measure.specification import page_version, swap_out_everything, write_all
from swaptier_wire.types import ZERO_PAGE

OLD, NEW = page_version(0, 1), page_version(0, 2)


def with_swapped_page(policy: str) -> tuple[Stage, Process]:
    """Return a stage whose process 1 has page 0, OLD, in slot 0."""
    stage = Stage(POLICIES[policy])
    process = stage.host.spawn()
    stage.do(stage.write(process, 0, OLD))
    stage.do(swap_out_everything(stage.host))
    return stage, process


def test_a_page_that_leaves_the_swapcache_by_its_last_zap_is_uncharged_once() -> None:
    """The parent's mapping is the last use of folio and slot at once: one page fewer is resident, not two."""
    stage = Stage(POLICIES["shared"])
    parent = stage.host.spawn()
    stage.do(stage.write(parent, 0, page_version(0, 1)))
    stage.do(swap_out_everything(stage.host))
    child = stage.do(fork(stage.host, parent))
    stage.do(stage.read(parent, 0))
    slot = stage.host.devices[0].slots[0]
    assert slot.folio is not None and slot.count == 1, "cached, and the child still names the slot"
    # The child goes while reclaim has the folio locked, so that the slot stays for the parent to give up.
    slot.folio.trylock()
    stage.do(exit_process(stage.host, child))
    slot.folio.unlock()
    stage.check()
    stage.do(zap(stage.host, parent, [0]))
    assert stage.host.resident_pages == 0
    stage.check()


# Fork


@pytest.mark.parametrize("policy", POLICIES)
def test_fork_shares_mapped_and_swapped_pages_until_someone_writes(policy: str) -> None:
    """Both see the old content, no page is copied or loaded by the fork itself, and neither sees the other's writes."""
    stage = Stage(POLICIES[policy])
    parent = stage.host.spawn()
    stage.do(write_all(stage.host, parent, 2, version=1))
    stage.do(swap_out(stage.host, 1))
    stage.requests.clear()
    resident = stage.host.resident_pages
    child = stage.do(fork(stage.host, parent))
    assert stage.host.resident_pages == resident and stage.requests == []
    stage.check()
    for address in (0, 1):
        stage.do(stage.write(child, address, page_version(address, 2)))
    stage.do(swap_out_everything(stage.host))
    for address in (0, 1):
        assert stage.do(stage.read(parent, address)) == page_version(address, 1)
        assert stage.do(stage.read(child, address)) == page_version(address, 2)
    stage.check()


def test_fork_makes_nothing_exclusive_any_more() -> None:
    """A swap entry loses its exclusive bit and its slot gains a user; a mapped page becomes read-only, in both."""
    stage, parent = with_swapped_page("shared")
    stage.do(stage.write(parent, 1, NEW))
    child = stage.do(fork(stage.host, parent))
    assert parent.page_table[0] == child.page_table[0]
    for process in (parent, child):
        swapped, mapped = process.page_table[0], process.page_table[1]
        assert isinstance(swapped, SwapPte) and not swapped.exclusive
        assert isinstance(mapped, PresentPte) and not (mapped.exclusive or mapped.writable)
    assert stage.slot().count == 2
    stage.check()


def test_a_page_that_two_processes_name_is_not_read_around_the_swapcache() -> None:
    """More than one user: no bypass, so an exclusive load takes the page for both."""
    stage, parent = with_swapped_page("exclusive")
    stage.do(fork(stage.host, parent))
    stage.do(stage.read(parent, 0))
    assert stage.slot().folio is not None


def test_fork_waits_for_faults_of_the_parent_and_keeps_new_ones_out() -> None:
    """T1 reads its page under a pin: the fork may not add a user to that slot; T2's fault waits for the fork."""
    stage, parent = with_swapped_page("exclusive")
    reader = stage.spawn("T1", stage.read(parent, 0))
    stage.lockstep.run_until(reader, at_preempt("swap_in.read"))
    forking = stage.spawn("fork", fork(stage.host, parent))
    stage.lockstep.run_until(forking, at_wait)
    late = stage.spawn("T2", stage.read(parent, 0))
    stage.lockstep.run_until(late, at_wait)
    stage.check()
    stage.lockstep.run()
    assert reader.result == late.result == OLD
    child = max(stage.host.processes.values(), key=lambda process: process.pid)
    assert child is forking.result and stage.do(stage.read(child, 0)) == OLD
    stage.check()


def test_a_dead_process_does_not_fork() -> None:
    """The exit got the lock first: the fork is told so, and there is no child."""
    stage, parent = with_swapped_page("shared")
    reader = stage.spawn("T1", stage.read(parent, 0))
    stage.lockstep.run_until(reader, at_preempt("swap_in.read"))
    leaving = stage.spawn("exit", exit_process(stage.host, parent))
    stage.lockstep.run_until(leaving, at_wait)
    forking = stage.spawn("fork", fork(stage.host, parent))
    stage.lockstep.run_until(forking, at_wait)
    with pytest.raises(NotMapped):
        stage.lockstep.run()
    assert stage.host.processes == {}
    stage.check()


def test_a_slot_with_as_many_users_as_it_can_have_stops_the_fork() -> None:
    """SWAP_MAP_MAX users: OutOfMemory, and neither a slot nor a page changed."""
    stage, parent = with_swapped_page("shared")
    for _ in range(SWAP_MAP_MAX - 1):
        stage.do(fork(stage.host, parent))
    with pytest.raises(OutOfMemory):
        stage.do(fork(stage.host, parent))
    assert stage.slot().count == SWAP_MAP_MAX and len(stage.host.processes) == SWAP_MAP_MAX
    stage.check()


# Zap


def test_a_zapped_page_is_forgotten_by_everybody() -> None:
    """The slot is free, the tier was told before that, and the address reads as zeros."""
    stage, process = with_swapped_page("shared")
    zapping = stage.spawn("zap", zap(stage.host, process, [0]))
    stage.lockstep.run_until(zapping, lambda effect: isinstance(effect, Batch))
    assert isinstance(stage.requests[-1], Invalidate)
    assert stage.slot().is_pinned and len(stage.host.orphans) == 1, "told, and not reusable before the answer"
    stage.check()
    stage.lockstep.finish(zapping)
    assert not stage.slot().has_cache and not stage.tier_has(stage.slot())
    assert stage.do(stage.read(process, 0)) == ZERO_PAGE
    stage.check()


def test_a_slot_is_not_given_out_before_the_tier_has_forgotten_its_page() -> None:
    """The invalidation is under way: reclaim takes another slot; at the tier it arrives before the next store to it."""
    stage, process = with_swapped_page("shared")
    zapping = stage.spawn("zap", zap(stage.host, process, [0]))
    stage.lockstep.run_until(zapping, lambda effect: isinstance(effect, Batch))
    stage.do(stage.write(process, 1, NEW))
    stage.do(swap_out_everything(stage.host))
    assert stage.slot(1).count == 1, "slot 0 would have been next"
    stage.lockstep.finish(zapping)
    stage.do(stage.write(process, 2, NEW))
    stage.do(swap_out_everything(stage.host))
    of_slot_0 = [type(request) for request in stage.requests if request.entry.offset == 0]
    assert of_slot_0 == [Store, Invalidate, Store]
    stage.check()


def test_zapping_one_sharer_leaves_the_page_to_the_other() -> None:
    """A count, not a flag."""
    stage, parent = with_swapped_page("exclusive-if-swapcache")
    child = stage.do(fork(stage.host, parent))
    stage.do(zap(stage.host, parent, [0]))
    assert stage.slot().count == 1 and stage.tier_has(stage.slot())
    assert stage.do(stage.read(child, 0)) == OLD
    stage.check()


def test_a_zap_while_the_page_is_read_through_the_swapcache_leaves_it_to_reclaim() -> None:
    """T1's folio is locked: the zap cannot free it; T1 finds its entry gone, and reclaim drops folio and slot."""
    stage, process = with_swapped_page("no-bypass")
    reader = stage.spawn("T1", stage.read(process, 0))
    stage.lockstep.run_until(reader, lambda effect: isinstance(effect, Batch))
    stage.do(zap(stage.host, process, [0]))
    assert stage.slot().folio is not None and stage.slot().count == 0
    stage.check()
    assert stage.lockstep.finish(reader) == ZERO_PAGE
    assert stage.host.counters.discarded == 1
    stage.do(swap_out_everything(stage.host))
    assert not stage.slot().has_cache
    stage.check()


# Move


def test_a_swapped_page_moves_with_its_entry() -> None:
    """UFFDIO_MOVE of a page that nobody reads: same slot, other address; the old one is empty."""
    stage, process = with_swapped_page("exclusive-if-swapcache")
    assert move(stage.host, process, 0, 7)
    assert stage.slot().owners == [(process.pid, 7)]
    assert stage.do(stage.read(process, 7)) == OLD
    assert stage.do(stage.read(process, 0)) == ZERO_PAGE
    stage.check()


def test_a_page_does_not_move_while_its_slot_is_pinned_or_cached() -> None:
    """-EAGAIN: a fault in flight looks for its entry only at the old address, and would drop its page there."""
    stage, process = with_swapped_page("exclusive")
    reader = stage.spawn("T1", stage.read(process, 0))
    stage.lockstep.run_until(reader, at_preempt("swap_in.read"))
    assert not move(stage.host, process, 0, 7)
    assert stage.lockstep.finish(reader) == OLD
    assert not move(stage.host, process, 0, 7), "mapped now"
    stage.check()


def test_a_page_moved_under_a_fault_is_lost_where_moving_is_not_refused() -> None:
    """As before 0ea148a79919: the exclusive load's page is dropped at the old address; the new one reads zeros."""
    stage, process = with_swapped_page("exclusive")
    reader = stage.spawn("T1", stage.read(process, 0))
    stage.lockstep.run_until(reader, at_preempt("swap_in.read"))
    move_unguarded(stage.host, process, 0, 7)
    assert stage.lockstep.finish(reader) == ZERO_PAGE
    assert stage.do(stage.read(process, 7)) == ZERO_PAGE, "lost"
    assert stage.dropped == [stage.slot()]


def test_a_page_does_not_move_onto_another() -> None:
    """The target must be empty, the source swapped out."""
    stage, process = with_swapped_page("shared")
    stage.do(stage.write(process, 1, NEW))
    assert not move(stage.host, process, 0, 1)
    assert not move(stage.host, process, 1, 5)
    assert not move(stage.host, process, 9, 5)
    stage.check()


# Exit


@pytest.mark.parametrize("policy", POLICIES)
def test_exit_leaves_nothing_behind(policy: str) -> None:
    """Mapped, cached and swapped pages: after the last exit no page is resident and the tier is empty."""
    stage = Stage(POLICIES[policy])
    parent = stage.host.spawn()
    stage.do(write_all(stage.host, parent, 4, version=1))
    stage.do(swap_out_everything(stage.host))
    child = stage.do(fork(stage.host, parent))
    stage.do(stage.read(parent, 0))
    stage.do(stage.read(child, 0))
    stage.do(stage.write(child, 1, NEW))
    stage.do(stage.read(parent, 2))
    for process in (parent, child):
        stage.do(exit_process(stage.host, process))
        stage.check()
    assert stage.host.resident_pages == 0
    assert stage.host.devices[0].slots_in_use == 0
    assert stage.areas[0].stored_pages == 0


def test_exit_waits_for_running_faults_and_ends_those_that_come_later() -> None:
    """T1 is in the middle of a fault: the exit waits for it; T2 waits behind the exit and is told that it is over."""
    stage, process = with_swapped_page("exclusive-if-swapcache")
    early = stage.spawn("T1", stage.read(process, 0))
    stage.lockstep.run_until(early, at_preempt("swap_in.read"))
    leaving = stage.spawn("exit", exit_process(stage.host, process))
    stage.lockstep.run_until(leaving, at_wait)
    late = stage.spawn("T2", stage.read(process, 0))
    stage.lockstep.run_until(late, at_wait)
    with pytest.raises(NotMapped):
        stage.lockstep.run()
    assert early.result == OLD and isinstance(late.error, NotMapped) and leaving.error is None
    assert stage.host.processes == {} and stage.host.resident_pages == 0
    stage.check()


def test_a_second_exit_finds_nothing_to_do() -> None:
    """Two threads of a process exit at once."""
    stage, process = with_swapped_page("shared")
    stage.do(exit_process(stage.host, process))
    stage.do(exit_process(stage.host, process))
    stage.check()
