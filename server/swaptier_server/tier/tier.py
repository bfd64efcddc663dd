"""The tier: which areas are open, whose they are, and the pool they share.

Pure; every method is one atomic step. Rules of conduct:
  - An area belongs to one client id, and to one epoch of it. Nobody else reads, frees or counts its pages.
  - The highest epoch that opened an area is the client's present life. A lower one is a host that was replaced: it
    is refused everywhere, and its areas end at once, since nobody could ever read them again.

Models: sys_swapon() and sys_swapoff() in mm/swapfile.c as far as zswap sees them (zswap_swapon(), zswap_swapoff()).
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from swaptier_server.tier.area import Area, Client
from swaptier_server.tier.device import MemoryDevice, SwapDevice
from swaptier_server.tier.pool import Pool
from swaptier_server.tier.slot import Slot
from swaptier_wire.errors import AreaExists, AreaNotOwned, ClientReplaced, InvalidRequest, LimitReached, UnknownArea
from swaptier_wire.types import AreaOptions

__all__ = ["Area", "Client", "Tier", "TierLimits"]

NAME_BYTES_MAX: Final = 128
"""Of a client id or an area name, in UTF-8: they label metrics and log lines."""

CLIENTS_REMEMBERED_MAX: Final = 1024
"""Clients without an area whose last epoch is remembered. Forgetting one lets a past life in, to new areas."""

PERCENT_MAX: Final = 100


class TierLimits(NamedTuple):
    """What a tier may hold."""

    pool_bytes_max: int
    """Of all areas together. 0 keeps only same-filled pages in the pool."""
    accept_threshold_percent: int = 90
    """0 to 100. A pool that reached its limit takes pages again at this share of it."""
    areas_max: int = 64
    slots_per_area_max: int = 1 << 20
    """4 GiB of pages. Each slot that was ever used costs a few hundred bytes besides its page."""
    keeps_incompressible: bool = True
    """Pages that lz4 does not make shorter are kept raw; else the pool refuses them."""


class Tier:
    """Every area of one server.

    Invariants: `pool.bytes` is the sum over the areas' entries; an area's epoch is its client's remembered one.
    """

    def __init__(
        self, limits: TierLimits, epoch: int, device_for: Callable[[str], SwapDevice] = lambda _name: MemoryDevice()
    ) -> None:
        """Start empty; *device_for* makes the device of a new area, by name.

        Raises:
            ValueError: a limit that nothing can satisfy.
        """
        _check_limits(limits)
        self.limits: Final = limits
        self.epoch: Final = epoch
        """Rises each time the server starts: a host that sees it change knows that pages in memory are lost."""
        self.pool: Final = Pool(limits.pool_bytes_max, limits.accept_threshold_percent)
        self.areas: dict[str, Area] = {}
        self._device_for: Final = device_for
        self._epochs: dict[str, int] = {}
        """The highest epoch that opened an area, by client id; the least recently opened first."""

    def swapon(self, client: Client, name: str, slots: int, options: AreaOptions) -> tuple[Area, bool]:
        """Open an area; return it and whether it was open already and kept its pages.

        A higher epoch of the same client is that host after a reboot: all its older areas end, and this one starts
        empty, with whatever slots and options are now asked for.

        Raises:
            InvalidRequest, LimitReached, ClientReplaced, AreaNotOwned, AreaExists: nothing changed. Definite.
        """
        self._check_swapon(client, name, slots)
        self._refuse_replaced(client)
        area = self.areas.get(name)
        if area is not None:
            if area.client.id != client.id:
                raise AreaNotOwned(f"area {name!r} is another client's; nothing changed. Choose another name")
            if area.client.epoch == client.epoch:
                if (area.slots, area.options) != (slots, options):
                    raise AreaExists(
                        f"area {name!r} is open with {area.slots} slots and {area.options}; asked for {slots} and "
                        f"{options}. It is unchanged. Swapoff first, or ask for what is open"
                    )
                return area, True
        ended = [one.name for one in self.areas.values() if one.client.id == client.id and one.client != client]
        if len(self.areas) - len(ended) >= self.limits.areas_max:
            raise LimitReached(
                f"all {self.limits.areas_max} areas are open; {name!r} was not opened. Swapoff one, or raise the limit"
            )
        for name_ended in ended:
            self.drop_area(name_ended)
        opened = Area(
            name,
            slots,
            options,
            client,
            pool=self.pool,
            device=self._device_for(name),
            keeps_incompressible=self.limits.keeps_incompressible,
        )
        self.areas[name] = opened
        self._remember(client)
        return opened, False

    def area(self, client: Client, name: str) -> Area:
        """Return the client's open area.

        Raises:
            UnknownArea, AreaNotOwned, ClientReplaced: definite.
        """
        self._refuse_replaced(client)
        area = self.areas.get(name)
        if area is None:
            raise UnknownArea(f"no area {name!r} is open; nothing changed. Swapon first")
        if area.client.id != client.id:
            raise AreaNotOwned(f"area {name!r} is another client's; nothing changed. Use your own")
        if area.client.epoch != client.epoch:
            raise UnknownArea(
                f"area {name!r} was opened by epoch {area.client.epoch} of client {client.id!r}, not by epoch "
                f"{client.epoch}; nothing changed. Swapon first: the area then starts empty"
            )
        return area

    def swapoff(self, client: Client, name: str) -> int:
        """Close the client's area and forget its pages, in the pool and on its device; return how many the pool held.

        Raises:
            UnknownArea, AreaNotOwned, ClientReplaced: nothing changed. Definite.
        """
        self.area(client, name)
        return self.drop_area(name)

    def drop_area(self, name: str) -> int:
        """Close an area whoever owns it, as when its client is gone; return how many pages the pool held.

        Raises:
            UnknownArea: definite.
        """
        area = self.areas.pop(name, None)
        if area is None:
            raise UnknownArea(f"no area {name!r} is open; nothing changed")
        return area.close()

    def check_invariants(self) -> None:
        """Recount everything.

        Raises:
            AssertionError: a defect of the tier.
        """
        on_lru: list[Slot] = []
        for name, area in self.areas.items():
            assert area.name == name, f"area {area.name!r} is filed under {name!r}"
            assert not area.is_closed, f"area {name!r} is closed and still listed"
            assert area.client.epoch == self._epochs[area.client.id], f"area {name!r} is of a life that is over"
            on_lru += area.check_invariants()
        self.pool.check_invariants(on_lru)
        assert self.pool.bytes == sum(area.pool_bytes for area in self.areas.values()), "pool bytes and areas disagree"
        assert len(self.areas) <= self.limits.areas_max, "too many areas"
        assert len(self._epochs) <= max(CLIENTS_REMEMBERED_MAX, self.limits.areas_max), "too many clients remembered"

    def _check_swapon(self, client: Client, name: str, slots: int) -> None:
        for what, text in (("client id", client.id), ("area name", name)):
            length = len(text.encode())
            if not 1 <= length <= NAME_BYTES_MAX:
                raise InvalidRequest(f"the {what} is {length} bytes long; nothing changed. Use 1 to {NAME_BYTES_MAX}")
        if slots < 1:
            raise InvalidRequest(f"area {name!r} was asked for with {slots} slots; nothing changed. Ask for 1 or more")
        if slots > self.limits.slots_per_area_max:
            raise LimitReached(
                f"area {name!r} was asked for with {slots} slots; nothing changed. This server allows "
                f"{self.limits.slots_per_area_max} slots an area"
            )

    def _refuse_replaced(self, client: Client) -> None:
        seen = self._epochs.get(client.id)
        if seen is not None and client.epoch < seen:
            raise ClientReplaced(
                f"client {client.id!r} was started anew as epoch {seen}; epoch {client.epoch} can do nothing here any "
                "more and nothing changed. Stop this host: its pages belong to the newer one, or are gone"
            )

    def _remember(self, client: Client) -> None:
        """Note the client's epoch as the newest, and forget the clients that have been without an area for longest."""
        self._epochs.pop(client.id, None)
        self._epochs[client.id] = client.epoch
        if len(self._epochs) > CLIENTS_REMEMBERED_MAX:
            owners = {area.client.id for area in self.areas.values()}
            forgotten = next((known for known in self._epochs if known not in owners), None)
            if forgotten is not None:
                del self._epochs[forgotten]


def _check_limits(limits: TierLimits) -> None:
    if limits.pool_bytes_max < 0:
        raise ValueError(f"the pool limit is {limits.pool_bytes_max} bytes; it must be 0 or more")
    if not 0 <= limits.accept_threshold_percent <= PERCENT_MAX:
        raise ValueError(f"the accept threshold is {limits.accept_threshold_percent} %; it must be 0 to {PERCENT_MAX}")
    if limits.areas_max < 1 or limits.slots_per_area_max < 1:
        raise ValueError(
            f"{limits.areas_max} areas of {limits.slots_per_area_max} slots hold nothing; allow at least 1"
        )
