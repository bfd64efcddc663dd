"""Worlds of several pages or processes: fork, readahead, swapoff.

Pure.
"""

from swaptier_client.mm.effects import Path
from swaptier_client.mm.policy import Policy
from swaptier_client.mm.readahead import Readahead, ReadaheadMode
from swaptier_client.mm.swapoff import swapoff
from swaptier_loadgen.explore.network import WorldHost
from swaptier_loadgen.explore.violation import Kind, Violation
from swaptier_loadgen.explore.world import Bounds, World
from swaptier_loadgen.explore.worlds.paths import fork_process, increment_page, read_page, reclaim
from swaptier_loadgen.explore.worlds.spec import WorldSpec, spawn_reclaim, spawn_threads, swapped_out_page


def fork_share(policy: Policy, bounds: Bounds) -> World:
    """Processes share a swapped-out page by fork and fault on it: does each get it, and its own copy when it writes?

    With several users of the slot no policy bypasses the swapcache, until only one of them is left.
    """
    world = World(policy, bounds)
    there, _ = swapped_out_page(world, processes=bounds.processes)
    for sharer in there.host.processes.values():
        for cpu in range(bounds.threads):
            name = f"increment {sharer.pid}.{cpu}"
            path = increment_page(world, there, sharer, 0)
            world.spawn(name, path, there, alike=f"increment {sharer.pid}")
    spawn_reclaim(world, there)
    return world


def readahead_race(policy: Policy, bounds: Bounds) -> World:
    """A fault reads a neighbour ahead while another fault bypasses the swapcache for it: do both find it?

    Page 0 is shared by fork, so its fault goes through the swapcache and reads ahead; page 1 is one process's alone, so
    its own fault bypasses.
    """
    world = World(policy, bounds)
    there = world.add_host(readahead=Readahead(ReadaheadMode.CLUSTER, page_cluster=1))
    parent = world.add_process(there)
    world.run_alone(there, increment_page(world, there, parent, 0))
    child = world.run_alone(there, fork_process(world, there, parent))
    world.run_alone(there, increment_page(world, there, parent, 1))
    world.run_alone(there, reclaim(there, 1))
    world.spawn("read shared", read_page(world, there, child, 0), there)
    for cpu in range(bounds.threads - 1):
        world.spawn(f"read own {cpu}", read_page(world, there, parent, 1), there, alike="own")
    spawn_reclaim(world, there)
    return world


def swapoff_vs_fault(policy: Policy, bounds: Bounds) -> World:
    """The device is swapped off while threads fault on its page: is every page brought back, and nothing left behind?

    swapoff reads through the swapcache and waits for pins; the tier must hold nothing for the device afterwards.
    """
    world = World(policy, bounds)
    there, process = swapped_out_page(world)
    spawn_threads(world, there, process, "increment")
    world.spawn("swapoff", _swapoff(there), there)
    spawn_reclaim(world, there)
    return world


def _swapoff(there: WorldHost) -> Path[None]:
    yield from swapoff(there.host, there.host.devices[0])
    left = there.network.areas[0].stored_pages
    if left or there.host.devices[0].slots_in_use:
        raise Violation(Kind.LEAK, f"the device is swapped off, and the tier holds {left} pages for it")


WORLDS = (
    WorldSpec("fork-share", Bounds(threads=1, processes=2, slots=2, swap_outs=1, install_failures=1), fork_share),
    WorldSpec(
        "readahead-race",
        Bounds(threads=2, processes=2, slots=4, swap_outs=1, install_failures=1),
        readahead_race,
    ),
    WorldSpec("swapoff-vs-fault", Bounds(threads=2, swap_outs=1, install_failures=1), swapoff_vs_fault),
)
