"""One emulated host on a real tier in the same process, for the tests of its workloads."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeAlias

import pytest
from tests.loadgen.builders import host_spec

from swaptier_client.mm.effects import Request, RequestReply
from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.host.content import Contents, cut
from swaptier_loadgen.host.emulated import EmulatedHost
from swaptier_loadgen.host.report import Ended
from swaptier_loadgen.host.workload import WorkloadKind
from swaptier_loadgen.lockstep.tiers import InProcessTiers
from swaptier_loadgen.race.results import RunSummary, summarise
from swaptier_server.tier.swap_file import Client
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.types import AreaOptions

CONTENTS = Contents(3, list(cut(b"what real memory looks like " * 1000)))

RunHost: TypeAlias = Callable[..., Awaitable[RunSummary]]


class NextTurnLink:
    """The driver's view of a tier in this process; each answer comes one turn of the loop later."""

    has_room = True
    epoch_changes = 0

    def __init__(self, tiers: InProcessTiers) -> None:
        self._tiers = tiers

    async def room(self) -> None:
        """There always is."""

    def submit(self, effect: Request) -> asyncio.Future[RequestReply]:
        """Apply at once, answer later."""
        reply: asyncio.Future[RequestReply] = asyncio.get_running_loop().create_future()
        answer = self._tiers.perform_one(effect)
        asyncio.get_running_loop().call_soon(lambda: reply.cancelled() or reply.set_result(answer))
        return reply


@pytest.fixture
def run_host() -> RunHost:
    """What runs one host of a policy to its end, with changes to a small workload, and judges it."""

    async def run(policy: str, **changes: object) -> RunSummary:
        spec = host_spec(policy, **{"resident": 24, "slots": 192, **changes})
        tier = Tier(TierLimits(pool_bytes_max=1 << 20), epoch=1)
        options = AreaOptions(device_free_on_read=POLICIES[policy].device_free_on_read)
        area, _ = tier.swapon(Client("c", 1), "a", spec.slots, options)
        twin = [NextTurnLink(InProcessTiers([area]))] if spec.settings.workload is WorkloadKind.TWO_HOSTS else []
        host = EmulatedHost(spec, CONTENTS, NextTurnLink(InProcessTiers([area])), twin=twin)
        await host.run()
        await (host.swapoff() if spec.settings.swapoff else host.exit_processes())
        leaked = tier.swapoff(Client("c", 1), "a")
        report = replace(host.final_report(), ended=Ended.FINISHED, leaked_pages=leaked)
        return summarise(policy, [report], workload=spec.settings.workload)

    return run
