"""What is bounded for all tenants together, and what of it each has: no tenant can take what another was promised.

Pure. A tenant is a name, which the shell makes of a client id; where nobody is asked who calls there is one. Rules of
conduct:
  - Of each bound RESERVED_PERCENT are divided equally among the tenants: such a part is its tenant's, used or not. The
    rest is lent to whoever comes first, and a tenant that holds some of that is over its share.
  - What stays within the share is never refused because of others. So nothing of a share is ever lent, and nothing
    has to be taken back from one tenant before another can have its own.
  - A single tenant has no share: all is lent to it.

Models: memory.min of memcg, which protects what it guarantees; sharing with a minimum allocation (Kamoun, Kleinrock,
1980), because here nothing that was lent can be taken back at once: a claimed page cannot go, a device may refuse.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from swaptier_wire.errors import LimitReached

RESERVED_PERCENT: Final = 50
"""Of each bound, for all tenants together: who is alone on a server of two has three quarters of everything."""
UNBOUNDED: Final = 1 << 62
"""A bound that nothing reaches."""
ACCOUNTS_MAX: Final = 1024
"""Tenants that are remembered: as many as a token file has lines. Those with areas are always."""
CLIENTS_REMEMBERED_MAX: Final = 1024
"""Clients of one tenant without an area whose last epoch is remembered. Forgetting one lets a past life in, to new
areas."""


class Bound:
    """How much of something there may be.

    Invariants: `used` is the sum over the parts, `lent` the sum of what they have beyond `reserved`.
    """

    def __init__(self, most: int = UNBOUNDED) -> None:
        """Begin with nothing used and one tenant."""
        self.most: int = most
        self.tenants: int = 1
        self.used: int = 0
        self.reserved: int = 0
        """For each tenant."""
        self.lendable: int = most
        self.lent: int = 0
        self.parts: Final[list[Part]] = []

    def divide(self, most: int, tenants: int) -> None:
        """Have *most* of it for *tenants* from now on. What is used stays so, and may be more than is allowed now."""
        self.most, self.tenants = most, tenants
        half = most * RESERVED_PERCENT // 100
        # One for each, where there are so many: a tenant of 33 had no share of 64 areas.
        self.reserved = max(half // tenants, min(1, most // tenants)) if tenants > 1 else 0
        self.lendable = most - self.reserved * tenants
        self.lent = sum(part.over for part in self.parts)


class Part:
    """One tenant's part of a bound."""

    def __init__(self, bound: Bound) -> None:
        self.bound: Final = bound
        self.used: int = 0
        bound.parts.append(self)

    @property
    def over(self) -> int:
        """What it has beyond its reserved share."""
        return max(0, self.used - self.bound.reserved)

    def says_share(self) -> str:
        """Return what a refusal says of it, after what all together have; nothing where there is one tenant."""
        if self.bound.tenants == 1:
            return ""
        return f", {self.used} by this tenant, for whom {self.bound.reserved} are reserved"

    def room(self) -> int:
        """Return how much more it may take."""
        bound = self.bound
        return max(0, bound.reserved - self.used) + max(0, bound.lendable - bound.lent)

    def may_take(self, amount: int) -> bool:
        """Tell whether it may take *amount* more; less or the same it always may."""
        bound = self.bound
        over = self.used + amount - bound.reserved
        return over <= 0 or amount <= 0 or bound.lent + min(over, amount) <= bound.lendable

    def take(self, amount: int) -> None:
        """Take *amount*, allowed or not, or give it back if it is negative."""
        bound, before = self.bound, self.used
        self.used += amount
        bound.used += amount
        reserved = bound.reserved
        if not reserved:
            bound.lent += amount
        elif before > reserved or before + amount > reserved:
            bound.lent += max(0, before + amount - reserved) - max(0, before - reserved)


class Bounds(NamedTuple):
    """Everything that tenants share."""

    areas: Bound
    slots: Bound
    """Of open areas, used or not."""
    pool_bytes: Bound
    pool_entries: Bound
    """Those that take bytes."""
    device_pages: Bound
    """Slots for which the devices have a page, current or not."""
    leases: Bound


class Account:
    """One tenant: its part of everything, and the last lives of its clients."""

    def __init__(self, name: str, bounds: Bounds) -> None:
        self.name: Final = name
        self.areas: Final = Part(bounds.areas)
        self.slots: Final = Part(bounds.slots)
        self.pool_bytes: Final = Part(bounds.pool_bytes)
        self.pool_entries: Final = Part(bounds.pool_entries)
        self.device_pages: Final = Part(bounds.device_pages)
        self.leases: Final = Part(bounds.leases)
        self.device_refusals: int = 0
        """Pages that found no room on a device within its bound."""
        self.discards: Final[list[Callable[[int], int]]] = []
        """Of its areas: make the device forget so many pages that nothing needs, or fewer; return how many."""
        self.epochs: Final[dict[str, int]] = {}
        """The highest epoch that opened an area, by client id; the least recently opened first."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """Its part of everything, in the order of `Bounds`."""
        return (self.areas, self.slots, self.pool_bytes, self.pool_entries, self.device_pages, self.leases)

    def make_device_room(self, pages: int) -> bool:
        """See that the devices have room for so many pages more, as far as one search finds some; return whether.

        Models: the discard of free clusters in mm/swapfile.c.
        """
        if self.device_pages.may_take(pages):
            return True
        for _ in self.discards:
            discard = self.discards.pop(0)
            self.discards.append(discard)
            if discard(pages):
                break
        return self.device_pages.may_take(pages)

    def remember(self, client_id: str, epoch: int, owners: Iterable[str]) -> None:
        """Note a client's epoch as its newest; forget the one that was without an area for longest, of all *owners*."""
        self.epochs.pop(client_id, None)
        self.epochs[client_id] = epoch
        if len(self.epochs) > CLIENTS_REMEMBERED_MAX:
            have_areas = set(owners)
            forgotten = next((known for known in self.epochs if known not in have_areas), None)
            if forgotten is not None:
                del self.epochs[forgotten]

    def check_area(self, name: str, areas: int, slots: int) -> None:
        """Refuse to open the area *name* where the tenant may not have so many *areas* and *slots* more.

        Raises:
            LimitReached: definite.
        """
        for what, part, more in (("areas", self.areas, areas), ("slots", self.slots, slots)):
            if not part.may_take(more):
                raise LimitReached(
                    f"area {name!r} was not opened: this server has {part.bound.most} {what} in all, of which "
                    f"{part.bound.used} are taken{part.says_share()}; nothing changed. Swapoff an area, or ask for a "
                    f"higher --{what}-max"
                )

    @property
    def is_in_use(self) -> bool:
        """It has something."""
        return any(part.used for part in self.parts)


class Accounts:
    """The tenants of a tier."""

    def __init__(self, bounds: Bounds, tenant_of: Callable[[str], str]) -> None:
        """Know nobody; *tenant_of* names the tenant that a client id belongs to."""
        self.bounds: Final = bounds
        self._tenant_of: Final = tenant_of
        self._accounts: Final[dict[str, Account]] = {}
        """The one that least recently opened an area first."""
        self.tenants: int = 1
        """Among how many everything is divided."""
        self._may_be_more = True

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    @property
    def in_use(self) -> int:
        """How many tenants have something."""
        return sum(account.is_in_use for account in self)

    def find(self, client_id: str) -> Account | None:
        """Return the account of a client, if it is remembered."""
        return self._accounts.get(self._tenant_of(client_id))

    def open(self, client_id: str) -> Account:
        """Return the account of a client, which opens an area.

        Raises:
            LimitReached: it would be one more than there may be. Definite.
        """
        name = self._tenant_of(client_id)
        account = self._accounts.pop(name, None)
        if account is None or not account.is_in_use:
            in_use = self.in_use
            if in_use >= self.tenants:
                if not self._may_be_more:
                    if account is not None:
                        self._accounts[name] = account
                    raise LimitReached(
                        f"{in_use} tenants have something on this server, which is divided among {self.tenants}; "
                        "nothing changed. Ask for a higher --tenants-max"
                    )
                self.divide(in_use + 1)
        self._accounts[name] = account = account or Account(name, self.bounds)
        self._forget_one_besides(account)
        return account

    def divide(self, tenants: int, *, may_be_more: bool | None = None) -> None:
        """Divide everything among so many tenants, or among those that have something if they are more.

        If more come, they get a share too, and all have less, or are refused: as *may_be_more* says, from now on.
        """
        if may_be_more is not None:
            self._may_be_more = may_be_more
        self.tenants = max(tenants, self.in_use)
        for bound in self.bounds:
            bound.divide(bound.most, self.tenants)

    def _forget_one_besides(self, kept: Account) -> None:
        if len(self._accounts) > ACCOUNTS_MAX:
            forgotten = next((account for account in self if account is not kept and not account.is_in_use), None)
            if forgotten is not None:
                del self._accounts[forgotten.name]
                for part in forgotten.parts:
                    part.bound.parts.remove(part)
