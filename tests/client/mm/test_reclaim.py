"""Reclaim: what is written, what is dropped, what is put back, and that nothing is lost when a store is not made."""

from collections.abc import Callable, Sequence

import pytest
from tests.client.mm.stage import Stage, TierFault, at_preempt

from swaptier_client.mm.duplication import DuplicationCause
from swaptier_client.mm.effects import Batch, Effect, Invalidate, Request, Store
from swaptier_client.mm.folio import PresentPte, Process, SwapPte
from swaptier_client.mm.policy import POLICIES
from swaptier_client.mm.process import exit_process, fork, zap
from swaptier_client.mm.reclaim import SWAP_CLUSTER_MAX, swap_out
from swaptier_loadgen.lockstep.driver import TaskState
from swaptier_loadgen.measure.specification import page_version, swap_out_everything, write_all
from swaptier_server.tier.device import DeviceError, MemoryDevice
from swaptier_server.tier.free import invalidate
from swaptier_server.tier.page import StoredPage
from swaptier_wire.errors import TierUnreachable
from swaptier_wire.types import ZERO_PAGE

OLD, NEW = page_version(0, 1), page_version(0, 2)
SAFE = [name for name, policy in POLICIES.items() if policy.is_safe]
AT_ISOLATED = at_preempt("swap_out.isolated")
AT_WRITTEN = at_preempt("swap_out.written")


def with_page(policy: str, stage: Stage | None = None) -> tuple[Stage, Process]:
    """Return a stage whose process 1 has page 0, OLD, in memory."""
    stage = stage or Stage(POLICIES[policy])
    process = stage.host.spawn()
    stage.do(stage.write(process, 0, OLD))
    return stage, process


def at_store(effect: Effect) -> bool:
    """The task stores."""
    return isinstance(effect, Batch) and isinstance(effect.requests[0], Store)


def refuse(kind: type[Request], offset: int | None = None) -> Callable[[Request], TierFault | None]:
    """Return a fault source that refuses requests of *kind*, to one slot or to all."""
    return lambda request: (
        TierFault.REFUSED if isinstance(request, kind) and offset in (None, request.entry.offset) else None
    )


def test_a_store_goes_out_once_for_a_whole_batch() -> None:
    """Up to SWAP_CLUSTER_MAX pages are written as under one plug, and all of them are freed."""
    stage = Stage(POLICIES["shared"], slots=2 * SWAP_CLUSTER_MAX)
    process = stage.host.spawn()
    stage.do(write_all(stage.host, process, SWAP_CLUSTER_MAX + 1, version=1))
    reclaim = stage.spawn("reclaim", swap_out(stage.host))
    stage.lockstep.run_until(reclaim, at_store)
    assert isinstance(reclaim.at, Batch) and len(reclaim.at.requests) == SWAP_CLUSTER_MAX
    assert stage.lockstep.finish(reclaim) == SWAP_CLUSTER_MAX
    assert stage.host.resident_pages == 1
    stage.check()


def test_a_page_touched_lately_gets_a_second_chance() -> None:
    """The clock hand clears the referenced bit and takes another page first."""
    stage, process = with_page("shared")
    stage.do(stage.write(process, 1, NEW))
    process.page_table[1].folio.referenced = False
    assert stage.do(swap_out(stage.host, 1)) == 1
    assert isinstance(process.page_table[0], PresentPte)
    assert isinstance(process.page_table[1], SwapPte)


def test_a_clean_page_is_dropped_without_a_store() -> None:
    """A shared load left the tier its copy: reclaim sends nothing at all."""
    stage, parent = with_page("shared")
    stage.do(swap_out_everything(stage.host))
    stage.do(fork(stage.host, parent))
    stage.do(stage.read(parent, 0))
    stage.requests.clear()
    assert stage.do(swap_out(stage.host)) == 1
    assert stage.requests == []
    assert stage.do(stage.read(parent, 0)) == OLD
    stage.check()


def test_a_page_taken_back_while_it_was_stored_is_rescued() -> None:
    """Reclaim has stored the page; T1 maps it again before reclaim comes to drop it: mapped, clean, and in the tier."""
    stage, process = with_page("exclusive-if-swapcache")
    reclaim = stage.spawn("reclaim", swap_out(stage.host))
    stage.lockstep.run_until(reclaim, AT_WRITTEN)
    ledger = stage.host.duplication
    assert ledger.pages(DuplicationCause.STORE_INFLIGHT) == 1
    assert stage.do(stage.read(process, 0)) == OLD
    assert ledger.pages(DuplicationCause.STORE_RESCUED) == 1
    assert stage.lockstep.finish(reclaim) == 0
    assert stage.host.counters.store_rescued == 1
    assert ledger.pages(DuplicationCause.STORE_RESCUED) == 1, "possibly for long"
    assert stage.host.counters.loads == 0
    stage.check()
    stage.do(swap_out_everything(stage.host))
    assert stage.host.counters.stores == 1, "still clean: dropped without another store"
    assert stage.do(stage.read(process, 0)) == OLD
    stage.check()


def test_a_rescued_page_that_is_written_is_stored_again() -> None:
    """The tier's copy is an older version then: still a duplicate, called stale, and replaced at the next reclaim."""
    stage, process = with_page("exclusive-if-swapcache")
    reclaim = stage.spawn("reclaim", swap_out(stage.host))
    stage.lockstep.run_until(reclaim, AT_WRITTEN)
    stage.do(stage.read(process, 0))
    stage.do(stage.write(process, 0, NEW))
    stage.lockstep.finish(reclaim)
    assert stage.host.duplication.pages(DuplicationCause.LOAD_SHARED_STALE) == 1
    stage.check()
    stage.do(swap_out_everything(stage.host))
    assert stage.do(stage.read(process, 0)) == NEW
    stage.check()


@pytest.mark.parametrize("policy", SAFE)
def test_no_policy_calls_a_page_on_its_way_out_a_shared_load(policy: str) -> None:
    """From its store to its drop a page is held twice by reclaim, whoever loads how."""
    stage, _ = with_page(policy)
    reclaim = stage.spawn("reclaim", swap_out(stage.host))
    while reclaim.state is not TaskState.DONE:
        stage.lockstep.step(reclaim)
        assert stage.host.duplication.pages(DuplicationCause.LOAD_SHARED) == 0
        stage.check()
    assert stage.host.duplication.pages_peak == 1


class FullDevice(MemoryDevice):
    """A device that takes nothing."""

    def write(self, pages: Sequence[tuple[int, StoredPage]]) -> None:
        """Refuse.

        Raises:
            DeviceError: always.
        """
        raise DeviceError


@pytest.mark.parametrize("policy", SAFE)
def test_a_page_that_nobody_takes_stays_in_memory(policy: str) -> None:
    """Pool and device refuse: the folio is dirty in the swapcache, its owner maps it again, and it can go out later."""
    stage, process = with_page(policy, Stage(POLICIES[policy], pool_bytes_max=0, backing=lambda _name: FullDevice()))
    assert stage.do(swap_out(stage.host)) == 0
    slot = stage.slot()
    assert slot.folio is not None and slot.folio.dirty and not slot.in_pool
    stage.check()
    assert stage.do(stage.read(process, 0)) == OLD
    stage.tier.accounts.bounds.pool_bytes.divide(1 << 20, tenants=1)
    stage.do(swap_out_everything(stage.host))
    assert stage.host.resident_pages == 0
    assert stage.do(stage.read(process, 0)) == OLD
    stage.check()


def test_a_store_that_came_too_late_took_nothing() -> None:
    """STALE_GENERATION: the tier changed nothing, so the folio is the only copy and must not be dropped as clean."""
    stage, process = with_page("shared")
    invalidate(stage.areas[0], 0, 1000)
    assert stage.do(swap_out(stage.host)) == 0
    slot = stage.slot()
    assert slot.folio is not None and slot.folio.dirty
    assert stage.do(stage.read(process, 0)) == OLD
    stage.check()


def test_a_failed_store_keeps_every_page_of_its_batch() -> None:
    """One of two stores fails: the error comes out, both pages stay in memory, one clean and one dirty."""
    stage, process = with_page("shared")
    stage.do(stage.write(process, 1, NEW))
    stage.fault = refuse(Store, offset=1)
    with pytest.raises(TierUnreachable):
        stage.do(swap_out(stage.host))
    stage.check()
    stage.fault = refuse(Invalidate)
    contents = {stage.do(stage.read(process, address)) for address in (0, 1)}
    assert contents == {OLD, NEW}
    assert stage.host.counters.loads == 0
    stage.check()


def test_a_slot_that_cannot_be_freed_keeps_no_other_page_from_being_reclaimed() -> None:
    """Two zapped pages on their way out, the tier cannot be told of the first slot: the other is freed all the same."""
    stage, process = with_page("shared")
    stage.do(stage.write(process, 1, NEW))
    reclaim = stage.spawn("reclaim", swap_out(stage.host))
    stage.lockstep.run_until(reclaim, at_store)
    stage.do(zap(stage.host, process, [0, 1]))
    stage.fault = refuse(Invalidate, offset=0)
    with pytest.raises(TierUnreachable):
        stage.lockstep.finish(reclaim)
    assert stage.host.resident_pages == 0
    assert len(stage.host.orphans) == 1
    assert stage.slot(0).is_pinned and not stage.slot(1).has_cache
    stage.check()


def test_a_page_whose_read_failed_can_be_reclaimed() -> None:
    """A damaged entry: PageLost for each fault, and the empty folio neither stays for ever nor is a duplicate."""
    stage, parent = with_page("shared")
    stage.do(swap_out_everything(stage.host))
    child = stage.do(fork(stage.host, parent))
    entry = stage.areas[0].known_slots[0].entry
    assert entry is not None
    stage.areas[0].known_slots[0].entry = entry._replace(checksum=entry.checksum ^ 1)
    for process in (parent, child):
        with pytest.raises(Exception, match="is lost"):
            stage.do(stage.read(process, 0))
    assert stage.slot().folio is not None
    assert stage.host.duplication.pages_total == 0
    stage.check()
    assert stage.do(swap_out(stage.host)) == 1
    stage.check()
    stage.do(exit_process(stage.host, parent))
    stage.do(exit_process(stage.host, child))
    assert not stage.tier_has(stage.slot())
    stage.check()


def test_a_page_zapped_on_its_way_out_frees_its_slot_when_reclaim_is_done() -> None:
    """The zap finds the folio locked and leaves the slot to reclaim, which drops the folio and tells the tier."""
    stage, process = with_page("shared")
    reclaim = stage.spawn("reclaim", swap_out(stage.host))
    stage.lockstep.run_until(reclaim, at_store)
    stage.do(zap(stage.host, process, [0]))
    assert stage.slot().folio is not None and stage.slot().count == 0
    stage.check()
    assert stage.lockstep.finish(reclaim) == 1
    assert not stage.slot().has_cache and not stage.tier_has(stage.slot())
    stage.check()


def test_a_page_unmapped_after_isolation_is_put_back_and_ends() -> None:
    """Reclaim isolated it, the process exits: there is nothing to write and nothing is left."""
    stage, process = with_page("shared")
    reclaim = stage.spawn("reclaim", swap_out(stage.host))
    stage.lockstep.run_until(reclaim, AT_ISOLATED)
    stage.do(exit_process(stage.host, process))
    assert stage.lockstep.finish(reclaim) == 0
    assert stage.host.resident_pages == 0 and stage.requests == []
    stage.check()


def test_a_write_between_isolation_and_unmap_is_not_lost() -> None:
    """The lock of a folio keeps no process from writing through its mapping: what is stored is what is there then."""
    stage, process = with_page("shared")
    reclaim = stage.spawn("reclaim", swap_out(stage.host))
    stage.lockstep.run_until(reclaim, AT_ISOLATED)
    stage.do(stage.write(process, 0, NEW))
    stage.lockstep.finish(reclaim)
    assert stage.do(stage.read(process, 0)) == NEW
    stage.check()


def test_the_bits_of_an_entry_go_out_and_come_back_with_the_page() -> None:
    """Soft-dirty and the exclusive bit are in the swap entry while the page is away."""
    stage, process = with_page("shared")
    stage.do(swap_out_everything(stage.host))
    pte = process.page_table[0]
    assert isinstance(pte, SwapPte) and pte.exclusive and pte.soft_dirty and not pte.uffd_wp
    stage.do(stage.read(process, 0))
    mapped = process.page_table[0]
    assert isinstance(mapped, PresentPte) and mapped.exclusive and mapped.soft_dirty


def test_a_page_of_zeros_is_noted_and_not_sent() -> None:
    """With the zero map of 6.12 the tier never sees it; an older version that it has is forgotten."""
    stage, parent = with_page("shared", Stage(POLICIES["shared"], has_zeromap=True))
    stage.host.devices[0].is_synchronous = False
    stage.do(swap_out_everything(stage.host))
    stage.do(stage.read(parent, 0))
    stage.do(stage.write(parent, 0, ZERO_PAGE))
    assert stage.tier_has(stage.slot())
    stage.requests.clear()
    stage.do(swap_out_everything(stage.host))
    assert [type(request) for request in stage.requests] == [Invalidate]
    assert not stage.tier_has(stage.slot())
    assert stage.do(stage.read(parent, 0)) == ZERO_PAGE
    assert stage.host.counters.swpin_zero == 1
    stage.check()


def test_a_wasted_recompression_is_one_of_bytes_the_tier_just_gave() -> None:
    """Exclusive loads pay for it at the next reclaim of a page that nobody changed; a changed page is no waste."""
    stage, parent = with_page("exclusive-if-swapcache")
    stage.do(swap_out_everything(stage.host))
    child = stage.do(fork(stage.host, parent))
    stage.do(stage.read(parent, 0))
    stage.do(swap_out_everything(stage.host))
    assert stage.host.counters.wasted_recompress == 1
    stage.do(exit_process(stage.host, child))
    stage.do(stage.write(parent, 0, NEW))
    stage.do(swap_out_everything(stage.host))
    assert stage.host.counters.wasted_recompress == 1
    stage.check()
