"""Fork, zap, move and exit: who still owns a page, and what is left when nobody does."""

from swaptier_client.mm.policy import POLICIES
from swaptier_client.mm.process import exit_process, fork, zap
from swaptier_loadgen.explore.stage import Stage
from swaptier_loadgen.specification import page_version, swap_out_everything


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
