"""Install failures on purpose: which of the pages that faults read cannot be mapped, and why.

Pure; chance comes in seeded. One draw for each page read decides whether and which, so that a race with one cause fails
the same installs as a race without the others.
"""

import random
from collections.abc import Mapping

from swaptier_client.mm.counters import InstallFailure
from swaptier_client.mm.fault import MOVE_DISTANCE

TAKES_THE_ENTRY = (InstallFailure.MOVED, InstallFailure.ZAPPED)
"""Causes that leave nothing at the address: the page is elsewhere, or discarded."""


class InstallFailures:
    """What the fault path asks once for each page that it read."""

    def __init__(self, rates: Mapping[InstallFailure, float], chance: random.Random) -> None:
        """Fail each cause's share of the installs; the shares come to less than 1."""
        self._draw = chance.random
        self._upto: list[tuple[float, InstallFailure]] = []
        total = 0.0
        for cause, rate in rates.items():
            total += rate
            self._upto.append((total, cause))
        assert total < 1, "at 1 no fault would end"

    def __call__(self, _pid: int, address: int) -> InstallFailure | None:
        """Return why this install is to fail, None to let it be."""
        drawn = self._draw()
        for upto, cause in self._upto:
            if drawn < upto:
                # A moved page is read where it is now and then dropped: it is not taken a second time.
                return None if address >= MOVE_DISTANCE and cause in TAKES_THE_ENTRY else cause
        return None
