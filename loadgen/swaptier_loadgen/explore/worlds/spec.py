"""What a world is made of, before it is built.

Pure.
"""

from collections.abc import Callable
from typing import NamedTuple

from swaptier_client.mm.folio import Process
from swaptier_client.mm.policy import Policy
from swaptier_client.mm.readahead import Readahead
from swaptier_loadgen.explore.network import WorldHost
from swaptier_loadgen.explore.world import Bounds, World
from swaptier_loadgen.explore.worlds.paths import fork_process, increment_page, read_page, reclaim


class WorldSpec(NamedTuple):
    """A world that can be built."""

    name: str
    bounds: Bounds
    """What it is asked within, unless the caller says otherwise."""
    build: Callable[[Policy, Bounds], World]

    @property
    def question(self) -> str:
        """What it asks, in one line."""
        return (self.build.__doc__ or "").partition("\n")[0]


ACCESSES = {"read": read_page, "increment": increment_page}


def swapped_out_page(
    world: World, *, pages: int = 1, processes: int = 1, readahead: Readahead | None = None
) -> tuple[WorldHost, Process]:
    """Add a host and a process that has swapped out version 1 of its first *pages* pages, and fork it.

    There are *processes* in all. Return the host and the first.
    """
    there = world.add_host(readahead=readahead)
    process = world.add_process(there)
    for address in range(pages):
        world.run_alone(there, increment_page(world, there, process, address))
    world.run_alone(there, reclaim(there, 1))
    for _ in range(processes - 1):
        world.run_alone(there, fork_process(world, there, process))
    return there, process


def spawn_threads(world: World, there: WorldHost, process: Process, access: str) -> None:
    """Add `bounds.threads` tasks that all do one of ACCESSES on page 0."""
    for cpu in range(world.bounds.threads):
        path = ACCESSES[access](world, there, process, 0)
        world.spawn(f"{access} {cpu}", path, there, alike=access)


def spawn_reclaim(world: World, there: WorldHost) -> None:
    """Add the task that swaps out, `bounds.swap_outs` times."""
    if world.bounds.swap_outs:
        world.spawn("reclaim", reclaim(there, world.bounds.swap_outs), there)


def contend(
    world: World, access: str, *, pages: int = 1, processes: int = 1, readahead: Readahead | None = None
) -> None:
    """Add a swapped-out page, the threads that fault on it for *access*, and reclaim."""
    there, process = swapped_out_page(world, pages=pages, processes=processes, readahead=readahead)
    spawn_threads(world, there, process, access)
    spawn_reclaim(world, there)
