"""Among how many tenants the server divides what it has, and what the file system of its swap file has.

Touches the parts that it is given, and asks the file system. With tokens the file says how many tenants there are;
where it is read again with more, all have less. With certificates alone any number may come: --tenants-max are let in.
"""

from typing import Final

from swaptier_server.access.access import Access
from swaptier_server.access.tenants import Tenants
from swaptier_server.config import TENANTS_UNSAID, ServerConfig
from swaptier_server.logs import CallerLog
from swaptier_server.swapfile.file import SqliteSwapFile
from swaptier_server.swapfile.medium import ROOM_BYTES, free_bytes
from swaptier_server.tier.account import UNBOUNDED
from swaptier_server.tier.tier import Tier
from swaptier_wire.types import PAGE_BYTES

DEVICE_ROW_BYTES: Final = 560
"""Of the swap file for a page besides the page: 520 for one that does not compress."""


def tenants_expected(config: ServerConfig, access: Access) -> int:
    """Return how many tenants everything is divided among."""
    if access.tokens is not None:
        return max(config.tenants_max or 1, len(access.tokens.tenants))
    return (config.tenants_max or TENANTS_UNSAID) if config.knows_tenants else 1


class Shares:
    """Divides a tier, and the calls, among the tenants of a server."""

    def __init__(
        self,
        config: ServerConfig,
        access: Access,
        tier: Tier,
        tenants: Tenants,
        swap_file: SqliteSwapFile | None,
        log: CallerLog,
    ) -> None:
        """Divide everything; write to *log* who meets a bound."""
        self._config: Final = config
        self._access: Final = access
        self._tier: Final = tier
        self._tenants: Final = tenants
        self._swap_file: Final = swap_file
        self._log: Final = log
        self._refusals: dict[str, int] = {}
        """Of pages for want of room on a device, by tenant, when this was last looked at."""
        may_be_more = access.tokens is not None or not config.knows_tenants
        tier.accounts.divide(tenants_expected(config, access), may_be_more=may_be_more)
        tenants.divide(tier.accounts.tenants)
        self.look()

    def look(self) -> None:
        """Divide everything anew if there are more or fewer tenants; see how much room the swap file has.

        Say who met the bound of the devices.
        """
        accounts = self._tier.accounts
        expected = max(tenants_expected(self._config, self._access), accounts.in_use)
        if expected != accounts.tenants:
            accounts.divide(expected)
        if expected != self._tenants.tenants:
            self._tenants.divide(expected)
        if self._swap_file is not None and self._config.device_limit is None:
            self._divide_file_system(self._swap_file, expected)
        self._say_who_met_the_bound_of_devices()

    def _say_who_met_the_bound_of_devices(self) -> None:
        before, self._refusals = self._refusals, {one.name: one.device_refusals for one in self._tier.accounts}
        for account in self._tier.accounts:
            refused = account.device_refusals - before.get(account.name, 0)
            if refused <= 0:
                continue
            pages = account.device_pages
            tenant = account.name or None
            self._log.of(tenant, "device_limit_reached").warning(
                "device_limit_reached",
                tenant=tenant,
                refused=refused,
                pages=pages.used,
                reserved_pages=pages.bound.reserved,
                of_all=pages.bound.used,
                limit_pages=pages.bound.most,
                meaning="stores that need the device are REJECTED (device_limit); its hosts keep the pages",
                advice="give a higher --device-limit, or make room on the file system of the swap file",
            )

    def _divide_file_system(self, swap_file: SqliteSwapFile, tenants: int) -> None:
        """Bound the pages of all devices by those that there are, and those for which there is room now.

        One tenant alone is bounded by the file itself.
        """
        free = free_bytes(swap_file.path) if tenants > 1 else None
        pages = self._tier.accounts.bounds.device_pages
        most = UNBOUNDED if free is None else pages.used + max(0, free - ROOM_BYTES) // (PAGE_BYTES + DEVICE_ROW_BYTES)
        pages.divide(most, tenants)
