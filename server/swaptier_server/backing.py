"""What stands behind the tier's pool, and the work that keeps the two apart: leases that end, pages written back.

Touches the swap file's path, and the event loop between bounded pieces of work. Rules of conduct:
  - A pool that met its limit is shrunk in pieces of some milliseconds, with every request that came meanwhile in
    between; the kernel leaves that to a worker, too.
  - What a lease holds is the tier's again at the next housekeeping after its end: nothing waits for that but another
    claimant.
"""

import asyncio
from pathlib import Path
from typing import Final

from swaptier_server.config import ConfigError, ServerConfig
from swaptier_server.swapfile import SqliteSwapFile, SwapFileUnusable
from swaptier_server.tier.shrinker import DrainProgress
from swaptier_server.tier.tier import LEASES_ENDED_MAX, Tier


def open_swap_file(config: ServerConfig) -> SqliteSwapFile | None:
    """Return the swap file that --device names; None when devices are in memory.

    Raises:
        ConfigError: it cannot be used.
    """
    if config.device.path is None:
        return None
    try:
        return SqliteSwapFile(Path(config.device.path))
    except SwapFileUnusable as error:
        raise ConfigError(f"--device: {error}") from error


class Upkeep:
    """Does in pieces what nobody asks for in a request."""

    def __init__(self, tier: Tier) -> None:
        self._tier: Final = tier
        self._is_shrinking = False

    def after_request(self) -> None:
        """See whether the pool met its limit, and begin to shrink it. Cheap: called after every message."""
        if self._tier.pool.wants_shrink and not self._is_shrinking:
            self._is_shrinking = True
            asyncio.get_running_loop().call_soon(self._shrink)

    def _shrink(self) -> None:
        self._tier.shrink()
        self._is_shrinking = self._tier.pool.wants_shrink
        if self._is_shrinking:
            asyncio.get_running_loop().call_soon(self._shrink)

    def end_leases(self) -> int:
        """Take back every page whose lease is over; return how many."""
        ended = 0
        while (some := self._tier.expire_leases()) == LEASES_ENDED_MAX:
            ended += some
        return ended + some

    async def write_back_all(self) -> DrainProgress:
        """Write the whole pool back, because the server stops; return what became of its pages."""
        come_so_far = DrainProgress()
        for part in self._tier.drain():
            come_so_far = part
            await asyncio.sleep(0)
        return come_so_far
