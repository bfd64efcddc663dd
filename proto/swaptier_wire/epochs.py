"""Epochs: numbers that say which life of a server or of a client it is. Each start has a higher one.

Touches the wall clock and the system's randomness. The clock may be set back between two starts, so what a server and a
host know of each other's earlier epochs counts for more: a server is above what its swap file recorded and, to each
host, above every server that the host has seen; a host that is refused is told the epoch to be above.
"""

import secrets
import time

from swaptier_wire.types import EPOCH_MAX

_CHANCE_BITS = 20
"""The last millisecond: two starts under a clock that stands still differ."""


def new_epoch() -> int:
    """Return an epoch for a program that starts now, above all earlier ones while the wall clock is not set back."""
    return epoch_above(max(time.time_ns(), 0))


def epoch_above(known: int) -> int:
    """Return an epoch above *known*, or `EPOCH_MAX`; two programs that are above the same one still differ."""
    return min(((known >> _CHANCE_BITS) + 1) << _CHANCE_BITS | secrets.randbits(_CHANCE_BITS), EPOCH_MAX)
