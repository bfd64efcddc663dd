"""The tier starts anew while a load is under way, after it answered: whose word is the answer?"""

import pytest
from tests.client.mm.stage import POOL_BYTES, Stage, TierFault

from swaptier_client.mm.backing import tier_restarted
from swaptier_client.mm.effects import Load, Request
from swaptier_client.mm.folio import SwapPte
from swaptier_client.mm.policy import POLICIES
from swaptier_client.mm.process import fork
from swaptier_client.mm.readahead import Readahead, ReadaheadMode
from swaptier_loadgen.measure.specification import page_version, swap_out_everything
from swaptier_server.tier.swap_file import Client
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.types import AreaOptions

PAGES = 3


class RestartingStage(Stage):
    """A stage whose tier loses the answer to the first load of one slot, and dies with its memory before the second."""

    def __init__(self, policy: str) -> None:
        super().__init__(POLICIES[policy], readahead=Readahead(ReadaheadMode.VMA))
        self.fault = self._strike
        self.struck_offset = -1
        self._loads = 0

    def _strike(self, request: Request) -> TierFault | None:
        if not isinstance(request, Load) or request.entry.offset != self.struck_offset:
            return None
        self._loads += 1
        if self._loads == 1:
            return TierFault.REPLY_LOST
        if self._loads == 2:
            self.tier = Tier(TierLimits(POOL_BYTES), epoch=2)
            client, old = Client("host", 1), self.areas[0]
            area, _ = self.tier.swapon(client, old.name, old.slots, AreaOptions(), seen_server_epoch=1)
            self.areas = [area]
            self.lockstep.tiers.areas = (area,)
            tier_restarted(self.host, 0)
        return None


@pytest.mark.parametrize("was_in_doubt", [False, True])
@pytest.mark.parametrize("policy", ["shared", "exclusive-if-swapcache", "claim"])
def test_what_a_server_answered_before_it_died_is_the_only_copy_and_outlives_reclaim(
    policy: str, *, was_in_doubt: bool
) -> None:
    """Three pages are read at once, the last answer is lost, and the server dies before it is asked for again.

    The other two came from memory that is gone. Reclaim must store them instead of dropping them as clean, and whatever
    doubt there was of their slots is not ended by the dead. It once was: then the next load got zeros, and no error.
    """
    stage = RestartingStage(policy)
    host, process = stage.host, stage.host.spawn()
    for address in range(PAGES):
        stage.do(stage.write(process, address, page_version(address, 1)))
    stage.do(fork(host, process))  # pages with two users are read into the swapcache
    stage.do(swap_out_everything(host))
    slots = []
    for address in range(PAGES):
        pte = process.page_table[address]
        assert isinstance(pte, SwapPte)
        slots.append(host.slot(pte.entry))
        slots[-1].in_doubt = was_in_doubt
    stage.struck_offset = slots[-1].entry.offset
    assert stage.do(stage.read(process, 0)) == page_version(0, 1)
    assert host.devices[0].restarts == 1
    stage.fault = lambda _request: None
    stage.do(swap_out_everything(host))
    assert not any(slot.folio for slot in slots), "reclaim had them all"
    for address in range(PAGES - 1):
        assert stage.do(stage.read(process, address)) == page_version(address, 1)
