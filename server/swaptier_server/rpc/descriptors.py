"""How the server divides its descriptors: clients get what is left when everything else has its own.

Touches the limits of the process and the log. A connection of gRPC takes one; when none is left gRPC accepts nothing
for a second and says nothing, so connections are bounded below the limit, and a shortage is said here.
"""

import resource
from collections.abc import Callable
from typing import Final

from swaptier_server.logs import get_log
from swaptier_server.rpc.server import CONNECTIONS_MAX
from swaptier_wire.descriptors import free_descriptors
from swaptier_wire.metrics_port import CONNECTIONS_MAX as METRICS_CONNECTIONS_MAX

RESERVE: Final = 32 + METRICS_CONNECTIONS_MAX
"""For event loop, gRPC, swap file and streams, which take some 20 together, files that are read again, and metrics."""
CONNECTIONS_MIN: Final = 8
"""Where the limit leaves less, the reserve is smaller."""
SCARCE: Final = 8
"""Fewer free descriptors than this are a shortage."""
LOG_SECONDS: Final = 60.0


def connections_max() -> int:
    """Return how many connections gRPC may hold under the present limit."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return max(CONNECTIONS_MIN, min(CONNECTIONS_MAX, limit - RESERVE))


class DescriptorWatch:
    """Says that descriptors are scarce, once in LOG_SECONDS."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns: Final = now_ns
        self._silent_until_ns = 0

    def look(self) -> None:
        """Look once; costs two system calls."""
        free = free_descriptors()
        if free >= SCARCE or self._now_ns() < self._silent_until_ns:
            return
        self._silent_until_ns = self._now_ns() + round(LOG_SECONDS * 1e9)
        get_log().warning(
            "descriptors_scarce",
            free=free,
            limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            meaning="new connections wait or are closed; those that are open go on",
            advice="raise the limit (ulimit -n, LimitNOFILE=)",
        )
