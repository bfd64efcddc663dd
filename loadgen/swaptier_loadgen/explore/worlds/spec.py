"""What a world is made of, before it is built.

Pure.
"""

from collections.abc import Callable
from typing import NamedTuple

from swaptier_client.mm.folio import Process
from swaptier_client.mm.policy import Policy
from swaptier_loadgen.explore.paths import increment_page, reclaim
from swaptier_loadgen.explore.world import Bounds, World, WorldHost


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


def swapped_out_page(world: World, there: WorldHost, process: Process, pages: int = 1) -> None:
    """Prelude: write version 1 of the first *pages* pages and swap them out."""
    for address in range(pages):
        world.run_alone(there, increment_page(world, there, process, address))
    world.run_alone(there, reclaim(there, 1))


def spawn_reclaim(world: World, there: WorldHost) -> None:
    """Add the task that swaps out, `bounds.swap_outs` times."""
    if world.bounds.swap_outs:
        world.spawn("reclaim", reclaim(there, world.bounds.swap_outs), there)
