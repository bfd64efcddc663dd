"""The recount finds every book that is off by one: a check that cannot fail guards nothing."""

from collections.abc import Callable

import pytest
from tests.client.mm.stage import Stage

from swaptier_client.mm.effects import WaitQueue
from swaptier_client.mm.folio import Folio, PresentPte, Process, SwapPte
from swaptier_client.mm.invariants import check_host
from swaptier_client.mm.policy import POLICIES
from swaptier_client.mm.process import fork
from swaptier_client.mm.reclaim import swap_out
from swaptier_loadgen.measure.specification import page_version, swap_out_everything, write_all
from swaptier_server.tier.free import invalidate


def a_bit_of_everything() -> tuple[Stage, Process]:
    """Return a stage with a swapped page in slot 0, a cached and mapped one in slot 1, and an anonymous one."""
    stage = Stage(POLICIES["shared"])
    parent = stage.host.spawn()
    stage.do(write_all(stage.host, parent, 2, version=1))
    stage.do(swap_out_everything(stage.host))
    stage.do(fork(stage.host, parent))
    stage.do(stage.read(parent, 1))
    stage.do(stage.write(parent, 2, page_version(2, 1)))
    stage.check()
    return stage, parent


def swapped(process: Process) -> SwapPte:
    """Return the entry of the swapped page."""
    pte = process.page_table[0]
    assert isinstance(pte, SwapPte)
    return pte


def mapped(process: Process, address: int) -> PresentPte:
    """Return the entry of a mapped page."""
    pte = process.page_table[address]
    assert isinstance(pte, PresentPte)
    return pte


def cached(stage: Stage) -> Folio:
    """Return the folio in the swapcache."""
    folio = stage.slot(1).folio
    assert folio is not None
    return folio


def set_entry(process: Process, **bits: bool) -> None:
    """Change bits of the swapped page's entry."""
    process.page_table[0] = swapped(process)._replace(**bits)


def park(queue: WaitQueue) -> None:
    """Put somebody to sleep who will not be woken."""
    queue.park(Sleeper().wake)


class Sleeper:
    """Sleeps."""

    def wake(self) -> None:
        """Do nothing."""


def free_twice(stage: Stage) -> None:
    stage.host.devices[0].free_offsets.append(5)


def lose_a_wake_up_for_a_lock(stage: Stage) -> None:
    folio = cached(stage)
    folio.lock_queue = WaitQueue("folio")
    park(folio.lock_queue)


def forget_the_tier(stage: Stage) -> None:
    stage.slot(0).in_pool = False


def forget_a_copy(stage: Stage) -> None:
    stage.slot(1).in_pool = False
    stage.host.duplication.observe(stage.slot(1))


def outlive(stage: Stage) -> None:
    folio = Folio(None)
    folio.refs = 0
    stage.host.lru.add(folio)
    stage.host.resident_pages += 1


def leave_a_pin(stage: Stage) -> None:
    stage.slot(0).has_cache = True


def read_without_a_pin(stage: Stage) -> None:
    stage.slot(0).reader = Folio(None)


def leave_an_orphan(stage: Stage) -> None:
    stage.host.orphans.add(stage.slot(0))


Break = Callable[[Stage, Process], object]

BREAKS: dict[str, Break] = {
    "a page is charged twice": lambda stage, _: setattr(stage.host, "resident_pages", 3),
    "a page is not charged": lambda stage, _: setattr(stage.host, "resident_pages", 1),
    "more is resident than may be": lambda stage, _: setattr(stage.host, "resident_pages_max", 1),
    "a slot counts a user too many": lambda stage, _: setattr(stage.slot(0), "count", 3),
    "a slot counts a user too few": lambda stage, _: setattr(stage.slot(0), "count", 1),
    "an entry is gone and its slot not told": lambda _, process: process.page_table.pop(0),
    "an entry is exclusive and is not alone": lambda _, process: set_entry(process, exclusive=True),
    "a mapping is in no reverse map": lambda _, process: mapped(process, 1).folio.mappings.clear(),
    "a reverse map names no mapping": lambda _, process: process.page_table.pop(2),
    "a shared page is writable": lambda _, process: setattr(mapped(process, 1), "writable", True),
    "a page is mapped before it is read": lambda _, process: setattr(mapped(process, 2).folio, "uptodate", False),
    "a cached folio has no HAS_CACHE": lambda stage, _: setattr(stage.slot(1), "has_cache", False),
    "a cached folio is bound elsewhere": lambda stage, _: setattr(cached(stage), "entry", stage.slot(0).entry),
    "a folio is out of reach of reclaim": lambda stage, _: stage.host.lru.discard(cached(stage)),
    "a folio outlived its last use": lambda stage, _: outlive(stage),
    "a slot is free twice": lambda stage, _: free_twice(stage),
    "a slot in use is free": lambda stage, _: stage.host.devices[0].free_offsets.append(0),
    "a free slot is in no list": lambda stage, _: stage.host.devices[0].free_offsets.pop(),
    "a free slot is in the pool": lambda stage, _: setattr(stage.slot(5), "in_pool", True),
    "a free slot is being stored to": lambda stage, _: setattr(stage.slot(5), "is_storing", True),
    "a pin was left": lambda stage, _: leave_a_pin(stage),
    "a slot is read without a pin": lambda stage, _: read_without_a_pin(stage),
    "somebody waits for no pin": lambda stage, _: park(stage.slot(0).wait_queue()),
    "somebody waits for no lock": lambda stage, _: lose_a_wake_up_for_a_lock(stage),
    "a page is owed and nobody has it": lambda stage, _: forget_the_tier(stage),
    "a clean folio has no copy": lambda stage, _: forget_a_copy(stage),
    "a duplicate is not counted": lambda stage, _: setattr(stage.slot(1), "duplication", None),
    "a duplicate changed its length": lambda stage, _: setattr(stage.slot(1), "entry_bytes", 1),
    "an orphan has a user": lambda stage, _: leave_an_orphan(stage),
    "a folio was left locked": lambda stage, _: cached(stage).trylock(),
    "a reference was left": lambda stage, _: setattr(cached(stage), "refs", 1),
    "an mmap lock was left held": lambda _, process: setattr(process.mmap_lock, "readers", 1),
    "a dead process is listed": lambda _, process: setattr(process, "is_alive", False),
    "the tier lost a page": lambda stage, _: invalidate(stage.areas[0], 0, stage.slot(0).generation),
}


@pytest.mark.parametrize("name", BREAKS)
def test_the_recount_finds(name: str) -> None:
    """One book is changed, in a host at rest, and the recount says so."""
    stage, process = a_bit_of_everything()
    BREAKS[name](stage, process)
    with pytest.raises(AssertionError):
        stage.check()


def test_a_path_under_way_may_hold_what_nothing_else_knows() -> None:
    """Folios that reclaim has isolated, references and locks are no defect while their path runs."""
    stage, _ = a_bit_of_everything()
    reclaim = stage.spawn("reclaim", swap_out(stage.host))
    for _ in range(2):
        stage.lockstep.step(reclaim)
        stage.check()
    with pytest.raises(AssertionError):
        check_host(stage.host, paths_running=0)
    stage.lockstep.finish(reclaim)
    stage.check()
