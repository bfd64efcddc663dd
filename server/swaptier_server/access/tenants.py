"""What one tenant may have and do at once, so that the others can, too.

Pure; everything happens on the event loop. A tenant's names are kept apart by writing its own before them: whatever
ids and areas it says, they cannot be another's. On a server that does not ask who calls there is one tenant, which has
everything: only the bounds of the whole server hold.

What a tenant has on the tier is bounded by the tier's own accounts; here are its calls, and what it may have at most.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from swaptier_server.tier.account import Bound, Part
from swaptier_server.tier.area import Area
from swaptier_server.tier.swap_file import Client
from swaptier_wire.errors import InvalidRequest, LimitReached
from swaptier_wire.types import NAME_BYTES_MAX, AreaOptions

SEPARATOR: Final = "|"
"""Between a tenant's name, which has none, and the name it gave."""

HEALTH_CHECKS_MAX: Final = 64
"""Health checks at once of everybody: they need no identity, and must not crowd out those that do."""
HEALTH_WATCHES_MAX: Final = 64
"""The same of watches, which last: they must not crowd out the probes either."""
HEALTH_ADDRESS_PERCENT: Final = 50
"""Of either, for one address: no name is known, but where a call comes from."""

REQUEST_RETRY_SECONDS: Final = 0.1
STREAM_RETRY_SECONDS: Final = 1.0


class TenantLimits(NamedTuple):
    """What each tenant may have."""

    areas_max: int
    slots_max: int
    """Of all its areas together: each may cost a page of device."""
    requests_max: int
    """In flight, outside streams."""
    streams_max: int
    pool_bytes_max: int | None = None
    """Of the quotas of all its areas together: what it can take of the pool that all share. None: all of it."""


class Tenants:
    """What the tenants of a server have under way. Holds nothing of a tenant that has nothing under way."""

    def __init__(self, limits: TenantLimits, calls_max: int) -> None:
        """Let every tenant have its *limits*, and all together *calls_max* calls."""
        self._limits: Final = limits
        self._calls: Final = Bound(calls_max)
        self._calls_of: Final[dict[str, Part]] = {}
        self._requests: Final[dict[str, int]] = {}
        self._streams: Final[dict[str, int]] = {}
        self._checks: Final[dict[str, int]] = {}
        """Health checks, by where they come from, and of all under the empty name; so are watches."""
        self._watches: Final[dict[str, int]] = {}

    @contextmanager
    def request(self, tenant: str | None) -> Iterator[None]:
        """Count a request of *tenant* while the block runs.

        Raises:
            LimitReached: it has too many. Definite.
        """
        with (
            _counted(self._requests, tenant, self._limits.requests_max, "requests in flight", REQUEST_RETRY_SECONDS),
            self._call(tenant or "", REQUEST_RETRY_SECONDS),
        ):
            yield

    @contextmanager
    def stream(self, tenant: str | None) -> Iterator[None]:
        """Count a stream of *tenant* while the block runs.

        Raises:
            LimitReached: it has too many. Definite.
        """
        with (
            _counted(self._streams, tenant, self._limits.streams_max, "open streams", STREAM_RETRY_SECONDS),
            self._call(tenant or "", STREAM_RETRY_SECONDS),
        ):
            yield

    @contextmanager
    def health_call(self, peer: str, *, is_watch: bool) -> Iterator[None]:
        """Count a health call from *peer*, as gRPC names it, while the block runs.

        Raises:
            LimitReached: there are too many, from there or in all. Definite.
        """
        counts = self._watches if is_watch else self._checks
        most = HEALTH_WATCHES_MAX if is_watch else HEALTH_CHECKS_MAX
        what, address = "health watches" if is_watch else "health checks", peer.rpartition(":")[0]
        from_one = most * HEALTH_ADDRESS_PERCENT // 100
        with (
            _counted(counts, address, from_one, f"{what} from one address", STREAM_RETRY_SECONDS),
            _counted(counts, "", most, what, STREAM_RETRY_SECONDS),
        ):
            yield

    @property
    def tenants(self) -> int:
        """Among how many the calls are divided."""
        return self._calls.tenants

    def divide(self, tenants: int) -> None:
        """Divide the calls among so many tenants."""
        self._calls.divide(self._calls.most, tenants)

    @contextmanager
    def _call(self, tenant: str, retry_seconds: float) -> Iterator[None]:
        """Count a call among those of all."""
        part = self._calls_of.get(tenant) or Part(self._calls)
        if not part.may_take(1):
            if not part.used:
                self._calls.parts.remove(part)
            raise LimitReached(
                f"{self._calls.used} calls are under way on this server, which takes {self._calls.most}"
                f"{part.says_share()}; nothing was applied. Try again when some have ended",
                retry_after_seconds=retry_seconds,
            )
        self._calls_of[tenant] = part
        part.take(1)
        try:
            yield
        finally:
            part.take(-1)
            if not part.used:
                del self._calls_of[tenant]
                self._calls.parts.remove(part)

    def check_swapon(
        self, tenant: str | None, areas: Iterable[Area], client: Client, name: str, slots: int, options: AreaOptions
    ) -> None:
        """Refuse an area that would be too much for *tenant*; *areas* are all that are open, names are qualified.

        Raises:
            LimitReached: nothing changed. Definite.
        """
        if tenant is None:
            return
        # What this very call would end, as a host that was started anew does, counts no more.
        others = [
            area
            for area in areas
            if area.client.id.startswith(f"{tenant}{SEPARATOR}")
            and area.name != name
            and not (area.client.id == client.id and area.client.epoch < client.epoch)
        ]
        limits = self._limits
        if len(others) >= limits.areas_max:
            raise LimitReached(
                f"this tenant has {len(others)} areas open and may have {limits.areas_max}; nothing changed. Swapoff "
                "one, or ask for a higher --tenant-areas-max"
            )
        present = sum(area.slots for area in others)
        if present + slots > limits.slots_max:
            raise LimitReached(
                f"this tenant has areas of {present} slots, asked for {slots} more and may have {limits.slots_max}; "
                "nothing changed. Ask for fewer, Swapoff an area, or ask for a higher --tenant-slots-max"
            )
        if limits.pool_bytes_max is not None:
            _check_quota(limits.pool_bytes_max, [area.options for area in others], options)


def _check_quota(bytes_max: int, others: Iterable[AreaOptions], options: AreaOptions) -> None:
    """Refuse an area with *options* that could take more of the pool than is left of *bytes_max* beside *others*.

    Raises:
        LimitReached: nothing changed. Definite.
    """
    # One without a quota was found in a swap file, where it was recorded when nobody asked for one.
    present = sum(bytes_max if other.pool_bytes_max is None else other.pool_bytes_max for other in others)
    left = max(0, bytes_max - present)
    if options.pool_bytes_max is None or options.pool_bytes_max > left:
        asked = "has no quota" if options.pool_bytes_max is None else f"asks for {options.pool_bytes_max} bytes of it"
        raise LimitReached(
            f"this tenant may take {bytes_max} bytes of the pool, its open areas may take {present}, and the new one "
            f"{asked}; nothing changed. Ask for a pool_bytes_max of up to {left}, Swapoff an area, or ask for a higher "
            "--tenant-pool-limit"
        )


def qualified(tenant: str | None, name: str) -> str:
    """Return *name* as the tier knows it: one that no other tenant can say.

    Raises:
        InvalidRequest: with the tenant's it is too long. Definite.
    """
    if tenant is None:
        return name
    full = f"{tenant}{SEPARATOR}{name}"
    if len(full.encode()) > NAME_BYTES_MAX:
        raise InvalidRequest(
            f"the name is {len(name.encode())} bytes long; nothing was applied. Together with the tenant's, "
            f"{len(tenant)}, it may have {NAME_BYTES_MAX - len(SEPARATOR)}"
        )
    return full


def tenant_of(name: str) -> str | None:
    """Return whose *name* is, of an area or a client as the tier knows it; None without a tenant's before it."""
    tenant, separator, _ = name.partition(SEPARATOR)
    return tenant if separator else None


@contextmanager
def _counted(counts: dict[str, int], tenant: str | None, most: int, what: str, retry_seconds: float) -> Iterator[None]:
    if tenant is None:
        yield
        return
    present = counts.get(tenant, 0)
    if present >= most:
        raise LimitReached(
            f"{present} {what} are the most that are allowed at once; nothing was applied. Try again when some have "
            "ended",
            retry_after_seconds=retry_seconds,
        )
    counts[tenant] = present + 1
    try:
        yield
    finally:
        counts[tenant] -= 1
        if not counts[tenant]:
            del counts[tenant]
