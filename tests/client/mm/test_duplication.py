"""Pages held twice: why, how many bytes, and for how long, with a clock set by hand. KERNEL.md 6.1 and 3.4."""

import pytest
from tests.client.mm.stage import Stage, at_preempt

from swaptier_client.mm.counters import InstallFailure
from swaptier_client.mm.duplication import DuplicationCause
from swaptier_client.mm.effects import Batch, Effect, Load
from swaptier_client.mm.folio import Process
from swaptier_client.mm.policy import POLICIES
from swaptier_client.mm.process import exit_process, fork
from swaptier_client.mm.reclaim import swap_out
from swaptier_loadgen.measure.specification import page_version, swap_out_everything
from swaptier_wire.types import PAGE_BYTES

OLD = page_version(0, 1)
SECOND = 1_000_000_000
AT_READ = at_preempt("swap_in.read")


def swapped_out(policy: str) -> tuple[Stage, Process]:
    """Return a stage whose process 1 has page 0, OLD, in slot 0."""
    stage = Stage(POLICIES[policy])
    process = stage.host.spawn()
    stage.do(stage.write(process, 0, OLD))
    stage.do(swap_out_everything(stage.host))
    return stage, process


def at_load(effect: Effect) -> bool:
    """The task asks the tier for a page."""
    return isinstance(effect, Load) or (isinstance(effect, Batch) and isinstance(effect.requests[0], Load))


def held(stage: Stage) -> dict[DuplicationCause, int]:
    """Return the gauges that are not 0."""
    return {cause: pages for cause, pages, _ in stage.host.duplication.rows() if pages}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_page_is_held_twice_while_its_folio_is_filled(policy: str) -> None:
    """In flight, for every policy that pins or caches; an unpinned read is bound to nothing and so not counted."""
    stage, process = swapped_out(policy)
    reader = stage.spawn("T1", stage.read(process, 0))
    stage.lockstep.run_until(reader, at_load)
    stage.now_ns += 3 * SECOND
    assert held(stage) == ({DuplicationCause.LOAD_INFLIGHT: 1} if POLICIES[policy].pins else {})
    seconds = stage.host.duplication.page_seconds(DuplicationCause.LOAD_INFLIGHT)
    assert seconds == (3.0 if POLICIES[policy].pins else 0.0)
    stage.check()


@pytest.mark.parametrize(
    ("policy", "is_held_twice"),
    [
        ("shared", True),
        ("exclusive-if-swapcache", True),
        ("exclusive", False),
        ("cache-on-hit", False),
        ("store-back", False),
        ("no-bypass", False),
    ],
)
def test_a_fault_delayed_after_its_load_holds_the_page_twice_under_shared_loads(
    policy: str, *, is_held_twice: bool
) -> None:
    """T1 has the page and is held up for five seconds: d and e pay five page-seconds, the others none."""
    stage, process = swapped_out(policy)
    reader = stage.spawn("T1", stage.read(process, 0))
    stage.lockstep.run_until(reader, AT_READ)
    stage.now_ns += 5 * SECOND
    stage.lockstep.finish(reader)
    stage.now_ns += 7 * SECOND
    assert stage.host.duplication.page_seconds(DuplicationCause.LOAD_SHARED) == (5.0 if is_held_twice else 0.0)
    assert held(stage) == {}, "mapped: the slot is gone"
    stage.check()


def test_shared_loads_hold_a_forked_page_twice_until_its_last_user_is_gone() -> None:
    """The d of the specification: one duplicate for the whole gap between the two faults, and after them."""
    stage, parent = swapped_out("shared")
    child = stage.do(fork(stage.host, parent))
    stage.do(stage.read(parent, 0))
    stage.now_ns += 2 * SECOND
    stage.do(stage.read(child, 0))
    stage.now_ns += 2 * SECOND
    ledger = stage.host.duplication
    length = stage.slot().entry_bytes
    assert length > 0
    assert (ledger.pages_total, ledger.waste_bytes, ledger.bytes) == (1, length, PAGE_BYTES + length)
    assert ledger.page_seconds(DuplicationCause.LOAD_SHARED) == 4.0
    stage.do(exit_process(stage.host, parent))
    stage.do(exit_process(stage.host, child))
    assert (ledger.pages_total, ledger.waste_bytes, ledger.bytes) == (0, 0, 0)
    assert ledger.pages_peak == 1
    stage.check()


def test_a_shared_page_written_in_place_is_held_twice_and_stale() -> None:
    """The entry is an older version from the first write on; the memory it takes is wasted all the same."""
    stage, process = swapped_out("shared")
    stage.host.devices[0].is_synchronous = False
    stage.do(stage.read(process, 0))
    assert held(stage) == {DuplicationCause.LOAD_SHARED: 1}
    stage.now_ns += SECOND
    stage.do(stage.write(process, 0, page_version(0, 2)))
    assert held(stage) == {DuplicationCause.LOAD_SHARED_STALE: 1}
    stage.now_ns += SECOND
    stage.check()
    stage.do(swap_out(stage.host))
    ledger = stage.host.duplication
    assert ledger.page_seconds(DuplicationCause.LOAD_SHARED) == 1.0
    assert ledger.page_seconds(DuplicationCause.LOAD_SHARED_STALE) == 1.0
    assert held(stage) == {}


def test_a_store_holds_a_page_twice_until_its_folio_is_dropped() -> None:
    """Also under exclusive loads: their duplication is not exactly zero (KERNEL.md 3.4)."""
    stage = Stage(POLICIES["no-bypass"])
    process = stage.host.spawn()
    stage.do(stage.write(process, 0, OLD))
    reclaim = stage.spawn("reclaim", swap_out(stage.host))
    stage.lockstep.run_until(reclaim, at_preempt("swap_out.written"))
    stage.now_ns += SECOND
    stage.lockstep.finish(reclaim)
    stage.now_ns += SECOND
    assert stage.host.duplication.page_seconds(DuplicationCause.STORE_INFLIGHT) == 1.0
    assert stage.host.duplication.pages_peak == 1


def test_a_stored_page_that_a_fault_took_back_is_held_twice_for_long() -> None:
    """From the fault on it is a rescue; it ends when the page is written out and dropped, or written to."""
    stage = Stage(POLICIES["no-bypass"], slots=64)
    process = stage.host.spawn()
    stage.do(stage.write(process, 0, OLD))
    child = stage.do(fork(stage.host, process))
    reclaim = stage.spawn("reclaim", swap_out(stage.host))
    stage.lockstep.run_until(reclaim, at_preempt("swap_out.written"))
    stage.now_ns += SECOND
    stage.do(stage.read(process, 0))
    stage.now_ns += SECOND
    assert held(stage) == {DuplicationCause.STORE_RESCUED: 1}
    stage.lockstep.finish(reclaim)
    stage.now_ns += SECOND
    ledger = stage.host.duplication
    assert ledger.page_seconds(DuplicationCause.STORE_INFLIGHT) == 1.0
    assert ledger.page_seconds(DuplicationCause.STORE_RESCUED) == 2.0
    stage.do(stage.read(child, 0))
    assert held(stage) == {}, "its last user gave the slot up"
    stage.check()


def test_an_abandoned_shared_load_ends_the_duplicate() -> None:
    """The private copy is dropped, the tier's stays: one copy again."""
    stage, process = swapped_out("exclusive-if-swapcache")
    stage.failures.arm(0, InstallFailure.LOCK_CONTENDED)
    reader = stage.spawn("T1", stage.read(process, 0))
    stage.lockstep.run_until(reader, AT_READ)
    stage.now_ns += SECOND
    stage.lockstep.run_until(reader, at_preempt("swap_in.allocated"))
    assert held(stage) == {}
    stage.now_ns += SECOND
    assert stage.host.duplication.page_seconds(DuplicationCause.LOAD_SHARED) == 1.0
    stage.check()


def test_an_entry_that_outlives_its_slot_is_an_orphan_and_not_a_duplicate() -> None:
    """The page is mapped and its slot freed: until the tier is told, its entry is bound to nothing."""
    stage, process = swapped_out("shared")
    reader = stage.spawn("T1", stage.read(process, 0))
    stage.lockstep.run_until(reader, AT_READ)
    stage.lockstep.step(reader)
    assert held(stage) == {}
    assert len(stage.host.orphans) == 1
    stage.lockstep.finish(reader)
    assert len(stage.host.orphans) == 0
    stage.check()


def test_a_new_length_of_a_duplicate_is_a_new_waste() -> None:
    """The ledger follows the bytes of a duplicate whose cause stays the same."""
    stage, parent = swapped_out("shared")
    stage.do(fork(stage.host, parent))
    stage.do(stage.read(parent, 0))
    slot = stage.slot()
    slot.entry_bytes += 100
    stage.host.duplication.observe(slot)
    assert stage.host.duplication.waste_bytes == slot.entry_bytes
    assert held(stage) == {DuplicationCause.LOAD_SHARED: 1}
