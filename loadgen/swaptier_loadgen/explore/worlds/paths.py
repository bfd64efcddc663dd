"""What the tasks of a world do: read, increment, reclaim, zap, fork, write back. Each notes it in the model.

Pure. An access and what is done with it are one atomic step, as an instruction is: nothing runs between the end of
`access()` and the read or write that follows it.
"""

from swaptier_client.mm.access import access_page, write_page
from swaptier_client.mm.effects import Path, Preempt, Reply
from swaptier_client.mm.folio import Process
from swaptier_client.mm.process import fork, zap
from swaptier_client.mm.reclaim import swap_out
from swaptier_loadgen.explore.network import WorldHost
from swaptier_loadgen.explore.pages import page_token, token_version, version_page
from swaptier_loadgen.explore.world import World
from swaptier_server.tier.write_back import write_back

AFTER_EVERY_LEASE_NS = 1 << 62
"""A time at which no lease is left."""


def read_page(world: World, there: WorldHost, process: Process, address: int) -> Path[None]:
    """Read a page once."""
    folio = yield from access_page(there.host, process, address, write=False)
    world.model.check_read(process, address, folio.content)


def increment_page(world: World, there: WorldHost, process: Process, address: int) -> Path[None]:
    """Write the page's next version over what is there, as `counter++` does."""
    folio = yield from access_page(there.host, process, address, write=True)
    world.model.check_read(process, address, folio.content)
    assert folio.content is not None
    version = token_version(page_token(folio.content)) + 1
    page = version_page(there.index, address, version)
    write_page(there.host, process, address, page)
    world.model.note_written(process, address, page)


def reclaim(there: WorldHost, times: int) -> Path[None]:
    """Swap everything out that can be, *times* over. Models: kswapd, or MADV_PAGEOUT."""
    for round_ in range(times):
        if round_:
            # Else the next round would isolate in the step that ends this one, before anything could be faulted back.
            yield Preempt("reclaim.again")
        yield from swap_out(there.host)


def zap_page(world: World, there: WorldHost, process: Process, address: int) -> Path[None]:
    """Discard a page, as madvise(MADV_DONTNEED) does."""
    path = zap(there.host, process, [address])
    reply: Reply = None
    had_page = address in process.page_table
    while True:
        try:
            effect = path.send(reply)
        except StopIteration:
            break
        finally:
            if had_page and address not in process.page_table:
                had_page = False
                world.model.note_discarded(process, address)
        reply = yield effect


def fork_process(world: World, there: WorldHost, parent: Process) -> Path[Process]:
    """Return a copy of the process."""
    child = yield from fork(there.host, parent)
    world.model.note_forked(parent, child)
    return child


def shrink(world: World, there: WorldHost) -> Path[None]:
    """Let the tier move its oldest page from the pool to the device, once, at any time."""
    _write_back_oldest(world, there)
    yield Preempt("tier.write_back")


def _write_back_oldest(world: World, there: WorldHost) -> None:
    slot = next(world.server.tier.pool.oldest_first(), None)
    if slot is not None:
        write_back(there.network.areas[0], slot.offset)


def restart(world: World) -> Path[None]:
    """Let the server die and start anew, at any time; its hosts hear of it any time later, or when they ask it."""
    world.server.restart()
    yield Preempt("tier.restarted")
    for there in world.hosts:
        there.network.tell_of_restart()


def end_leases(world: World) -> Path[None]:
    """Let every lease end, once, at any time: the clients were too slow."""
    world.server.tier.expire_leases(AFTER_EVERY_LEASE_NS)
    yield Preempt("tier.leases_ended")
