"""The worlds: each a short function whose docstring is the question it asks, and the bounds it is asked within.

Pure. A world's function builds one instance: hosts, pages, a prelude that runs alone, tasks. The same arguments build
the same world. Names are the public interface (CLI, JSON, golden transcripts).
"""

from swaptier_loadgen.explore.worlds import faults, network, sharing, tier_side
from swaptier_loadgen.explore.worlds.spec import WorldSpec

WORLDS: dict[str, WorldSpec] = {
    spec.name: spec for spec in (*faults.WORLDS, *sharing.WORLDS, *tier_side.WORLDS, *network.WORLDS)
}
"""Every world by name, from the plainest to the furthest from the kernel."""

__all__ = ["WORLDS", "WorldSpec"]
