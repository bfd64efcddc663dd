"""Shared against exclusive loads under one memory budget: resident pages and compressed copies together.

Pure. One emulated thread, the real mm and the real tier in one process, so that the same settings give the same table
everywhere. The swap device is not synchronous: every load goes through the swapcache, the path on which the two
modes differ. The host may hold as many uncompressed pages as the pool leaves of the budget, asked anew after every
step: a copy that a shared load leaves behind takes the place of a resident page.

Models: the measurement of c2e2ba770200 (a kernel build in a memory cgroup): exclusive loads refault less and compress
more.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from swaptier_client.mm.access import access_page, write_page
from swaptier_client.mm.folio import Folio, Process
from swaptier_client.mm.host import Host
from swaptier_client.mm.policy import Policy
from swaptier_client.mm.swap_map import SwapDevice
from swaptier_loadgen.host.content import PROCESS_PAGES_MAX
from swaptier_loadgen.host.settings import RUN, flag
from swaptier_loadgen.lockstep.driver import Lockstep, TaskState
from swaptier_loadgen.lockstep.tiers import one_area
from swaptier_wire.types import PAGE_BYTES

RESIDENT_PAGES_MIN = 64
"""Two reclaim batches: with fewer the host would only reclaim."""

SLOTS_PER_PAGE = 4
"""Swap stays less than half full, or the kernel frees the swapcache early and both modes come to the same."""

SKEW = 3
"""Addresses are pages times u to this power, u uniform: the first tenth of the pages gets 46 % of them."""


ACCESSES_MAX = 10**8
"""Hours. More is a typing error."""


class BudgetSettings(BaseModel):
    """One comparison."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pages: Annotated[int, flag(RUN, "Pages of the one process."), Field(ge=1, le=PROCESS_PAGES_MAX)] = 2048
    budget_percent: Annotated[
        int,
        flag(RUN, "Resident pages and pool together, of the memory that all pages take uncompressed."),
        Field(ge=1, le=100),
    ] = 75
    accesses: Annotated[int, flag(RUN, "Accesses after every page was written once."), Field(ge=1, le=ACCESSES_MAX)] = (
        60_000
    )
    write_percent: Annotated[int, flag(RUN, "Accesses that write."), Field(ge=0, le=100)] = 20
    seed: Annotated[int, flag(RUN, "Of accesses and page contents.")] = 1

    @property
    def budget_bytes(self) -> int:
        """Resident pages and pool together."""
        return self.pages * PAGE_BYTES * self.budget_percent // 100


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """What one policy made of the budget."""

    policy: str
    refaults: int
    """Swap-ins: pages that had to come back."""
    stores: int
    wasted_recompressions: int
    """Stores of bytes the tier had just given."""
    resident_pages_mean: float
    pool_bytes_mean: float
    duplicate_pages_mean: float
    wrong_pages: int
    """Pages read with other bytes than were written: always 0 here, nothing races."""


class Refused(Exception):
    """The budget is too small for the pages. One line; nothing was run."""


class Ended(Exception):
    """It was asked to end before it had measured all."""


def run_budget(
    policy: Policy,
    settings: BudgetSettings,
    content_of: Callable[[int, int], bytes],
    is_asked_to_end: Callable[[], bool] = lambda: False,
) -> BudgetRow:
    """Run *policy* under the budget; *content_of* (address, version) returns PAGE_BYTES.

    Raises:
        Refused: the budget leaves no room for RESIDENT_PAGES_MIN pages.
        Ended: *is_asked_to_end*, which is asked at each access.
    """
    if settings.budget_bytes < 2 * RESIDENT_PAGES_MIN * PAGE_BYTES:
        raise Refused(
            f"a budget of {settings.budget_percent} % of {settings.pages} pages is less than "
            f"{2 * RESIDENT_PAGES_MIN} pages; take more pages or a larger share"
        )
    return _Run(policy, settings, content_of, is_asked_to_end).run()


class _Run:
    def __init__(
        self,
        policy: Policy,
        settings: BudgetSettings,
        content_of: Callable[[int, int], bytes],
        is_asked_to_end: Callable[[], bool],
    ) -> None:
        self.settings = settings
        self.content_of = content_of
        self.is_asked_to_end = is_asked_to_end
        slots = SLOTS_PER_PAGE * settings.pages
        tiers = one_area(policy.name, slots, settings.budget_bytes)
        (self.area,) = tiers.areas
        self.now_ns = 0
        self.host = Host(
            policy,
            [SwapDevice(0, slots, is_synchronous=False)],
            resident_pages_max=settings.budget_bytes // PAGE_BYTES,
            now_ns=lambda: self.now_ns,
        )
        self.lockstep = Lockstep(tiers)
        self.versions: dict[int, int] = {}
        self.wrong_pages = 0

    def run(self) -> BudgetRow:
        process = self.host.spawn()
        for address in range(self.settings.pages):
            self.access(process, address, write=True)
        counters = self.host.counters
        before = (counters.faults, counters.stores, counters.wasted_recompress)
        chance = random.Random(self.settings.seed)
        resident = pool = duplicates = 0
        for _ in range(self.settings.accesses):
            address = int(self.settings.pages * chance.random() ** SKEW)
            self.access(process, address, write=chance.randrange(100) < self.settings.write_percent)
            resident += self.host.resident_pages
            pool += self.area.pool_bytes
            duplicates += self.host.duplication.pages_total
        accesses = self.settings.accesses
        return BudgetRow(
            policy=self.host.policy.name,
            refaults=counters.faults - before[0],
            stores=counters.stores - before[1],
            wasted_recompressions=counters.wasted_recompress - before[2],
            resident_pages_mean=resident / accesses,
            pool_bytes_mean=pool / accesses,
            duplicate_pages_mean=duplicates / accesses,
            wrong_pages=self.wrong_pages,
        )

    def access(self, process: Process, address: int, *, write: bool) -> None:
        """Fault the page in if need be, check it, and write its next version if asked."""
        if self.is_asked_to_end():
            raise Ended
        task = self.lockstep.spawn("access", access_page(self.host, process, address, write=write))
        while task.state is not TaskState.DONE:
            self.lockstep.step(task)
            # The pool grew or shrank: what is left of the budget is what may be resident.
            left = (self.settings.budget_bytes - self.area.pool_bytes) // PAGE_BYTES
            self.host.resident_pages_max = max(RESIDENT_PAGES_MIN, left)
        folio = self.lockstep.finish(task)
        self.lockstep.tasks.clear()
        assert isinstance(folio, Folio)
        version = self.versions.get(address, 0)
        self.wrong_pages += version > 0 and folio.content != self.content_of(address, version)
        if write:
            self.versions[address] = version + 1
            write_page(self.host, process, address, self.content_of(address, version + 1))
