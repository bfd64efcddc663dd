"""Worlds in which the tier does something of its own: refuses, writes back, serves another host.

Pure.
"""

from swaptier_client.mm.policy import Policy
from swaptier_loadgen.explore.paths import increment_page, read_page, shrink
from swaptier_loadgen.explore.world import Bounds, World
from swaptier_loadgen.explore.worlds.spec import WorldSpec, spawn_reclaim, swapped_out_page
from swaptier_server.tier.write_back import write_back

ONE_PAGE_POOL_BYTES = 64
"""Room for one page of `pages.version_page()`, which takes about 36 bytes, and not for two."""


def store_back_rejected(policy: Policy, bounds: Bounds) -> World:
    """A page is taken, its room in the pool is given to another, and it must go back: where does it go?

    The pool has room for one page. While a fault has page 0 out, reclaim stores page 1; then the install fails. The
    device takes what the pool refuses, unless it fails too: then `store-back` has nobody left to give the page to, and
    its process is told. Policies that never took the only copy into a private folio do not notice.
    """
    world = World(policy, bounds, pool_bytes=ONE_PAGE_POOL_BYTES)
    world.budget.device_failures = 1
    world.allows_known_loss = policy.stores_back
    there = world.add_host()
    process = world.add_process(there)
    swapped_out_page(world, there, process)
    world.run_alone(there, increment_page(world, there, process, 1))
    for cpu in range(bounds.threads):
        world.spawn(f"read {cpu}", read_page(world, there, process, 0), there, alike="read")
    spawn_reclaim(world, there)
    return world


def writeback_vs_load(policy: Policy, bounds: Bounds) -> World:
    """The tier moves a page from its pool to its device while threads fault on it: is the page always in one of them?

    A page on the device stays there when it is loaded, so from then on even an exclusive load takes nothing away.
    """
    world = World(policy, bounds)
    world.writes_back = True
    there = world.add_host()
    process = world.add_process(there)
    swapped_out_page(world, there, process)
    for cpu in range(bounds.threads):
        world.spawn(f"increment {cpu}", increment_page(world, there, process, 0), there, alike="increment")
    spawn_reclaim(world, there)
    world.spawn("write back", shrink(world, there, 1), None)
    return world


def early_lookup(policy: Policy, bounds: Bounds) -> World:
    """A fault asks whether the pool holds its page, before or after it pins the slot: is the answer still true?

    The page begins on the device. A look before the pin says so; then another thread brings the page in and writes it,
    reclaim stores it, this time in the pool and in the same slot, and the first thread, which believes that there is
    nothing to take, takes it into a private folio. One install failure, or reclaim at the folio's lock, and it is gone.
    """
    world = World(policy, bounds)
    there = world.add_host()
    process = world.add_process(there)
    swapped_out_page(world, there, process)
    write_back(there.network.areas[0], 0)
    for cpu in range(bounds.threads):
        world.spawn(f"increment {cpu}", increment_page(world, there, process, 0), there, alike="increment")
    spawn_reclaim(world, there)
    return world


def two_hosts(policy: Policy, bounds: Bounds) -> World:
    """A clone of a host faults on the same slots of the same area: does each get its page, or hear that it is gone?

    Hazard 7. A pin keeps out the other threads of its own host and nobody else, so whoever comes second finds the slot
    empty and maps the device's zeros, under every policy that does not ask for the generation, the safest ones too.

    To be told is the most that anybody can have here, under `claim` too. The tier has one page with one owner, and does
    not know that there are two who take themselves for it: who comes first takes the page, or frees its slot, or stores
    a newer version there, as an owner may, and then nothing is left for the other. What the tier can do is never to
    answer the other with bytes that are not the page.
    """
    world = World(policy, bounds)
    world.allows_known_loss = True
    there = world.add_host()
    swapped_out_page(world, there, world.add_process(there))
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
