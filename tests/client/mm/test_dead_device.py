"""Reclaim with one of several swap devices dead: the others go on."""

import pytest
from tests.client.mm.stage import Stage, TierFault

from swaptier_client.mm.folio import PresentPte, Process
from swaptier_client.mm.policy import POLICIES
from swaptier_client.mm.process import fork
from swaptier_client.mm.reclaim import swap_out
from swaptier_client.mm.swap_map import UNANSWERED_MAX, SwapDevice
from swaptier_loadgen.measure.specification import page_version, swap_out_everything, write_all
from swaptier_wire.errors import TierUnreachable


def with_a_page_in_the_swapcache_of(stage: Stage) -> Process:
    """Return a process with page 0 mapped from the swapcache of the first device; a child has the slot too."""
    process = stage.host.spawn()
    stage.do(write_all(stage.host, process, 1, version=1))
    stage.do(swap_out_everything(stage.host))
    stage.do(fork(stage.host, process))
    stage.do(stage.read(process, 0))
    return process


def test_a_page_bound_to_a_dead_device_stays_and_the_others_are_swapped_out_elsewhere() -> None:
    """Its store would fail, and with it the batch that has the other pages: it is kept, and can be read."""
    stage = Stage(POLICIES["no-bypass"], devices=[SwapDevice(0, 16, priority=1), SwapDevice(1, 16)])
    process = with_a_page_in_the_swapcache_of(stage)
    pte = process.page_table[0]
    assert isinstance(pte, PresentPte)
    assert pte.folio.entry is not None
    assert pte.folio.entry.type == 0
    stage.host.devices[0].is_dead = True
    stage.do(stage.write(process, 1, page_version(1, 1)))
    stage.do(swap_out_everything(stage.host))
    assert isinstance(process.page_table[0], PresentPte)
    assert stage.areas[1].stored_pages == 1
    assert stage.do(stage.read(process, 0)) == page_version(0, 1)
    assert stage.do(stage.read(process, 1)) == page_version(1, 1)
    stage.check()


def test_a_single_device_is_tried_again_although_it_is_dead() -> None:
    """Nobody else could take the page, and only an answer tells that the tier is back."""
    stage = Stage(POLICIES["no-bypass"])
    process = with_a_page_in_the_swapcache_of(stage)
    stage.host.devices[0].is_dead = True
    while isinstance(process.page_table[0], PresentPte):
        stage.do(swap_out(stage.host))
    assert stage.areas[0].stored_pages == 1


@pytest.mark.parametrize(("fault", "is_dead"), [(TierFault.REPLY_LOST, False), (TierFault.REFUSED, True)])
def test_a_tier_is_dead_when_nothing_is_sent_to_it_and_not_when_its_answers_get_lost(
    fault: TierFault, *, is_dead: bool
) -> None:
    """The pages of a dead one are lost to their processes; it must not be called so while it lives."""
    stage = Stage(POLICIES["shared"], devices=[SwapDevice(0, 16, priority=1), SwapDevice(1, 16)])
    process = stage.host.spawn()
    stage.do(write_all(stage.host, process, 1, version=1))
    stage.do(swap_out_everything(stage.host))
    stage.fault = lambda _request: fault
    with pytest.raises(TierUnreachable):
        stage.do(stage.read(process, 0))
    assert stage.host.devices[0].is_dead is is_dead
    stage.fault = lambda _request: None
    assert stage.do(stage.read(process, 0)) == page_version(0, 1)
    assert not stage.host.devices[0].is_dead


def test_a_tier_that_leaves_everything_unanswered_is_dead_until_it_answers() -> None:
    """Behind a connection that takes requests and gives nothing back nobody else says so."""
    stage = Stage(POLICIES["shared"], devices=[SwapDevice(0, 16, priority=1), SwapDevice(1, 16)])
    process = stage.host.spawn()
    stage.do(write_all(stage.host, process, 1, version=1))
    stage.do(swap_out_everything(stage.host))
    stage.fault = lambda _request: TierFault.REPLY_LOST
    for attempt in range(UNANSWERED_MAX):
        assert not stage.host.devices[0].is_dead, f"after {attempt}"
        with pytest.raises(TierUnreachable):
            stage.do(stage.read(process, 0))
    assert stage.host.devices[0].is_dead
    stage.fault = lambda _request: None
    assert stage.do(stage.read(process, 0)) == page_version(0, 1)
    assert not stage.host.devices[0].is_dead
