"""Worlds of one process: faults against faults, against reclaim, against zap.

Pure.
"""

from swaptier_client.mm.counters import InstallFailure
from swaptier_client.mm.policy import Policy
from swaptier_loadgen.explore.world import Bounds, World
from swaptier_loadgen.explore.worlds.paths import increment_page, zap_page
from swaptier_loadgen.explore.worlds.spec import WorldSpec, contend, spawn_reclaim, spawn_threads, swapped_out_page


def double_fault(policy: Policy, bounds: Bounds) -> World:
    """Threads fault on one swapped-out page at once: does the one that comes second find it?

    Nothing fails and nothing is swapped out again. Without a pin, and with loads that take the page, the second thread
    reads a slot that the first one emptied: zram's bug of 2013 to 2022. The pin alone cures it: `exclusive` is right
    here, which is why the bug of March 2024 needed an install failure to be seen.
    """
    world = World(policy, bounds)
    contend(world, "read")
    return world


def aborted_install(policy: Policy, bounds: Bounds) -> World:
    """A fault has read its page and cannot install it: who has the page then? The bug of March 2024.

    The install fails at the folio lock, or because a bit of the entry changed: soft-dirty, or write protection by
    userfaultfd, which the retry must then respect.
    """
    world = World(policy, bounds)
    world.failures.causes = (InstallFailure.LOCK_CONTENDED, InstallFailure.SOFT_DIRTY, InstallFailure.UFFD_WP)
    contend(world, "read")
    return world


def slot_reuse(policy: Policy, bounds: Bounds) -> World:
    """Threads increment one page while its slot is freed and given to it again: does an increment get lost? ABA.

    The page table entry looks the same before and after, so comparing it proves nothing. Models: the reproducer of
    13ddaf26be32 (threads that increment one counter, one that pages out).
    """
    world = World(policy, bounds)
    contend(world, "increment")
    return world


def reclaim_vs_fault(policy: Policy, bounds: Bounds) -> World:
    """Reclaim writes a page out while threads take it back: is what they write stored, and what they read theirs?

    It starts mapped, so faults meet the folio in the swapcache: locked, being stored, stored and not yet dropped.
    """
    world = World(policy, bounds)
    there = world.add_host()
    process = world.add_process(there)
    world.run_alone(there, increment_page(world, there, process, 0))
    spawn_threads(world, there, process, "increment")
    spawn_reclaim(world, there)
    return world


def zap_vs_fault(policy: Policy, bounds: Bounds) -> World:
    """A page is discarded while threads fault on it: does it come back, and is its slot freed once?

    A thread that comes after the zap sees zeros and writes the first version anew, into the same slot if it is reused.
    """
    world = World(policy, bounds)
    there, process = swapped_out_page(world)
    spawn_threads(world, there, process, "increment")
    world.spawn("zap", zap_page(world, there, process, 0), there)
    spawn_reclaim(world, there)
    return world


WORLDS = (
    WorldSpec("double-fault", Bounds(threads=2, swap_outs=0), double_fault),
    WorldSpec("aborted-install", Bounds(threads=2, swap_outs=0, install_failures=1), aborted_install),
    WorldSpec("slot-reuse", Bounds(threads=2, swap_outs=1), slot_reuse),
    WorldSpec("reclaim-vs-fault", Bounds(threads=2, swap_outs=2, install_failures=1), reclaim_vs_fault),
    WorldSpec("zap-vs-fault", Bounds(threads=2, swap_outs=1), zap_vs_fault),
)
