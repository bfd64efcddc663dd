"""One area: for every slot, where its page is; the gauges that sum it up; and the steps that keep both in agreement.

Pure. What a request does to an area is a function of it, in `store`, `load`, `free` and `write_back`. A pool entry is
kept by `keep_entry()` and ended by `end_page()`, a hand-off is begun by `begin_lease()` and ended by `end_lease()`,
nowhere else, so the gauges, the pool's account, the LRU and the leases are kept in a few places. `area_check` recounts.

Models: the tree of struct zswap_entry of one swap device, and what zswap_swapoff() and the debugfs counters see of it.
Left out: large folios.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Final, NamedTuple

from swaptier_server.tier.account import Account
from swaptier_server.tier.counters import AreaCounters, LeaseEnd
from swaptier_server.tier.device import BackingDevice, BadReads
from swaptier_server.tier.leases import Leases
from swaptier_server.tier.page import StoredPage
from swaptier_server.tier.pool import Pool
from swaptier_server.tier.slot import DEVICE_STATES, HANDED_OFF_STATES, Slot, SlotEvent
from swaptier_server.tier.slot_table import SlotTable
from swaptier_server.tier.swap_file import SavedArea, SavedPage
from swaptier_wire.errors import InvalidRequest, UnknownArea
from swaptier_wire.types import EPOCH_MAX, NO_GENERATION, Outcome, SlotReply

SLOTS_FORGOTTEN_MAX: Final = 256
"""Slots of a closed area that are forgotten in one go, unless said otherwise: some 0.5 ms."""


class Durability(Enum):
    """What a store that was answered survives."""

    MEMORY = "memory"
    """Nothing, while only the pool has the page; a restart, if the device has it and outlives the server."""
    WRITE_THROUGH = "write-through"
    """A restart, if the device outlives the server: it has the page before the answer."""


class Common(NamedTuple):
    """What the areas of a tier share."""

    pool: Pool
    leases: Leases
    leases_per_area_max: int
    keeps_incompressible: bool
    durability: Durability
    bad_reads: BadReads


class Area:
    """One client's swap device: its slots, their pages in the shared pool, and the device behind them.

    Made by `Tier.swapon()`, or by a tier that finds it in its swap file; ended by `Tier.swapoff()`, `Tier.drop_area()`
    or a newer epoch of its client. A closed area refuses every batch, and forgets its slots some at a time. The five
    gauges always equal a recount.
    """

    def __init__(
        self,
        saved: SavedArea,
        device: BackingDevice,
        account: Account,
        common: Common,
        *,
        is_restored: bool,
        incarnation: int = 0,
        server_epoch: int = 0,
    ) -> None:
        self.name: Final = saved.name
        self.slots: Final = saved.slots
        """How many; offsets are below it."""
        self.options: Final = saved.options
        self.client: Final = saved.client
        self.is_restored: bool = is_restored
        """Its client knew it before: of pages that are not here, it may have stored more."""
        self.incarnation: Final = device.incarnation or incarnation
        """Of the Swapon that opened it empty; 0: it was there when the server began, and its device does not tell."""
        self.server_epoch: int = server_epoch
        """The server's, as its host sees it: never below one that the host has seen."""
        self.counters: Final = AreaCounters()
        self.is_closed: bool = False
        self.stored_pages: int = 0
        """Pool entries, same-filled ones and those handed off among them."""
        self.same_filled_pages: int = 0
        self.pool_bytes: int = 0
        """What its entries take of the pool."""
        self.device_pages: int = 0
        """Slots whose current page is on the device only."""
        self.handed_off_pages: int = 0
        """Leases: slots whose page is handed off and not yet acknowledged."""
        self.account: Final = account
        """Its tenant's, to which all is charged."""
        self.written_pages: int = 0
        """Slots for which the device has a page, current or not, and those that wait for it."""
        self.pool: Final = common.pool
        self.leases: Final = common.leases
        self.leases_max: Final = common.leases_per_area_max
        self.keeps_incompressible: Final = common.keeps_incompressible
        self.writes_through: Final = common.durability is Durability.WRITE_THROUGH
        self.device: Final = device
        """Read by `read_back` alone."""
        self.bad_reads: Final = common.bad_reads
        account.areas.take(1)
        account.slots.take(self.slots)
        self.lru: Final = common.pool.lru_of(saved.name)
        account.discards.append(self.discard_stale)
        self.known_slots: Final = SlotTable(saved.name)
        """Those that were ever stored to, invalidated, or found on the device."""
        self.is_in_message: bool = False
        """A message is in progress: some of its slots are done, and no other one may begin."""
        self._leases_left = 0
        """Of those that it may begin, which are charged already."""
        self._drops: Final[list[int]] = []
        """Slots that the device is to forget when the message in progress is at its end, together."""

    def is_another(self, seen_incarnation: int) -> bool:
        """Tell whether its host knows it by an opening that is not this one; 0 says that it knows of none."""
        return 0 != seen_incarnation != self.incarnation != 0

    def rise_above(self, seen_server_epoch: int) -> None:
        """Let its host, which has seen a server in a higher epoch, see this one in one that is higher still.

        Where none is, it sees a lower one, and takes that for a restart, too.
        """
        if self.server_epoch < seen_server_epoch < EPOCH_MAX:
            self.server_epoch = seen_server_epoch + 1

    def held(self, offset: int) -> Slot:
        """Return the slot to read only, or what one that is not known would be. Changes nothing."""
        return self.known_slots.peek(offset) or Slot(self.name, offset)

    @property
    def has_used_up_quota(self) -> bool:
        """It has a quota, and is above the accept threshold of that."""
        quota = self.options.pool_bytes_max
        return quota is not None and self.pool_bytes * 100 > quota * self.pool.accept_threshold_percent

    def check_offsets(self, offsets: Sequence[int]) -> None:
        """Refuse a batch that names a slot outside the area, or a slot twice.

        Called before any of the batch is applied; what is applied then trusts its offsets.

        Raises:
            UnknownArea: the area was closed. Definite.
            InvalidRequest: as said. Definite.
        """
        if self.is_closed:
            raise UnknownArea(f"area {self.name!r} was closed; nothing changed. Swapon opens it again, empty")
        self.known_slots.settle()
        if offsets and not 0 <= min(offsets) <= max(offsets) < self.slots:
            outside = next(offset for offset in offsets if not 0 <= offset < self.slots)
            raise InvalidRequest(
                f"offset {outside} is outside area {self.name!r}, which has slots 0 to {self.slots - 1}; nothing of "
                "the request was applied. Send offsets inside the area, or open one with more slots"
            )
        if len(set(offsets)) != len(offsets):
            twice = next(offset for position, offset in enumerate(offsets) if offset in offsets[:position])
            raise InvalidRequest(
                f"offset {twice} of area {self.name!r} stands twice in one request, which has no order inside; nothing "
                "of it was applied. Send the second in a later request"
            )

    # How a page comes and goes

    def slot(self, offset: int) -> Slot:
        """Return the slot, known from now on."""
        return self.known_slots.make(offset)

    def restore(self, pages: Iterable[SavedPage]) -> None:
        """Take what the device kept for current. The answer to the store of each is the same as before, or as good."""
        for page in pages:
            assert 0 <= page.offset < self.slots, f"area {self.name!r}: a page was saved for slot {page.offset}"
            slot = self.slot(page.offset)
            slot.step(SlotEvent.FOUND_ON_DEVICE)
            slot.generation = slot.device_generation = page.generation
            slot.store_checksum = page.checksum
            slot.store_reply = SlotReply(Outcome.DEVICE)
            self.device_pages += 1
            self._charge_device(1)
            self.known_slots.settle()

    def charge(self, length: int) -> bool:
        """Account *length* bytes, at least 1, to the area and the pool; False when the pool refuses them."""
        if not self.pool.charge(self.account, length):
            return False
        self.pool_bytes += length
        return True

    def uncharge(self, length: int) -> None:
        """Give back what was charged."""
        self.pool.uncharge(self.account, length)
        self.pool_bytes -= length

    def keep_entry(self, slot: Slot, stored: StoredPage) -> None:
        """Put *stored*, whose bytes are charged, into the pool for a slot that holds nothing."""
        slot.entry = stored
        slot.is_referenced = False
        slot.step(SlotEvent.STORED_IN_POOL)
        self.stored_pages += 1
        if stored.length:
            self.lru.add(slot)
        else:
            self.same_filled_pages += 1

    def end_page(self, slot: Slot) -> None:
        """Drop the slot's pool entry, or stop counting its device page as current; the caller steps the slot.

        A lease has been ended before.
        """
        self.known_slots.may_be_packed(slot)
        entry = slot.entry
        if entry is None:
            if slot.state in DEVICE_STATES:
                self.device_pages -= 1
            return
        slot.entry = None
        self.stored_pages -= 1
        if entry.length:
            self.lru.discard(slot)
            self.uncharge(entry.length)
        else:
            self.same_filled_pages -= 1

    def has_device_page(self, slot: Slot, *, is_last: bool = False) -> bool:
        """Tell whether the device has or may have a page for *slot*; if so that is charged from now on.

        It may in any case when the server stops and this is the page's last way out (*is_last*).
        """
        if slot.device_generation == NO_GENERATION:
            if not is_last and not self.account.device_pages.may_take(1):
                return False
            self._charge_device(1)
        return True

    def discard_stale(self, pages_max: int) -> int:
        """Make the device forget so many pages, or some more, of slots that hold nothing; return how many it found.

        They read as unwritten then. To the next server, too: see `load()` for what that means to a late store.
        """
        if not self.is_in_message:
            self.known_slots.pack()
        stale = self.known_slots.take_stale(pages_max)
        if stale:
            self.device.drop(*stale)
            self._charge_device(-len(stale))
        return len(stale)

    def _charge_device(self, pages: int) -> None:
        self.account.device_pages.take(pages)
        self.written_pages += pages

    @contextmanager
    def message(self, leases: int = 0) -> Iterator[None]:
        """Let the block be a message, which may begin so many *leases*: they are its own before others can have them.

        What it has the device forget is forgotten together, in one transaction.
        """
        assert not self.is_in_message, f"area {self.name!r} has a message in progress"
        self.is_in_message = True
        self._leases_left = leases
        self.account.leases.take(leases)
        try:
            yield
        finally:
            self.is_in_message = False
            self.account.leases.take(-self._leases_left)
            self._leases_left = 0
            self._drop_at_last()

    def settle(self) -> None:
        """Let slots that hold nothing be packed, unless a message holds on to some."""
        if not self.is_in_message:
            self.known_slots.settle()

    def drop_from_device(self, *slots: Slot) -> None:
        """Make the device forget the slots' pages, current or not: when the message in progress is at its end, if any.

        Until then nothing reads them: a message names a slot once.
        """
        for slot in slots:
            if slot.device_generation != NO_GENERATION:
                self._charge_device(-1)
            slot.device_generation = NO_GENERATION
        self.drop_offsets_from_device(*(slot.offset for slot in slots))

    def drop_offsets_from_device(self, *offsets: int) -> None:
        """Make the device forget what it has there, likewise."""
        if self.is_in_message:
            self._drops.extend(offsets)
        elif offsets:
            self.device.drop(*offsets)

    def _drop_at_last(self) -> None:
        """Make the device forget what waited for the end of a message, but for the pages that it was given since.

        A write that failed is tried again within the message: what it wrote then may be the only copy.
        """
        dropped = [offset for offset in self._drops if self.held(offset).device_generation == NO_GENERATION]
        self._drops.clear()
        if dropped:
            self.device.drop(*dropped)

    def drop_unwritten(self, slots: Sequence[Slot]) -> None:
        """Make the device forget what a failed write may have left for *slots*, whose pages are charged."""
        self._charge_device(-sum(slot.device_generation == NO_GENERATION for slot in slots))
        self.drop_from_device(*slots)

    # How a hand-off comes and goes

    def begin_lease(self, slot: Slot, request_id: int) -> None:
        """Hand the page of a POOLED or ON_DEVICE slot off to the claim *request_id*."""
        slot.step(SlotEvent.CLAIMED)
        slot.claimant = request_id
        self.lru.discard(slot)
        self.leases.begin(slot)
        if self._leases_left:
            self._leases_left -= 1
        else:
            self.account.leases.take(1)
        self.handed_off_pages += 1
        self.counters.leases_begun += 1

    def end_lease(self, slot: Slot, ended_by: LeaseEnd) -> None:
        """Forget the lease; the caller steps the slot."""
        self.leases.end(slot)
        self.account.leases.take(-1)
        self.handed_off_pages -= 1
        self.counters.leases_ended[ended_by] += 1
        if ended_by is not LeaseEnd.ACKNOWLEDGED:
            slot.claimant = None

    def take_back(self, slot: Slot, ended_by: LeaseEnd) -> None:
        """End the slot's lease without an acknowledgement: the page is the tier's again (R5).

        It goes back to the LRU as the newest, and can be claimed anew. An acknowledgement that comes now is too late.
        """
        self.end_lease(slot, ended_by)
        slot.step(SlotEvent.LEASE_ENDED)
        if slot.entry is not None and slot.entry.length:
            self.lru.add(slot)
        else:
            self.known_slots.may_be_packed(slot)

    def close(self) -> int:
        """Refuse every later batch; return how many entries the pool held. Only Tier calls it.

        Its slots are forgotten by `forget_slots()`. None is written back any more.
        """
        assert not self.is_in_message, f"area {self.name!r} is closed under a message"
        self.pool.forget_lru(self.name)
        self.account.discards.remove(self.discard_stale)
        self.account.areas.take(-1)
        self.account.slots.take(-self.slots)
        self.is_closed = True
        return self.stored_pages

    def sweep(self, pages_max: int) -> int:
        """Let the device of a closed area forget so many pages, and give them back; return how many there were.

        Raises:
            DeviceError: nothing changed.
        """
        pages = self.device.forget(pages_max)
        self._charge_device(-(min(pages, self.written_pages) if pages == pages_max else self.written_pages))
        return pages

    def forget_slots(self, slots_max: int) -> int:
        """Forget so many slots of a closed area, or some more, with their entries and leases; return how many."""
        assert self.is_closed, f"area {self.name!r} is open"
        taken = self.known_slots.take_objects(slots_max)
        for slot in taken:
            if slot.state in HANDED_OFF_STATES:
                self.end_lease(slot, LeaseEnd.INVALIDATED)
            self.end_page(slot)
        slots = len(taken)
        while slots < slots_max and self.known_slots:
            rows, same_filled, on_device = self.known_slots.take_rows()
            slots += rows
            self.stored_pages -= same_filled
            self.same_filled_pages -= same_filled
            self.device_pages -= on_device
        return slots
