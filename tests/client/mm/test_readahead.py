"""Readahead: which neighbours come along, into the swapcache only, at no cost to the page that was asked for."""

import pytest
from tests.client.mm.stage import Stage, TierFault

from swaptier_client.mm.effects import Batch, Effect, Invalidate, Load
from swaptier_client.mm.folio import Process
from swaptier_client.mm.policy import ERAS, POLICIES
from swaptier_client.mm.process import fork, zap
from swaptier_client.mm.readahead import Readahead, ReadaheadMode
from swaptier_client.mm.swapoff import swapoff
from swaptier_loadgen.measure.specification import page_version, swap_out_everything, write_all
from swaptier_wire.errors import TierUnreachable

PAGES = 8
SAFE = [name for name, policy in POLICIES.items() if policy.is_safe]


def swapped_out(policy: str, mode: ReadaheadMode, *, resident_pages_max: int = 64) -> tuple[Stage, Process]:
    """Return a stage with readahead whose process 1 has its PAGES pages in slots of the same number."""
    stage = Stage(POLICIES[policy], slots=64, resident_pages_max=resident_pages_max, readahead=Readahead(mode))
    stage.host.devices[0].is_synchronous = False
    process = stage.host.spawn()
    for address in range(PAGES):
        stage.do(stage.write(process, address, page_version(address, 1)))
        stage.do(swap_out_everything(stage.host))
    stage.requests.clear()
    return stage, process


def at_load(effect: Effect) -> bool:
    """The task asks the tier for pages."""
    return isinstance(effect, Batch) and isinstance(effect.requests[0], Load)


def offsets(stage: Stage) -> list[int]:
    """Return the slots that were loaded, in order."""
    return [request.entry.offset for request in stage.requests if isinstance(request, Load)]


def test_no_readahead_reads_one_page() -> None:
    """The default."""
    stage, process = swapped_out("shared", ReadaheadMode.NONE)
    stage.do(stage.read(process, 5))
    assert offsets(stage) == [5]


def test_a_cluster_is_an_aligned_window_of_slots_in_one_batch() -> None:
    """page-cluster 3: the eight slots around the faulting one, which comes first."""
    stage, process = swapped_out("shared", ReadaheadMode.CLUSTER)
    stage.do(stage.read(process, 5))
    assert offsets(stage) == [5, 0, 1, 2, 3, 4, 6, 7]
    assert stage.host.counters.swap_ra == 7
    stage.check()


def test_vma_readahead_follows_the_direction_of_the_faults() -> None:
    """The window lies before or behind the address, as the last two faults went, else around it."""
    stage, process = swapped_out("shared", ReadaheadMode.VMA)
    stage.do(stage.read(process, 4))
    assert offsets(stage)[0] == 4 and set(offsets(stage)) > {3, 4, 5}


def test_pages_read_ahead_are_found_and_counted_as_hits() -> None:
    """No second load, and the window knows that it guessed right."""
    stage, process = swapped_out("shared", ReadaheadMode.CLUSTER)
    for address in range(PAGES):
        assert stage.do(stage.read(process, address)) == page_version(address, 1)
    assert stage.host.counters.loads == PAGES
    assert stage.host.counters.swap_ra_hit == stage.host.counters.swap_ra == PAGES - 1
    stage.check()


BEFORE_F1879E8A0C60 = {(True, 1): 0, (True, 2): PAGES - 1, (False, 1): PAGES - 1, (False, 2): PAGES - 1}
SINCE_F1879E8A0C60 = {(True, 1): 0, (True, 2): 0, (False, 1): PAGES - 1, (False, 2): PAGES - 1}
"""Pages read ahead by a fault on a (synchronous?) device and a slot with that count."""


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(("is_synchronous", "count"), BEFORE_F1879E8A0C60)
def test_a_fault_reads_ahead_where_the_kernel_of_its_policy_does(
    name: str, count: int, *, is_synchronous: bool
) -> None:
    """Bypass or not, until f1879e8a0c60; then synchronous or not. All but no-bypass are of, or built on, the former."""
    expected = SINCE_F1879E8A0C60 if POLICIES[name] is ERAS["next"] else BEFORE_F1879E8A0C60
    stage, process = swapped_out(name, ReadaheadMode.CLUSTER)
    stage.host.devices[0].is_synchronous = is_synchronous
    for _ in range(count - 1):
        stage.do(fork(stage.host, process))
    stage.do(stage.read(process, 5))
    assert stage.host.counters.swap_ra == expected[is_synchronous, count]
    assert len(offsets(stage)) == 1 + expected[is_synchronous, count]
    stage.check()


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("is_synchronous", [False, True])
def test_swapoff_reads_ahead_on_every_device_in_every_era(era: str, *, is_synchronous: bool) -> None:
    """unuse_pte_range() calls swapin_readahead(), before f1879e8a0c60 and since: one batch brings all eight pages."""
    stage, process = swapped_out(ERAS[era].name, ReadaheadMode.CLUSTER)
    stage.host.devices[0].is_synchronous = is_synchronous
    stage.do(swapoff(stage.host, stage.host.devices[0]))
    assert sorted(offsets(stage)) == list(range(PAGES))
    assert stage.host.counters.swap_ra == stage.host.counters.swap_ra_hit == PAGES - 1
    for address in range(PAGES):
        assert stage.do(stage.read(process, address)) == page_version(address, 1)
    stage.check()


@pytest.mark.parametrize(("policy", "stores"), [("shared", 0), ("exclusive-if-swapcache", PAGES - 1)])
def test_a_wrong_guess_costs_a_recompression_under_exclusive_loads_only(policy: str, stores: int) -> None:
    """Pages nobody asked for: dirty and stored again where the load took the only copy, dropped where it did not."""
    stage, process = swapped_out(policy, ReadaheadMode.CLUSTER)
    stage.do(stage.read(process, 0))
    before = stage.host.counters.wasted_recompress
    stage.do(zap(stage.host, process, [0]))
    stage.do(swap_out_everything(stage.host))
    assert stage.host.counters.wasted_recompress - before == stores
    for address in range(1, PAGES):
        assert stage.do(stage.read(process, address)) == page_version(address, 1)
    stage.check()


def test_a_speculation_reclaims_nothing() -> None:
    """Memory for two pages: the fault gets its page, one neighbour fits, and no page is reclaimed for the others."""
    stage, process = swapped_out("shared", ReadaheadMode.CLUSTER, resident_pages_max=2)
    stage.do(stage.read(process, 0))
    assert len(offsets(stage)) == 2
    stage.check()


@pytest.mark.parametrize("policy", SAFE)
def test_a_neighbour_that_cannot_be_read_costs_the_fault_nothing(policy: str) -> None:
    """Its load is refused: it goes back to being swapped out, and the page that was asked for is there."""
    stage, process = swapped_out(policy, ReadaheadMode.CLUSTER)
    stage.fault = lambda request: TierFault.REFUSED if request.entry.offset == 3 else None
    assert stage.do(stage.read(process, 0)) == page_version(0, 1)
    stage.fault = lambda request: None
    stage.check()
    assert stage.do(stage.read(process, 3)) == page_version(3, 1)
    stage.check()


@pytest.mark.parametrize("policy", SAFE)
def test_neighbours_come_even_if_the_page_itself_does_not(policy: str) -> None:
    """The load of the page is refused: the fault gets the error, and a neighbour is in the swapcache all the same."""
    stage, process = swapped_out(policy, ReadaheadMode.CLUSTER)
    stage.fault = lambda request: TierFault.REFUSED if request.entry.offset == 0 else None
    with pytest.raises(TierUnreachable):
        stage.do(stage.read(process, 0))
    stage.check()
    loads = stage.host.counters.loads
    assert stage.do(stage.read(process, 3)) == page_version(3, 1)
    assert stage.host.counters.loads == loads
    stage.check()


def test_a_neighbour_discarded_while_it_was_read_is_dropped_by_reclaim() -> None:
    """Zapped while its folio was locked: nobody names the slot, and reclaim gives it up."""
    stage, process = swapped_out("exclusive-if-swapcache", ReadaheadMode.CLUSTER)
    reader = stage.spawn("T1", stage.read(process, 0))
    stage.lockstep.run_until(reader, at_load)
    stage.do(zap(stage.host, process, [3]))
    stage.check()
    stage.lockstep.finish(reader)
    assert stage.slot(3).folio is not None
    stage.do(swap_out_everything(stage.host))
    assert not stage.slot(3).has_cache
    stage.check()


def test_a_neighbour_whose_slot_cannot_be_freed_leaves_no_reference_behind() -> None:
    """Its load fails, it was zapped meanwhile, the tier cannot be told: the fault ends so, holding nothing."""
    stage, process = swapped_out("shared", ReadaheadMode.CLUSTER)
    stage.fault = lambda request: TierFault.REFUSED if request.entry.offset == 3 else None
    reader = stage.spawn("T1", stage.read(process, 0))
    stage.lockstep.run_until(reader, at_load)
    stage.do(zap(stage.host, process, [3]))
    with pytest.raises(TierUnreachable):
        stage.lockstep.finish(reader)
    assert any(isinstance(request, Invalidate) for request in stage.requests)
    stage.check()
    assert stage.do(stage.read(process, 0)) == page_version(0, 1)


def test_a_page_read_ahead_waits_for_whoever_wants_it_next() -> None:
    """T2 faults on a neighbour while T1's batch is under way: it sleeps on that folio's lock, and loads nothing."""
    stage, parent = swapped_out("no-bypass", ReadaheadMode.CLUSTER)
    child = stage.do(fork(stage.host, parent))
    first = stage.spawn("T1", stage.read(parent, 0))
    stage.lockstep.run_until(first, at_load)
    second = stage.spawn("T2", stage.read(child, 3))
    stage.lockstep.run()
    assert first.result == page_version(0, 1) and second.result == page_version(3, 1)
    assert stage.host.counters.loads == PAGES
    stage.check()


def test_the_window_shrinks_by_half_while_nothing_that_was_read_ahead_is_wanted() -> None:
    """Faults far apart: 8, then 4, 2 and 1."""
    stage = Stage(POLICIES["shared"], slots=256, readahead=Readahead(ReadaheadMode.CLUSTER))
    stage.host.devices[0].is_synchronous = False
    process = stage.host.spawn()
    stage.do(write_all(stage.host, process, 32, version=1))
    stage.do(swap_out_everything(stage.host))
    readahead = stage.host.readahead
    widths = [
        len(readahead.neighbours(stage.host.devices, process, 0, stage.slot(at))) + 1 for at in (0, 100, 50, 150, 20)
    ]
    assert widths == [8, 4, 2, 1, 1]
