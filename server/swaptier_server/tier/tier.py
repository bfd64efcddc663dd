"""The tier: which areas are open, whose they are, and the pool they share.

Pure; every method is one atomic step, and takes time from the clock that the tier was given. Rules of conduct:
  - An area belongs to one client id, and to one epoch of it. No other client reads, frees or counts its pages.
  - The highest epoch that opened an area is the client's present life. A lower one is a host that was replaced: it
    is refused everywhere, and its areas end at once, since they could never be read again.
  - An area that the swap file kept is open from the start, with the pages that its device has, for the same life of
    its client.

Models: sys_swapon() and sys_swapoff() in mm/swapfile.c as far as zswap sees them (zswap_swapon(), zswap_swapoff()).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from swaptier_server.tier.account import UNBOUNDED, Accounts, Bound, Bounds
from swaptier_server.tier.area import SLOTS_FORGOTTEN_MAX, Area, Common, Durability
from swaptier_server.tier.area_check import check_accounts, check_areas
from swaptier_server.tier.counters import LeaseEnd
from swaptier_server.tier.device import BadReads, DeviceError, MemoryDevice
from swaptier_server.tier.leases import Leases
from swaptier_server.tier.pool import Pool
from swaptier_server.tier.shrinker import SHRINK_PAGES_MAX, ClosedAreas, DrainProgress, drain, shrink
from swaptier_server.tier.slot import Slot
from swaptier_server.tier.swap_file import SWEEP_PAGES_MAX, Client, MemorySwapFile, SavedArea, SwapFile
from swaptier_wire.errors import AreaExists, AreaNotOwned, ClientReplaced, InvalidRequest, LimitReached, UnknownArea
from swaptier_wire.types import NAME_BYTES_MAX, AreaOptions

PERCENT_MAX: Final = 100

LEASES_ENDED_MAX: Final = 256
"""Leases that one call ends, unless said otherwise: some 0.5 ms."""
DRAIN_PAGES_MAX: Final = 256
"""Pages that a drain writes in one go, unless said otherwise: nobody waits for the loop then."""

NO_EPOCH: Final = 0
"""Epoch of no server."""


class TierLimits(NamedTuple):
    """What a tier may hold."""

    pool_bytes_max: int
    """Of all areas together. 0 keeps only same-filled pages in the pool."""
    accept_threshold_percent: int = 90
    """0 to 100. A pool that reached its limit takes pages again at this share of it."""
    areas_max: int = 64
    slots_per_area_max: int = 1 << 20
    """4 GiB of pages. See `slot_table` for what one costs besides its page."""
    keeps_incompressible: bool = True
    """Pages that lz4 does not make shorter are kept raw; else the pool refuses them."""
    lease_ns: int = 10_000_000_000
    """How long a claim has, from its last answer to its acknowledgement."""
    leases_per_area_max: int = 4096
    """Claims not yet acknowledged. Their pages cannot be written back: up to 16 MiB of the pool."""
    leases_max: int = UNBOUNDED
    """Of all areas together."""
    slots_max: int = UNBOUNDED
    """Of all areas together, used or not."""
    pool_entries_max: int = UNBOUNDED
    """Pages that take bytes of the pool, which short ones could fill with many."""
    device_pages_max: int = UNBOUNDED
    """For which the devices of all areas together have a page, current or not."""


class Tier:
    """Every area of one server.

    Invariants: `pool.bytes` is the sum over the areas' entries, those of closed areas that still end among them; an
    area's epoch is its client's remembered one.
    """

    def __init__(
        self,
        limits: TierLimits,
        epoch: int,
        device_for: Callable[[str], MemoryDevice] = lambda _name: MemoryDevice(),
        *,
        swap_file: SwapFile | None = None,
        durability: Durability = Durability.MEMORY,
        tenant_of: Callable[[str], str] = lambda _client_id: "",
        now_ns: Callable[[], int] = lambda: 0,
    ) -> None:
        """Start empty, or with what *swap_file* kept.

        *device_for* makes the device of a new area, by name, where there is no swap file. *tenant_of* names the tenant
        that a client id belongs to; `accounts` says how much each may have of what is bounded. *now_ns* is a monotonic
        clock; without one, leases end only when `expire_leases()` is given a time.

        Raises:
            ValueError: a limit that nothing can satisfy, or that what the swap file kept does not.
            DeviceError: the swap file cannot be read.
        """
        _check_limits(limits)
        self.limits: Final = limits
        self.epoch: Final = epoch
        """Rises each time the server starts: a host that sees it change knows that pages in memory are lost."""
        self.durability: Final = durability
        bounds = Bounds(
            areas=Bound(limits.areas_max),
            slots=Bound(limits.slots_max),
            pool_bytes=Bound(limits.pool_bytes_max),
            pool_entries=Bound(limits.pool_entries_max),
            device_pages=Bound(limits.device_pages_max),
            leases=Bound(limits.leases_max),
        )
        self.accounts: Final = Accounts(bounds, tenant_of)
        self.pool: Final = Pool(bounds, limits.accept_threshold_percent)
        self.areas: dict[str, Area] = {}
        self._leases: Final = Leases(limits.lease_ns, now_ns)
        self.bad_reads: Final = BadReads()
        self._common: Final = Common(
            self.pool, self._leases, limits.leases_per_area_max, limits.keeps_incompressible, durability, self.bad_reads
        )
        self._swap_file: Final[SwapFile] = MemorySwapFile(device_for) if swap_file is None else swap_file
        self._areas_opened = 0
        self._ending: Final = ClosedAreas(Area.forget_slots, lambda area: bool(area.known_slots))
        """Those that have slots."""
        self._swept: Final = ClosedAreas(Area.sweep, lambda area: area.written_pages > 0)
        """Those whose pages are on their devices still."""
        self._restore(self._swap_file.saved_areas())

    # Areas

    def swapon(
        self,
        client: Client,
        name: str,
        slots: int,
        options: AreaOptions,
        *,
        seen_server_epoch: int = NO_EPOCH,
        seen_incarnation: int = 0,
    ) -> tuple[Area, bool]:
        """Open an area; return it and whether it was open already and kept its pages.

        A higher epoch of the same client is that host after a reboot: all its older areas end, and this one starts
        empty, with whatever slots and options are now asked for. A host that has used the area before says of which
        server (*seen_server_epoch*): what is missing was lost by a restart, or when this one forgot the area. Where
        that server's epoch was above this one's, its clock having been ahead, the area has a higher one of its own.
        And it says which opening it knew (*seen_incarnation*): if another is open, as from a swap file of an older
        time, that one ends, and this one starts empty.

        Raises:
            InvalidRequest, LimitReached, ClientReplaced, AreaNotOwned, AreaExists: nothing changed. Definite.
        """
        self._check_swapon(client, name, slots, options)
        self._refuse_replaced(client)
        area = self.areas.get(name)
        if area is not None:
            if area.client.id != client.id:
                raise AreaNotOwned(f"area {name!r} is another client's; nothing changed. Choose another name")
            if area.client.epoch == client.epoch and not area.is_another(seen_incarnation):
                if (area.slots, area.options) != (slots, options):
                    raise AreaExists(
                        f"area {name!r} is open with {area.slots} slots and {area.options}; asked for {slots} and "
                        f"{options}. It is unchanged. Swapoff first, or ask for what is open"
                    )
                area.rise_above(seen_server_epoch)
                return area, True
        of_client = [one for one in self.areas.values() if one.client.id == client.id]
        ended = [one.name for one in of_client if one is area or one.client != client]
        account = self.accounts.open(client.id)
        account.check_area(name, 1 - len(ended), slots - sum(self.areas[one].slots for one in ended))
        saved = SavedArea(name, client, slots, options)
        try:
            device = self._swap_file.open_area(saved, ended)
        except DeviceError as error:
            raise _not_recorded(f"area {name!r} was not opened", error) from error
        for name_ended in ended:
            self._close(name_ended)
        self._ending.forget(SLOTS_FORGOTTEN_MAX, account.name)
        self._areas_opened += 1
        opened = Area(
            saved,
            device,
            account,
            self._common,
            is_restored=seen_server_epoch != NO_EPOCH,
            incarnation=self._areas_opened,
            server_epoch=self.epoch,
        )
        opened.rise_above(seen_server_epoch)
        self.areas[name] = opened
        account.remember(client.id, client.epoch, self._owners())
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
            UnknownArea, AreaNotOwned, ClientReplaced, LimitReached: nothing changed. Definite.
        """
        self.area(client, name)
        return self.drop_area(name)

    def drop_area(self, name: str) -> int:
        """Close an area of any client, as when that is gone; return how many pages the pool held.

        Raises:
            UnknownArea, LimitReached: nothing changed. Definite.
        """
        if name not in self.areas:
            raise UnknownArea(f"no area {name!r} is open; nothing changed")
        try:
            self._swap_file.forget_area(name)
        except DeviceError as error:
            # It may not stay on record: opened again after a restart, it would have the pages of this time.
            raise _not_recorded(f"area {name!r} was not closed", error) from error
        account = self.areas[name].account
        dropped_pages = self._close(name)
        self._ending.forget(SLOTS_FORGOTTEN_MAX, account.name)
        return dropped_pages

    def _close(self, name: str) -> int:
        """End an area that its swap file forgot; `end_some()` forgets what it had."""
        area = self.areas.pop(name)
        self._ending.add(area)
        if area.written_pages:
            self._swept.add(area)
        return area.close()

    # Time, and room

    @property
    def is_ending(self) -> bool:
        """Something is left of areas that were closed."""
        return bool(self._ending) or bool(self._swept) or self._swap_file.has_rest

    def end_some(self, slots_max: int = SLOTS_FORGOTTEN_MAX) -> None:
        """Forget so many slots of a tenant's areas that were closed or, when none is left, delete some of their pages.

        Call it again while `is_ending`.

        Raises:
            DeviceError: what is left is pages of the swap file, which cannot be written now. Nothing changed.
        """
        if self._ending:
            self._ending.forget(slots_max)
        elif self._swept:
            self._swept.forget(SWEEP_PAGES_MAX)
        else:
            self._swap_file.sweep()

    def expire_leases(self, now_ns: int | None = None, leases_max: int = LEASES_ENDED_MAX) -> int:
        """End the leases that are over by *now_ns*, or by the clock: those that ended first, *leases_max* at most.

        Returns how many. Their pages are the tier's again (R5). Call it again while that is *leases_max*.
        """
        for ended in range(leases_max):
            slot = self._leases.overdue(now_ns)
            if slot is None:
                return ended
            self._area_of(slot).take_back(slot, LeaseEnd.EXPIRED)
        return leases_max

    def next_lease_end_ns(self) -> int | None:
        """Return when the next lease ends, by the clock; None when nothing is handed off."""
        return self._leases.next_end_ns()

    def shrink(self, pages_max: int = SHRINK_PAGES_MAX) -> int:
        """If the pool refused pages, write its oldest ones back, down to its accept threshold; return how many.

        Stops after *pages_max* pages or some more; call it again while `pool.wants_shrink`. Models: shrink_worker().
        """
        return shrink(self.pool, self.areas, pages_max)

    def drain(self, pages_max: int = DRAIN_PAGES_MAX) -> Iterator[DrainProgress]:
        """Write the whole pool back, *pages_max* at a time, because the server stops; yield how far it came."""
        return drain(self._leases, self.areas, self._area_of, pages_max)

    def check_invariants(self) -> None:
        """Recount everything.

        Raises:
            AssertionError: a defect of the tier.
        """
        held = [*self.areas.values(), *self._ending]
        on_lru = check_areas(self.areas, self._ending)
        self.pool.check_invariants(on_lru, sum(area.pool_bytes for area in held))
        check_accounts(self.accounts, list(self.areas.values()), list(self._ending), list(self._swept))
        leases = sum(area.handed_off_pages for area in held)
        assert len(self._leases) == leases, "the leases and the areas disagree"
        assert len(self.areas) <= self.limits.areas_max, "too many areas"

    def _owners(self) -> Iterator[str]:
        return (area.client.id for area in self.areas.values())

    def _area_of(self, slot: Slot) -> Area:
        """Return the area that has *slot*: an open one, or one of the same name that was closed and still ends."""
        area = self.areas.get(slot.area)
        if area is not None and area.known_slots.holds(slot):
            return area
        return next(area for area in self._ending if area.known_slots.holds(slot))

    def _restore(self, saved_areas: Sequence[SavedArea]) -> None:
        """Open what the swap file kept."""
        limits = self.limits
        slots_max = max((saved.slots for saved in saved_areas), default=0)
        if len(saved_areas) > limits.areas_max or slots_max > limits.slots_per_area_max:
            raise ValueError(
                f"the swap file has {len(saved_areas)} areas of up to {slots_max} slots, and the limits are "
                f"{limits.areas_max} and {limits.slots_per_area_max}; nothing was changed. Raise the limits"
            )
        # The oldest life first, so that the newest is what is remembered.
        for saved in sorted(saved_areas, key=lambda saved: saved.client.epoch):
            device, pages = self._swap_file.reopen_area(saved.name)
            account = self.accounts.open(saved.client.id)
            area = self.areas[saved.name] = Area(
                saved, device, account, self._common, is_restored=True, server_epoch=self.epoch
            )
            area.restore(pages)
            account.remember(saved.client.id, saved.client.epoch, self._owners())

    def _check_swapon(self, client: Client, name: str, slots: int, options: AreaOptions) -> None:
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
        if self.durability is Durability.WRITE_THROUGH and not options.writeback:
            raise InvalidRequest(
                f"area {name!r} was asked for without writeback, and this server writes every page through to its "
                "device; nothing changed. Ask for writeback, or use a server that keeps pages in memory"
            )

    def _refuse_replaced(self, client: Client) -> None:
        account = self.accounts.find(client.id)
        seen = None if account is None else account.epochs.get(client.id)
        if seen is not None and client.epoch < seen:
            raise ClientReplaced(
                f"client {client.id!r} was started anew as epoch {seen}; epoch {client.epoch} can do nothing here any "
                "more and nothing changed. Stop this host: its pages belong to the newer one, or are gone. If it is "
                "the newer one and a clock was set back, start it in a higher epoch, or under another client id",
                newest_epoch=seen,
            )


def _not_recorded(what: str, error: DeviceError) -> LimitReached:
    return LimitReached(
        f"{what}: the swap file could not record it ({error.fault.value}); nothing changed. Ask again when the device "
        "has room and can be written"
    )


def _check_limits(limits: TierLimits) -> None:
    if limits.pool_bytes_max < 0:
        raise ValueError(f"the pool limit is {limits.pool_bytes_max} bytes; it must be 0 or more")
    if not 0 <= limits.accept_threshold_percent <= PERCENT_MAX:
        raise ValueError(f"the accept threshold is {limits.accept_threshold_percent} %; it must be 0 to {PERCENT_MAX}")
    if limits.areas_max < 1 or limits.slots_per_area_max < 1:
        raise ValueError(
            f"{limits.areas_max} areas of {limits.slots_per_area_max} slots hold nothing; allow at least 1"
        )
    if limits.lease_ns < 1 or limits.leases_per_area_max < 1:
        raise ValueError(
            f"{limits.leases_per_area_max} leases of {limits.lease_ns} ns let no client claim; allow at least 1 of each"
        )
