"""Worlds that only a remote tier has: replies that do not come, requests that come twice or late, a tier that restarts.

Pure. KERNEL.md section 5 numbers the hazards.
"""

from swaptier_client.mm.policy import Policy
from swaptier_client.mm.readahead import Readahead, ReadaheadMode
from swaptier_loadgen.explore.failures import Failure
from swaptier_loadgen.explore.world import Bounds, World
from swaptier_loadgen.explore.worlds.paths import end_leases, restart
from swaptier_loadgen.explore.worlds.spec import WorldSpec, contend


def lost_reply(policy: Policy, bounds: Bounds) -> World:
    """The reply to a request is lost after it was applied, and the host asks again: is the page still there?

    Hazard 1. An exclusive load took the page out, and the repeat finds nothing: that strikes every policy that loads
    exclusively, `cache-on-hit` and `no-bypass` too, because the copy dies on the way to the swapcache. It spares
    `exclusive-if-swapcache` only as long as its faults bypass: with --processes 2 it loses like the others.
    """
    world = World(policy, bounds)
    contend(world, "increment", processes=bounds.processes)
    return world


def retried_load(policy: Policy, bounds: Bounds) -> World:
    """A load reaches the tier twice, as when a channel repeats it: does the reply that counts have the page?

    Hazard 2. The second reply is the one that counts. As lost-reply, but the host never learns of the repeat.
    """
    world = World(policy, bounds)
    world.failures.left[Failure.REPEATED_LOAD] = 1
    contend(world, "read")
    return world


def lease_end(policy: Policy, bounds: Bounds) -> World:
    """A lost reply, a load that arrives twice and leases that end too soon, all at once: is the page still there?

    Hazards 1, 2, 8 and 11 together. A page whose lease has ended is the tier's again: the claimant's repeat claims it
    anew, its acknowledgement comes too late and changes nothing, and the generation keeps an older copy from
    coming back.
    """
    world = World(policy, bounds)
    world.failures.left[Failure.REPEATED_LOAD] = 1
    contend(world, "increment", processes=bounds.processes)
    world.spawn("lease end", end_leases(world), None)
    return world


def delayed_invalidate(policy: Policy, bounds: Bounds) -> World:
    """A copy of an invalidation arrives after its slot was given to a new page: does it destroy that page?

    Hazard 4. The generation in the request must keep the tier from applying it (R4).
    """
    world = World(policy, bounds)
    world.failures.left[Failure.LATE_INVALIDATE] = 1
    contend(world, "increment", processes=bounds.processes)
    world.spawn("network", world.hosts[0].network.deliver_late(), None, is_daemon=True)
    return world


def server_restart(policy: Policy, bounds: Bounds) -> World:
    """A server that writes pages through dies, maybe while it answers, and another starts: is every page still there?

    Hazard 6, on a device that outlives the server: whatever was stored is there again under its generation, and leases
    are over. So to be told that a page is gone is a loss here. A server that dies before it answers loses its reply, a
    page that was taken is gone with it, and no memory of the server's can mend that; a page that was claimed is on the
    device when the claim is asked again.

    One that is drained before it stops answers everybody and leaves the same on the device as one that is killed.
    """
    world = World(policy, bounds, has_swap_file=True)
    contend(world, "increment", processes=bounds.processes)
    _let_server_die(world)
    return world


def server_killed(policy: Policy, bounds: Bounds) -> World:
    """A server that has its pages in memory only is killed and comes back empty: does anybody map other bytes?

    Hazard 6. What was in the tier's memory is gone, whatever the policy, and that is not held against it. The host sees
    the tier's epoch change and doubts every page that it left there: its loads require the generation, and the process
    is told instead of being given the device's zeros.

    What the host has is the host's to keep. There is a page for each slot and all processes share them, so that one
    fault reads two into the swapcache, and the server may die when it has answered for one and not for the other.
    """
    world = World(policy, bounds)
    readahead = Readahead(ReadaheadMode.CLUSTER, page_cluster=1)
    contend(world, "read", pages=bounds.slots, processes=bounds.processes, readahead=readahead)
    _let_server_die(world)
    return world


def _let_server_die(world: World) -> None:
    """Once between any two requests, and once of any request."""
    world.failures.left[Failure.DEATH] = 1
    world.spawn("server", restart(world), None)


WORLDS = (
    WorldSpec("lost-reply", Bounds(threads=1, swap_outs=1, lost_replies=1), lost_reply),
    WorldSpec("retried-load", Bounds(threads=1, swap_outs=0), retried_load),
    WorldSpec("lease-end", Bounds(threads=1, swap_outs=1, lost_replies=1), lease_end),
    WorldSpec("delayed-invalidate", Bounds(threads=1, swap_outs=1), delayed_invalidate),
    WorldSpec("server-restart", Bounds(threads=1, swap_outs=1), server_restart),
    WorldSpec("server-killed", Bounds(threads=1, processes=2, slots=2, swap_outs=1), server_killed),
)
