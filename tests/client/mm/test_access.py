"""First touches and writes to read-only pages: who gets a copy, who gets the page, what waiting changes."""

import pytest
from tests.client.mm.stage import Stage, at_preempt, at_wait

from swaptier_client.mm.duplication import DuplicationCause
from swaptier_client.mm.errors import OutOfMemory
from swaptier_client.mm.folio import PresentPte
from swaptier_client.mm.policy import POLICIES
from swaptier_client.mm.process import fork, zap
from swaptier_client.mm.reclaim import swap_out
from swaptier_loadgen.measure.specification import page_version, swap_out_everything
from swaptier_wire.types import ZERO_PAGE

OLD, NEW = page_version(0, 1), page_version(0, 2)


def test_a_page_never_touched_reads_as_zeros() -> None:
    """And asks the tier nothing."""
    stage = Stage(POLICIES["shared"])
    process = stage.host.spawn()
    assert stage.do(stage.read(process, 7)) == ZERO_PAGE
    assert stage.host.counters.minor_faults == 1
    assert stage.requests == []
    stage.check()


def test_a_write_after_fork_leaves_the_other_process_its_page() -> None:
    """Copy on write: whoever writes first gets the copy, the other keeps the page and later reuses it."""
    stage = Stage(POLICIES["shared"])
    parent = stage.host.spawn()
    stage.do(stage.write(parent, 0, OLD))
    child = stage.do(fork(stage.host, parent))
    assert stage.host.resident_pages == 1, "shared"
    stage.do(stage.write(child, 0, NEW))
    assert stage.host.resident_pages == 2
    assert stage.do(stage.read(parent, 0)) == OLD
    assert stage.do(stage.read(child, 0)) == NEW
    stage.do(stage.write(parent, 0, NEW))
    assert stage.host.resident_pages == 2, "its last user took the page instead of copying it"
    stage.check()


def test_a_copy_that_cannot_be_charged_leaves_nothing_behind() -> None:
    """Memory is taken and nothing can be swapped out: the write fails, both pages stay, and no reference is lost."""
    stage = Stage(POLICIES["shared"], slots=1, resident_pages_max=2)
    parent = stage.host.spawn()
    stage.do(stage.write(parent, 0, OLD))
    stage.do(stage.write(parent, 1, OLD))
    stage.do(swap_out(stage.host, 1))
    stage.do(stage.write(parent, 2, OLD))
    child = stage.do(fork(stage.host, parent))
    mapped = next(address for address, pte in child.page_table.items() if isinstance(pte, PresentPte))
    with pytest.raises(OutOfMemory):
        stage.do(stage.write(child, mapped, NEW))
    stage.check()


def test_a_page_zapped_while_its_copy_is_charged_is_not_mapped_again() -> None:
    """T1 copies and waits in reclaim; T2 zaps the address; T1 finds its entry gone and faults on a page of zeros."""
    stage = Stage(POLICIES["shared"], resident_pages_max=2)
    parent = stage.host.spawn()
    stage.do(stage.write(parent, 0, OLD))
    child = stage.do(fork(stage.host, parent))
    stage.do(stage.write(parent, 1, OLD))
    writer = stage.spawn("T1", stage.write(child, 0, NEW))
    stage.lockstep.run_until(writer, at_preempt("swap_out.isolated"))
    stage.do(zap(stage.host, child, [0]))
    stage.check()
    stage.lockstep.finish(writer)
    assert stage.do(stage.read(child, 0)) == NEW
    assert stage.do(stage.read(parent, 0)) == OLD
    stage.check()


def test_a_copy_waits_for_no_page_that_another_copy_holds() -> None:
    """T1 and T2 each copy a page and wait for memory, both pages are zapped meanwhile: nobody is left to wait for.

    The pages they hold are private then, as those of a fault that is about to map; but these two will not give theirs
    back before they get more memory. Both must end, here with no memory.
    """
    stage = Stage(POLICIES["shared"], slots=1, resident_pages_max=2)
    parent = stage.host.spawn()
    stage.do(stage.write(parent, 0, OLD))
    stage.do(stage.write(parent, 1, OLD))
    child = stage.do(fork(stage.host, parent))
    copiers = [stage.spawn(f"T{at}", stage.write(child, at, NEW)) for at in (0, 1)]
    stage.lockstep.run_until(copiers[0], at_preempt("swap_out.written"))
    stage.lockstep.run_until(copiers[1], at_wait)
    for process in (parent, child):
        stage.do(zap(stage.host, process, [0, 1]))
    stage.check()
    with pytest.raises(OutOfMemory):
        stage.lockstep.run()
    stage.check()


def test_the_last_writer_of_a_cached_page_takes_it_and_frees_its_slot() -> None:
    """wp_can_reuse_anon_folio(): no copy, the slot goes, the tier is told, and the page is dirty from now on."""
    stage = Stage(POLICIES["shared"])
    parent = stage.host.spawn()
    stage.do(stage.write(parent, 0, OLD))
    stage.do(swap_out_everything(stage.host))
    child = stage.do(fork(stage.host, parent))
    stage.do(stage.read(child, 0))
    stage.do(stage.read(parent, 0))
    slot = stage.slot()
    folio = slot.folio
    assert folio is not None and slot.count == 0 and slot.in_pool
    stage.do(stage.write(parent, 0, NEW))
    assert slot.folio is folio, "the child still maps it, so the parent got a copy"
    stage.do(stage.write(child, 0, NEW))
    assert not slot.has_cache and not stage.tier_has(slot)
    assert folio.dirty and stage.host.resident_pages == 2
    stage.check()


def test_the_last_user_that_copies_a_cached_page_away_frees_its_slot() -> None:
    """Reclaim looks at the page, so the writer copies it; nobody maps the old one then, and its slot is given up."""
    stage = Stage(POLICIES["shared"])
    parent = stage.host.spawn()
    stage.do(stage.write(parent, 0, OLD))
    stage.do(swap_out_everything(stage.host))
    child = stage.do(fork(stage.host, parent))
    stage.do(stage.read(parent, 0))
    stage.do(stage.read(child, 0))
    slot = stage.slot()
    assert slot.folio is not None and slot.count == 0
    stage.do(stage.write(child, 0, NEW))
    slot.folio.get()  # as a path has that looks at it
    stage.do(stage.write(parent, 0, NEW))
    assert slot.folio is None and not stage.tier_has(slot)
    assert stage.host.duplication.pages(DuplicationCause.LOAD_SHARED) == 0
