"""The tiers that a host swaps to, as --target names them.

Pure.
"""

from typing import NamedTuple


class Target(NamedTuple):
    """A tier that a host has a swap device on."""

    address: str
    """HOST:PORT or unix:PATH."""
    priority: int
    """Of the swap device: higher ones are filled first, equal ones in turn."""


def parse_tiers(target: str) -> tuple[Target, ...]:
    """Return the tiers that *target* names, separated by commas, each perhaps with @PRIORITY; 0 without."""
    tiers = []
    for part in target.split(","):
        address, _, priority = part.rpartition("@")
        if address and priority.removeprefix("-").isdecimal():
            tiers.append(Target(address, int(priority)))
        else:
            tiers.append(Target(part, 0))
    return tuple(tiers)
