"""Worlds in which the tier does something of its own: refuses, writes back, serves another host.

Pure.
"""

from swaptier_client.mm.policy import Policy
from swaptier_loadgen.explore.failures import Failure
from swaptier_loadgen.explore.world import Bounds, World
from swaptier_loadgen.explore.worlds.paths import increment_page, read_page, shrink
from swaptier_loadgen.explore.worlds.spec import WorldSpec, contend, spawn_reclaim, spawn_threads, swapped_out_page
from swaptier_server.tier.write_back import write_back

ONE_PAGE_POOL_BYTES = 64
"""Room for one page of `pages.version_page()`, which takes about 36 bytes, and not for two."""


def store_back_rejected(policy: Policy, bounds: Bounds) -> World:
    """A page is taken, its room in the pool is given to another, and it must go back: where does it go?

    The pool has room for one page. While a fault has page 0 out, reclaim stores page 1; then the install fails. The
    device takes what the pool refuses, unless it fails too: then `store-back` has nowhere to put the page, and its
    process is told. Policies that never took the only copy into a private folio do not notice.
    """
    world = World(policy, bounds, pool_bytes=ONE_PAGE_POOL_BYTES)
    world.failures.left[Failure.DEVICE] = 1
    world.model.allows_known_loss = policy.stores_back
    there, process = swapped_out_page(world)
    world.run_alone(there, increment_page(world, there, process, 1))
    spawn_threads(world, there, process, "read")
    spawn_reclaim(world, there)
    return world


def writeback_vs_load(policy: Policy, bounds: Bounds) -> World:
    """The tier moves a page from its pool to its device while threads fault on it: is the page always in one of them?

    A page on the device stays there when it is loaded, so from then on even an exclusive load takes nothing away.
    """
    world = World(policy, bounds)
    world.writes_back = True
    contend(world, "increment")
    world.spawn("write back", shrink(world, world.hosts[0]), None)
    return world


def early_lookup(policy: Policy, bounds: Bounds) -> World:
    """A fault asks whether the pool holds its page, before or after it pins the slot: is the answer still true?

    The page begins on the device. A look before the pin says so; then another thread brings the page in and writes it,
    reclaim stores it, this time in the pool and in the same slot, and the first thread, which believes that there is
    nothing to take, takes it into a private folio. One install failure, or reclaim at the folio's lock, and it is gone.
    """
    world = World(policy, bounds)
    there, process = swapped_out_page(world)
    write_back(there.network.areas[0], 0)
    spawn_threads(world, there, process, "increment")
    spawn_reclaim(world, there)
    return world


def two_hosts(policy: Policy, bounds: Bounds) -> World:
    """A clone of a host faults on the same slots of the same area: does each get its page, or hear that it is gone?

    Hazard 7. A pin keeps out the other threads of its own host only, so the second host finds the slot empty and maps
    the device's zeros, under every policy that does not ask for the generation, the safest ones too.

    A known loss is the best outcome for the second host, under `claim` too. The tier has one page with one owner, and
    two hosts take themselves for it: the first takes the page, or frees its slot, or stores a newer version there, as
    an owner may, and then nothing is left for the other. The tier can only refuse to answer the other with bytes that
    are not the page.
    """
    world = World(policy, bounds)
    world.model.allows_known_loss = True
    there, _ = swapped_out_page(world)
    for host in (there, world.add_twin(there)):
        (process,) = host.host.processes.values()
        for cpu in range(bounds.threads):
            name, path = f"read {host.index}.{cpu}", read_page(world, host, process, 0)
            world.spawn(name, path, host, alike=f"read {host.index}")
        spawn_reclaim(world, host)
    return world


WORLDS = (
    WorldSpec("store-back-rejected", Bounds(threads=2, slots=2, swap_outs=1, install_failures=1), store_back_rejected),
    WorldSpec("writeback-vs-load", Bounds(threads=2, swap_outs=1, install_failures=1), writeback_vs_load),
    WorldSpec("early-lookup", Bounds(threads=2, swap_outs=1, install_failures=1), early_lookup),
    WorldSpec("two-hosts", Bounds(threads=1, swap_outs=0), two_hosts),
)
