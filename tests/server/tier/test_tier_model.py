"""The tier against a plain model of its contract, whatever is asked, ends, fails or starts anew, in any order.

The model below is written from the comments of the proto and from KERNEL.md 3.7, not from the tier: one record a slot,
and every sum counted afresh each time it is asked for. `check_invariants()` runs after every step besides. The mutants
at the end are the negative control: each breaks one rule of the tier on purpose, and the machine must notice.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import lz4.block
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from swaptier_server.swapfile import SqliteSwapFile
from swaptier_server.tier import shrinker
from swaptier_server.tier.area import Area
from swaptier_server.tier.counters import LeaseEnd
from swaptier_server.tier.device import DeviceError, MemoryDevice
from swaptier_server.tier.holdings import Durability, Holdings
from swaptier_server.tier.leases import Leases
from swaptier_server.tier.loading import Loading
from swaptier_server.tier.page import StoredPage
from swaptier_server.tier.pool import Lru, Pool
from swaptier_server.tier.shrinker import Shrinker
from swaptier_server.tier.slot import DEVICE_STATES, HANDED_OFF_STATES, Slot, SlotEvent, SlotState
from swaptier_server.tier.storing import Storing, _Write
from swaptier_server.tier.swap_file import MemorySwapFile, SavedPage, SwapFile
from swaptier_server.tier.tier import Client, Tier, TierLimits
from swaptier_server.tier.writeback import Writeback, WrittenBack
from swaptier_wire.errors import (
    AreaExists,
    AreaNotOwned,
    ClientReplaced,
    InvalidRequest,
    LimitReached,
    SwapTierError,
    UnknownArea,
)
from swaptier_wire.types import (
    PAGE_BYTES,
    ZERO_PAGE,
    AreaOptions,
    LoadMode,
    LoadReply,
    Outcome,
    Reason,
    SlotReply,
    page_checksum,
)

SLOTS = 5
NAMES = ("left", "right")
CLIENTS = ("anna", "otto")
LEASE_NS = 100
SHARED, EXCLUSIVE, CLAIM = LoadMode.SHARED, LoadMode.EXCLUSIVE, LoadMode.CLAIM


def _noise(seed: int) -> bytes:
    return b"".join(page_checksum(b"%d %d" % (seed, word)).to_bytes(8, "little") for word in range(PAGE_BYTES // 8))


PAGES = {
    "zeros": ZERO_PAGE,
    "same-filled": b"\x07\x00same\xff\x01" * (PAGE_BYTES // 8),
    "text": (b"a text that compresses well; " * PAGE_BYTES)[:PAGE_BYTES],
    "half": _noise(0)[: PAGE_BYTES // 2] + bytes(PAGE_BYTES // 2),
    "three-quarters": _noise(1)[: PAGE_BYTES // 4] * 2 + _noise(2)[: PAGE_BYTES // 2],
    "noise": _noise(3),
    "other noise": _noise(4),
}
"""Drawn by name: a failing sequence then reads well."""


def _cost(name: str, page: bytes) -> int:
    """Bytes the page takes in a pool."""
    if name in ("zeros", "same-filled"):
        return 0
    return min(len(lz4.block.compress(page, store_size=False)), PAGE_BYTES)


COSTS = {page: _cost(name, page) for name, page in PAGES.items()}


# The model


@dataclass(eq=False)
class ModelSlot:
    """All that is known of one slot."""

    seen: int = 0
    """Highest generation."""
    stored: bytes | None = None
    """The page that was stored as that generation, if one was."""
    answer: SlotReply | None = None
    """To that store."""
    pooled: tuple[int, bytes] | None = None
    on_device: tuple[int, bytes] = (0, ZERO_PAGE)
    is_device_current: bool = False
    """The current page is on the device only."""
    fate: Reason = Reason.NEVER_STORED
    lease: tuple[int, int, int] | None = None
    """Who claimed what the slot holds, until when, and as the how manyeth."""
    acknowledged_by: int | None = None
    is_looked_at: bool = False
    is_waiting: bool = False
    """For the device, with the rest of its batch."""

    def held(self) -> tuple[int, bytes] | None:
        """The current page, wherever it is."""
        return self.pooled or (self.on_device if self.is_device_current else None)

    def end(self, fate: Reason) -> None:
        """Hold nothing any more."""
        self.pooled, self.is_device_current, self.lease, self.fate = None, False, None, fate


@dataclass
class ModelArea:
    """One area."""

    owner: Client
    options: AreaOptions
    is_restored: bool = False
    slots: list[ModelSlot] = field(default_factory=lambda: [ModelSlot() for _ in range(SLOTS)])
    order: list[int] = field(default_factory=list)
    """Slots as they entered the pool or came back to the tier, oldest first; some have left since."""

    def pooled(self) -> list[bytes]:
        """Every page it has in the pool."""
        return [slot.pooled[1] for slot in self.slots if slot.pooled]

    def pool_bytes(self) -> int:
        """Counted afresh."""
        return sum(COSTS[page] for page in self.pooled())

    def leases(self) -> int:
        """Counted afresh."""
        return sum(slot.lease is not None for slot in self.slots)

    def evictable(self) -> list[ModelSlot]:
        """What may be written back to make room, oldest first."""
        slots = [self.slots[offset] for offset in self.order]
        return [
            slot
            for slot in slots
            if slot.pooled and slot.lease is None and not slot.is_waiting and COSTS[slot.pooled[1]]
        ]

    def renew(self, offset: int) -> None:
        """Make the slot the newest."""
        self.order = [other for other in self.order if other != offset] + [offset]


class Model:
    """The whole tier, and what outlives it."""

    def __init__(self, limits: TierLimits, durability: Durability) -> None:
        self.limits = limits
        self.writes_through = durability is Durability.WRITE_THROUGH
        self.areas: dict[str, ModelArea] = {}
        self.newest: dict[str, int] = {}
        self.is_full = self.wants_shrink = self.is_device_broken = False
        self.limit_hits = self.now = self.leases_begun = 0
        self.last_turn = ""
        self.turn_pages = SLOTS
        """Pages that an area gives up in its turn, at most."""

    def pool_bytes(self) -> int:
        """Counted afresh."""
        return sum(area.pool_bytes() for area in self.areas.values())

    def swapon(
        self, client: Client, name: str, options: AreaOptions, *, has_seen_another: bool
    ) -> type[SwapTierError] | bool:
        """What the tier must do: raise this, or say whether the area was open."""
        if self.writes_through and not options.writeback:
            return InvalidRequest
        if client.epoch < self.newest.get(client.id, 0):
            return ClientReplaced
        area = self.areas.get(name)
        if area and area.owner.id != client.id:
            return AreaNotOwned
        if area and area.owner == client:
            return True if area.options == options else AreaExists
        self.areas = {
            other: area for other, area in self.areas.items() if area.owner.id != client.id or area.owner == client
        }
        self.areas[name] = ModelArea(client, options, is_restored=has_seen_another)
        self.newest[client.id] = client.epoch
        return False

    def error_for(self, client: Client, name: str) -> type[SwapTierError] | None:
        """What a request from *client* to *name* must raise."""
        if client.epoch < self.newest.get(client.id, 0):
            return ClientReplaced
        area = self.areas.get(name)
        if area is None:
            return UnknownArea
        if area.owner.id != client.id:
            return AreaNotOwned
        return None if area.owner == client else UnknownArea

    # Stores

    def store(self, name: str, stores: list[tuple[int, int, bytes]]) -> list[SlotReply]:
        """Store whole pages, each an offset, a generation and a page: those that need the device together."""
        area = self.areas[name]
        answers = [self._store_but_for_device(area, *one) for one in stores]
        for offset, _, _ in stores:
            slot = area.slots[offset]
            if slot.is_waiting and self.is_device_broken:
                slot.end(Reason.REFUSED_STORE)
                slot.on_device = 0, ZERO_PAGE
                slot.answer = SlotReply(Outcome.REJECTED, Reason.DEVICE_ERROR)
            elif slot.is_waiting and slot.stored is not None:
                slot.on_device = slot.seen, slot.stored
        for index, (offset, _, _) in enumerate(stores):
            slot = area.slots[offset]
            if slot.is_waiting and slot.answer is not None:
                slot.is_waiting, answers[index] = False, slot.answer
        return answers

    def _store_but_for_device(self, area: ModelArea, offset: int, generation: int, page: bytes) -> SlotReply:
        slot = area.slots[offset]
        if generation < slot.seen or (generation == slot.seen and slot.stored != page):
            return SlotReply(Outcome.STALE_GENERATION)
        if generation == slot.seen:
            assert slot.answer is not None
            return slot.answer if slot.pooled else slot.answer._replace(entry_bytes=0)
        slot.end(Reason.REFUSED_STORE)
        slot.seen, slot.stored, slot.acknowledged_by = generation, page, None
        refusal = self._refusal(area, COSTS[page])
        if refusal is not Reason.NONE and not area.options.writeback:
            slot.on_device = 0, ZERO_PAGE
            slot.answer = SlotReply(Outcome.REJECTED, refusal)
            return slot.answer
        slot.is_waiting = refusal is not Reason.NONE or self.writes_through
        if refusal is Reason.NONE:
            slot.pooled, slot.is_looked_at = (generation, page), False
            area.renew(offset)
            slot.answer = SlotReply(Outcome.STORED, Reason.NONE, COSTS[page])
        else:
            slot.is_device_current = True
            slot.answer = SlotReply(Outcome.DEVICE, refusal)
        return slot.answer

    def _refusal(self, area: ModelArea, page_cost: int) -> Reason:
        limit, quota = self.limits.pool_bytes_max, area.options.pool_bytes_max
        if page_cost == 0:
            return Reason.NONE
        if page_cost == PAGE_BYTES and not self.limits.keeps_incompressible:
            return Reason.COMPRESS_POOR
        if quota is not None and area.pool_bytes() + page_cost > quota:
            if page_cost <= quota and area.options.writeback:
                self._write_back_oldest(area, area.pool_bytes() + page_cost - quota)
            if area.pool_bytes() + page_cost > quota:
                return Reason.AREA_LIMIT
        if self.pool_bytes() + page_cost > limit:
            self.limit_hits += 1
            self.is_full = self.wants_shrink = True
            return Reason.POOL_LIMIT
        if self.is_full and self.pool_bytes() * 100 > limit * self.limits.accept_threshold_percent:
            return Reason.POOL_LIMIT
        self.is_full = False
        return Reason.NONE

    # Writeback

    def write_back(self, name: str, offset: int) -> bool:
        """Write one entry back."""
        area = self.areas[name]
        slot = area.slots[offset]
        return area.options.writeback and slot in area.evictable() and self._to_device([slot])

    def _to_device(self, slots: list[ModelSlot]) -> bool:
        """Move pool entries to the device, all or none."""
        missing = [slot for slot in slots if slot.pooled and slot.pooled != slot.on_device]
        if missing and self.is_device_broken:
            for slot in missing:
                slot.on_device = 0, ZERO_PAGE
            return False
        for slot in slots:
            assert slot.pooled is not None
            slot.on_device, slot.pooled, slot.is_device_current = slot.pooled, None, True
        return True

    def _write_back_oldest(self, area: ModelArea, bytes_wanted: int, pages_max: int = SLOTS) -> int:
        """Write back as many of the oldest as take *bytes_wanted*, passing once over those looked at; say how many."""
        victims: list[ModelSlot] = []
        for slot in area.evictable():
            assert slot.pooled is not None
            if bytes_wanted <= 0 or len(victims) == pages_max:
                break
            if slot.is_looked_at:
                slot.is_looked_at = False
                area.renew(area.slots.index(slot))
            else:
                victims.append(slot)
                bytes_wanted -= COSTS[slot.pooled[1]]
        if self._to_device(victims):
            return len(victims)
        for slot in victims:
            area.renew(area.slots.index(slot))
        return 0

    def shrink(self) -> int:
        """Shrink the pool to its accept threshold, if it met its limit; say how many pages were written back."""
        written = failures = 0
        percent = self.limits.accept_threshold_percent
        goal = self.limits.pool_bytes_max * percent // 100
        while self.wants_shrink and self.pool_bytes() > goal and failures < 16:
            able = [name for name, area in self.areas.items() if area.options.writeback and area.evictable()]
            if not able:
                break
            asked = [name for name in able if self._is_over(self.areas[name], percent)] or able
            turn = asked.index(self.last_turn) + 1 if self.last_turn in asked else 0
            self.last_turn = asked[turn % len(asked)]
            moved = self._write_back_oldest(self.areas[self.last_turn], self.pool_bytes() - goal, self.turn_pages)
            written += moved
            failures += moved == 0
        self.wants_shrink = False
        return written

    def _is_over(self, area: ModelArea, percent: int) -> bool:
        quota = area.options.pool_bytes_max
        return quota is not None and area.pool_bytes() * 100 > quota * percent

    def drain(self) -> tuple[int, int, int]:
        """Write everything back; say how many pages were written, failed, and kept."""
        self._end_leases(float("inf"))
        written = failed = kept = 0
        for area in self.areas.values():
            if not area.options.writeback:
                kept += len(area.pooled())
                continue
            written += sum(self._to_device([slot]) for slot in area.slots if slot.pooled)
            failed += len(area.pooled())
        return written, failed, kept

    def restart(self) -> None:
        """Forget all but what the devices have."""
        self.areas = dict(sorted(self.areas.items(), key=lambda item: item[1].owner.epoch))
        self.newest = {}
        self.is_full = self.wants_shrink = False
        self.limit_hits, self.last_turn = 0, ""
        for name, old in self.areas.items():
            self.newest[old.owner.id] = old.owner.epoch
            self.areas[name] = area = ModelArea(old.owner, old.options, is_restored=True)
            for slot, before in zip(area.slots, old.slots, strict=True):
                slot.on_device = generation, page = before.on_device
                if generation:
                    slot.seen, slot.stored, slot.answer = generation, page, SlotReply(Outcome.DEVICE)
                    slot.is_device_current = True

    # Loads and hand-offs

    def load(
        self, name: str, offset: int, generation: int, mode: LoadMode, is_safe: bool, is_pool_only: bool, claim: int
    ) -> LoadReply:
        """Load a page."""
        area = self.areas[name]
        slot = area.slots[offset]
        held = slot.held()
        if is_safe and held is None:
            is_forgotten = slot.fate is Reason.NEVER_STORED or generation > slot.seen
            return LoadReply(Outcome.LOST, Reason.RESTARTED if area.is_restored and is_forgotten else slot.fate)
        if is_safe and held and held[0] != generation:
            if area.is_restored and generation > held[0]:
                return LoadReply(Outcome.LOST, Reason.RESTARTED, held[0])
            return LoadReply(Outcome.STALE_GENERATION, generation=held[0])
        if held and slot.lease and (mode is not CLAIM or slot.lease[0] != claim):
            return LoadReply(Outcome.CLAIMED, generation=held[0])
        if is_pool_only and not slot.pooled:
            return LoadReply(Outcome.MISS, generation=held[0] if held else 0)
        reply = self._answer(slot)
        if held and mode is CLAIM:
            self.leases_begun += 1
            slot.lease = claim, self.now + LEASE_NS, self.leases_begun
        elif slot.pooled and mode is SHARED:
            slot.is_looked_at = True
        elif slot.pooled and slot.pooled == slot.on_device:
            slot.pooled, slot.is_device_current = None, True
        elif slot.pooled:
            slot.end(Reason.TAKEN)
        elif area.options.device_free_on_read:
            slot.on_device = 0, ZERO_PAGE
            if held:
                slot.end(Reason.TAKEN)
        return reply

    def _answer(self, slot: ModelSlot) -> LoadReply:
        """The bytes, wherever they are."""
        if not slot.pooled:
            found, page = slot.on_device
            return LoadReply(Outcome.DEVICE, Reason.NONE, found, page_checksum(page), page)
        found, page = slot.pooled
        if COSTS[page]:
            return LoadReply(Outcome.HIT, Reason.NONE, found, page_checksum(page), page, None, COSTS[page])
        word = int.from_bytes(page[:8], "little")
        return LoadReply(Outcome.SAME_FILLED, Reason.NONE, found, page_checksum(page), None, word)

    def acknowledge(self, name: str, offset: int, generation: int, claim: int) -> Outcome:
        """End a hand-off."""
        area = self.areas[name]
        slot = area.slots[offset]
        if generation < slot.seen:
            return Outcome.STALE_GENERATION
        if generation > slot.seen or claim not in (slot.acknowledged_by, slot.lease and slot.lease[0]):
            return Outcome.LEASE_ENDED
        if slot.lease:
            if area.options.device_free_on_read and slot.held() == slot.on_device:
                slot.on_device = 0, ZERO_PAGE
            slot.end(Reason.TAKEN)
            slot.acknowledged_by = claim
        return Outcome.ACKNOWLEDGED

    def end_lease(self, area: ModelArea, offset: int) -> None:
        """Take a page back, if it is handed off."""
        slot = area.slots[offset]
        if slot.lease:
            slot.lease = None
            area.renew(offset)

    def expire(self) -> int:
        """End what has ended by now; say how many."""
        return self._end_leases(self.now)

    def _end_leases(self, until: float) -> int:
        """End what ends until then, first what ends first."""
        ended = [
            (slot.lease[1:], area, offset)
            for area in self.areas.values()
            for offset, slot in enumerate(area.slots)
            if slot.lease and slot.lease[1] <= until
        ]
        for _, area, offset in sorted(ended, key=lambda item: item[0]):
            self.end_lease(area, offset)
        return len(ended)

    def may_claim(self, name: str, offsets: list[int]) -> bool:
        """Tell whether claims of these slots stay within the limit of leases."""
        area = self.areas[name]
        begun = [slot for slot in map(area.slots.__getitem__, offsets) if slot.held() and not slot.lease]
        return area.leases() + len(begun) <= self.limits.leases_per_area_max

    def invalidate(self, name: str, offset: int, generation: int) -> Outcome:
        """Free a slot."""
        slot = self.areas[name].slots[offset]
        if generation < slot.seen:
            return Outcome.STALE_GENERATION
        outcome = Outcome.INVALIDATED if slot.pooled else Outcome.MISS
        slot.end(Reason.FREED)
        if generation > slot.seen:
            slot.seen, slot.stored, slot.answer = generation, None, None
        return outcome


class FailingDevice(MemoryDevice):
    """A device that takes nothing while the machine says so."""

    def __init__(self, is_broken: Callable[[], bool]) -> None:
        super().__init__()
        self._is_broken = is_broken

    def write(self, offset: int, page: StoredPage) -> None:
        """Fail, or do as a device does."""
        if self._is_broken():
            raise DeviceError
        super().write(offset, page)


# The machine

PICKS = st.integers(0, 1)
EPOCHS = st.sampled_from([1, 1, 1, 1, 1, 2, 3])
RARELY = st.sampled_from([False, False, True])
"""What ends everything is worth less than what it could have ended."""
CLAIM_IDS = st.sampled_from([1, 1, 1, 2, 3])
QUOTAS = st.sampled_from([None, None, 9000, 5000, 2100, 0])
Part = TypeVar("Part")


def batch_of(parts: st.SearchStrategy[Part]) -> st.SearchStrategy[dict[int, Part]]:
    """A batch: at most one part for each slot, in any order."""
    return st.dictionaries(st.integers(0, SLOTS - 1), parts, min_size=1, max_size=SLOTS)


class TierMachine(RuleBasedStateMachine):
    """Drives a tier and the model side by side."""

    @initialize(
        bytes_max=st.sampled_from([9000, 5000, 3000, 1 << 20, 0]),
        percent=st.sampled_from([50, 90, 100, 0]),
        keeps_incompressible=st.booleans(),
        leases_max=st.sampled_from([100, 100, 2]),
        durability=st.sampled_from([Durability.MEMORY, Durability.MEMORY, Durability.WRITE_THROUGH]),
        quota=QUOTAS,
        is_freeing=RARELY,
        turn_pages=st.sampled_from([1, SLOTS]),
    )
    def begin(
        self,
        bytes_max: int,
        percent: int,
        keeps_incompressible: bool,
        leases_max: int,
        durability: Durability,
        quota: int | None,
        is_freeing: bool,
        turn_pages: int,
    ) -> None:
        """Start both empty, with two areas open so that most requests find one."""
        limits = TierLimits(bytes_max, percent, len(NAMES), SLOTS, keeps_incompressible, LEASE_NS, leases_max)
        self.model = Model(limits, durability)
        self.model.turn_pages = turn_pages
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(shrinker, "CLUSTER_PAGES", turn_pages)
        self.durability = durability
        self.server_epoch = 1
        self.make_swap_file()
        self.start_tier()
        for client_id, name in zip(CLIENTS, NAMES, strict=True):
            is_first = name == NAMES[0]
            self.swapon(client_id, 1, name, is_freeing and not is_first, quota if is_first else None, True, False)

    def make_swap_file(self) -> None:
        """Make what outlives the tier."""
        model = self.model
        self.swap_file: SwapFile = MemorySwapFile(lambda _name: FailingDevice(lambda: model.is_device_broken))

    def teardown(self) -> None:
        """Leave nothing behind."""
        if hasattr(self, "patch"):
            self.patch.undo()

    def start_tier(self) -> None:
        """Make a tier on what outlived the one before."""
        self.tier = Tier(
            self.model.limits,
            self.server_epoch,
            swap_file=self.swap_file,
            durability=self.durability,
            now_ns=lambda: self.model.now,
        )

    @rule(
        client_id=st.sampled_from(CLIENTS),
        epoch=EPOCHS,
        name=st.sampled_from(NAMES),
        is_freeing=st.sampled_from([False, False, True]),
        quota=QUOTAS,
        has_writeback=st.sampled_from([True, True, False]),
        has_seen_another=st.booleans(),
    )
    def swapon(
        self,
        client_id: str,
        epoch: int,
        name: str,
        is_freeing: bool,
        quota: int | None,
        has_writeback: bool,
        has_seen_another: bool,
    ) -> None:
        """Open an area."""
        client, options = Client(client_id, epoch), AreaOptions(is_freeing, quota, has_writeback)
        expected = self.model.swapon(client, name, options, has_seen_another=has_seen_another)
        seen = self.server_epoch + 1 if has_seen_another else self.server_epoch
        if isinstance(expected, bool):
            area, is_reopened = self.tier.swapon(client, name, SLOTS, options, seen_server_epoch=seen)
            assert is_reopened == expected
            assert area is self.tier.area(client, name)
        else:
            with pytest.raises(expected):
                self.tier.swapon(client, name, SLOTS, options, seen_server_epoch=seen)

    @rule(client_id=st.sampled_from(CLIENTS), epoch=EPOCHS, name=st.sampled_from(NAMES), is_meant=RARELY)
    def swapoff(self, client_id: str, epoch: int, name: str, is_meant: bool) -> None:
        """Close an area, if it is the client's."""
        if not is_meant:
            return
        client = Client(client_id, epoch)
        expected = self.model.error_for(client, name)
        if expected is None:
            assert self.tier.swapoff(client, name) == len(self.model.areas.pop(name).pooled())
        else:
            with pytest.raises(expected):
                self.tier.swapoff(client, name)

    # Requests

    @rule(
        pick=PICKS,
        batch=batch_of(st.tuples(st.sampled_from([1, 1, 1, 1, 2, 0, -1]), st.sampled_from(sorted(PAGES)))),
    )
    def store(self, pick: int, batch: dict[int, tuple[int, str]]) -> None:
        """Store pages: mostly of the next generation, some of a later, the same, or an earlier one."""
        for name, area in self._some_area(pick):
            slots = self.model.areas[name].slots
            pages = [PAGES[page_name] for _, page_name in batch.values()]
            generations = [max(1, slots[offset].seen + ahead) for offset, (ahead, _) in batch.items()]
            area.check_store(list(batch), generations)
            replies = area.store_many(list(batch), generations, pages, list(map(page_checksum, pages)))
            assert replies == self.model.store(name, list(zip(batch, generations, pages, strict=True)))

    @rule(page_name=st.sampled_from(["half", "three-quarters", "text"]), looked_at=batch_of(st.just((0, SHARED, 0))))
    def fill_up(self, page_name: str, looked_at: dict[int, tuple[int, LoadMode, int]]) -> None:
        """Store to every slot and look at some, so that there is something to make room of."""
        for pick in range(len(NAMES)):
            self.store(pick, dict.fromkeys(range(SLOTS), (1, page_name)))
            self.load(pick, looked_at, False, False)

    @rule(pick=PICKS, batch=batch_of(st.booleans()))
    def repeat_last_store(self, pick: int, batch: dict[int, bool]) -> None:
        """Store what was stored last once more, as a client that got no answer does; or newer, and damaged."""
        for name, area in self._some_area(pick):
            for offset, is_damaged in batch.items():
                slot = self.model.areas[name].slots[offset]
                if slot.stored is not None:
                    checksum = page_checksum(slot.stored)
                    reply = area.store(offset, slot.seen + is_damaged, slot.stored, checksum ^ is_damaged)
                    if is_damaged:
                        assert reply == SlotReply(Outcome.ERROR, Reason.CHECKSUM)
                    else:
                        assert [reply] == self.model.store(name, [(offset, slot.seen, slot.stored)])

    @rule(
        pick=PICKS,
        batch=batch_of(
            st.tuples(st.sampled_from([0, 0, 0, 1, -1]), st.sampled_from([SHARED, CLAIM, EXCLUSIVE]), CLAIM_IDS)
        ),
        is_safe=st.booleans(),
        is_pool_only=RARELY,
    )
    def load(self, pick: int, batch: dict[int, tuple[int, LoadMode, int]], is_safe: bool, is_pool_only: bool) -> None:
        """Load slots, mostly by the generation they were stored with."""
        for name, area in self._some_area(pick):
            modes = [mode for _, mode, _ in batch.values()]
            claimed = [offset for offset, mode in zip(batch, modes, strict=True) if mode is CLAIM]
            if not self.model.may_claim(name, claimed):
                with pytest.raises(LimitReached):
                    area.check_load(list(batch), modes)
                continue
            area.check_load(list(batch), modes)
            for offset, (behind, mode, claim) in batch.items():
                generation = max(0, self.model.areas[name].slots[offset].seen - behind)
                reply = area.load(
                    offset,
                    generation,
                    mode,
                    request_id=claim,
                    require_generation=is_safe,
                    pool_only=is_pool_only,
                )
                expected = self.model.load(name, offset, generation, mode, is_safe, is_pool_only, claim)
                assert reply == expected
                assert reply.content() == expected.content()

    @rule(pick=PICKS, offset=st.integers(0, SLOTS - 1), page_name=st.sampled_from(sorted(PAGES)), claim=CLAIM_IDS)
    def store_and_claim(self, pick: int, offset: int, page_name: str, claim: int) -> None:
        """Make a hand-off, so that what may happen to one finds one."""
        self.store(pick, {offset: (1, page_name)})
        self.load(pick, {offset: (0, CLAIM, claim)}, True, False)

    @rule(pick=PICKS, passes=st.sampled_from([0, LEASE_NS // 2]))
    def ask_again(self, pick: int, passes: int) -> None:
        """Repeat every claim that is under way, as a client that got no answer does."""
        for name, _ in self._some_area(pick):
            slots = enumerate(self.model.areas[name].slots)
            claims = {offset: (0, CLAIM, slot.lease[0]) for offset, slot in slots if slot.lease}
            self.time_passes(passes, 100)
            self.load(pick, claims, True, False)

    @rule(
        pick=PICKS,
        batch=batch_of(st.tuples(st.sampled_from([0, 0, 0, -1, 1]), st.booleans(), CLAIM_IDS)),
        times=st.integers(1, 2),
    )
    def acknowledge(self, pick: int, batch: dict[int, tuple[int, bool, int]], times: int) -> None:
        """End hand-offs: those that are under way, those that are over, and those that never were; or twice."""
        for name, area in self._some_area(pick):
            area.check_acknowledge(list(batch))
            for offset, (ahead, is_own, drawn) in batch.items():
                slot = self.model.areas[name].slots[offset]
                claim = slot.lease[0] if is_own and slot.lease else drawn
                for _ in range(times):
                    self._acknowledge(name, offset, max(1, slot.seen + ahead), claim)

    @rule(pick=PICKS, then=st.sampled_from(["sleep", "free", "store", "restart"]))
    def acknowledge_late(self, pick: int, then: str) -> None:
        """Acknowledge what was handed off, after that had ended in another way."""
        for name, _ in self._some_area(pick):
            slots = list(enumerate(self.model.areas[name].slots))
            claims = [(offset, slot.seen, slot.lease[0]) for offset, slot in slots if slot.lease]
            if then == "sleep":
                self.time_passes(LEASE_NS, 100)
            elif then == "free":
                self.invalidate(pick, {offset: 0 for offset, _, _ in claims})
            elif then == "store":
                self.store(pick, {offset: (1, "text") for offset, _, _ in claims})
            else:
                self.restart(bool(claims))
            for claim in claims:
                self._acknowledge(name, *claim)

    def _acknowledge(self, name: str, offset: int, generation: int, claim: int) -> None:
        reply = self.tier.areas[name].acknowledge(offset, generation, claim)
        assert reply.outcome is self.model.acknowledge(name, offset, generation, claim)

    @rule(pick=PICKS, batch=batch_of(st.sampled_from([0, 0, 0, -1, 1])))
    def invalidate(self, pick: int, batch: dict[int, int]) -> None:
        """Free slots, mostly at the generation they were stored with."""
        for name, area in self._some_area(pick):
            area.check_offsets(list(batch))
            for offset, ahead in batch.items():
                generation = max(0, self.model.areas[name].slots[offset].seen + ahead)
                assert area.invalidate(offset, generation).outcome is self.model.invalidate(name, offset, generation)

    # What happens besides

    @rule(passes=st.sampled_from([1, LEASE_NS // 2, LEASE_NS - 1, LEASE_NS]), leases_max=st.sampled_from([1, 100]))
    def time_passes(self, passes: int, leases_max: int) -> None:
        """Leases end when their time has come, and not before."""
        self.model.now += passes
        expected = self.model.expire()
        assert sum(iter(lambda: self.tier.expire_leases(leases_max=leases_max), 0)) == expected

    @rule(pick=PICKS, offset=st.integers(0, SLOTS - 1))
    def write_back(self, pick: int, offset: int) -> None:
        """The tier moves a page to the device."""
        for name, area in self._some_area(pick):
            assert area.write_back(offset) == self.model.write_back(name, offset)

    @rule()
    def shrink(self) -> None:
        """The tier makes room."""
        assert self.tier.shrink() == self.model.shrink()
        assert not self.tier.pool.wants_shrink

    @rule(is_broken=st.sampled_from([False, False, True]))
    def break_or_repair_device(self, is_broken: bool) -> None:
        """Every device fails to write from now on, or none."""
        self.model.is_device_broken = is_broken

    @rule(pages_max=st.sampled_from([1, 2, 100]))
    def drain(self, pages_max: int) -> None:
        """Everything is written back."""
        before = {
            (name, offset): slot.on_device
            for name, area in self.model.areas.items()
            for offset, slot in enumerate(area.slots)
        }
        *_, progress = self.tier.drain(pages_max)
        assert tuple(progress) == self.model.drain()
        for (name, offset), was in before.items() if self.model.is_device_broken else ():
            # Where the device was not even tried, it has what it had.
            if self.tier.areas[name].on_device(offset).generation == was[0]:
                self.model.areas[name].slots[offset].on_device = was

    @rule(is_meant=RARELY)
    def restart(self, is_meant: bool) -> None:
        """The server dies; another starts on what it left."""
        if not is_meant:
            return
        self.model.restart()
        self.server_epoch += 1
        self.start_tier()

    @invariant()
    def books_agree(self) -> None:
        """Every sum that the tier keeps is what the model counts."""
        if not hasattr(self, "tier"):
            return
        self.tier.check_invariants()
        pool = self.tier.pool
        assert pool.bytes == self.model.pool_bytes() <= pool.bytes_max
        assert (pool.limit_hits, pool.reached_full) == (self.model.limit_hits, self.model.is_full)
        assert list(self.tier.areas) == list(self.model.areas)
        for name, expected in self.model.areas.items():
            area = self.tier.areas[name]
            assert area.client == expected.owner
            assert area.stored_pages == len(expected.pooled())
            assert area.same_filled_pages == sum(COSTS[page] == 0 for page in expected.pooled())
            assert area.device_pages == sum(slot.is_device_current for slot in expected.slots)
            assert area.handed_off_pages == expected.leases()
            for offset, slot in enumerate(expected.slots):
                assert area.lookup(offset).outcome is (Outcome.HIT if slot.pooled else Outcome.MISS)
                on_device = area.on_device(offset)
                assert (on_device.generation, on_device.checksum) == (
                    slot.on_device[0],
                    page_checksum(slot.on_device[1]),
                )

    def _some_area(self, pick: int) -> list[tuple[str, Area]]:
        """One of the open areas; none when none is open."""
        names = sorted(self.model.areas)
        return [(names[pick % len(names)], self.tier.areas[names[pick % len(names)]])] if names else []


TestTier = TierMachine.TestCase
TestTier.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


# The same, on a file


class FileMachine(TierMachine):
    """The same with a swap file on disk, which each tier opens anew. It does not break: `test_swapfile` does that."""

    def make_swap_file(self) -> None:
        """Make a directory for it."""
        self.directory = TemporaryDirectory()
        self.file: SqliteSwapFile | None = None

    def start_tier(self) -> None:
        """Close the file, as the death of a process does, and open it again."""
        if self.file is not None:
            self.file.close()
        self.file = self.swap_file = SqliteSwapFile(Path(self.directory.name) / "swap")
        super().start_tier()

    def break_or_repair_device(self, is_broken: bool) -> None:
        """Not here."""

    def teardown(self) -> None:
        """Leave nothing behind."""
        super().teardown()
        if hasattr(self, "directory"):
            if self.file is not None:
                self.file.close()
            self.directory.cleanup()


TestTierOnAFile = FileMachine.TestCase
TestTierOnAFile.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)


# The negative control


def _state(area: Area, offset: int) -> SlotState:
    return area.held(offset).state


def _forget_lateness_of_stores(patch: pytest.MonkeyPatch) -> None:
    """A late store is applied: R1 is gone."""
    applied = Storing._admit
    patch.setattr(
        Storing, "_admit", lambda area, o, g, *rest: applied(area, o, max(g, area._slot(o).generation + 1), *rest)
    )


def _forget_lateness_of_invalidations(patch: pytest.MonkeyPatch) -> None:
    """A late invalidation destroys the next owner's page: R4 is gone."""
    applied = Area.invalidate
    patch.setattr(Area, "invalidate", lambda area, o, g: applied(area, o, max(g, area._slot(o).generation)))


def _forget_tombstones(patch: pytest.MonkeyPatch) -> None:
    """A freed slot does not remember that it was stored to up to here."""
    applied = Area.invalidate

    def invalidate(area: Area, offset: int, generation: int) -> SlotReply:
        return applied(area, offset, min(generation, area._slot(offset).generation))

    patch.setattr(Area, "invalidate", invalidate)


def _keep_what_an_exclusive_load_took(patch: pytest.MonkeyPatch) -> None:
    """Every load is shared."""
    applied = Loading._load_entry
    patch.setattr(Loading, "_load_entry", lambda area, s, w, _mode, r: applied(area, s, w, SHARED, r))


def _keep_the_older_entry_of_a_refused_store(patch: pytest.MonkeyPatch) -> None:
    """678e54d4bb9a's bug."""
    applied = Storing._settle_written

    def settle(area: Area, write: _Write) -> SlotReply:
        reply = applied(area, write)
        if reply.outcome is Outcome.DEVICE and write.slot.generation > 1:
            write.slot.entry = write.stored._replace(generation=write.slot.generation - 1)
        return reply

    patch.setattr(Storing, "_settle_written", settle)


def _forget_required_generations(patch: pytest.MonkeyPatch) -> None:
    """Safety is asked for in vain."""
    applied = Loading._load_entry
    patch.setattr(Loading, "_load_entry", lambda area, s, _wanted, m, r: applied(area, s, None, m, r))


def _forget_the_accept_threshold(patch: pytest.MonkeyPatch) -> None:
    """A full pool takes the next page that fits."""
    applied = Pool.charge

    def charge(pool: Pool, length: int) -> bool:
        pool.reached_full = False
        return applied(pool, length)

    patch.setattr(Pool, "charge", charge)


def _overshoot_the_limit_by_a_page(patch: pytest.MonkeyPatch) -> None:
    """The kernel's own check: refuse once at the limit."""
    applied = Pool.charge

    def charge(pool: Pool, length: int) -> bool:
        fits = applied(pool, 0 if pool.bytes < pool.bytes_max else length)
        pool.bytes += length if fits else 0
        return fits

    patch.setattr(Pool, "charge", charge)


def _forget_to_give_bytes_back(patch: pytest.MonkeyPatch) -> None:
    """The pool leaks."""
    patch.setattr(Pool, "uncharge", lambda _pool, _length: None)


def _keep_the_areas_of_a_past_life(patch: pytest.MonkeyPatch) -> None:
    """A rebooted host finds the pages of its past life."""
    patch.setattr(Tier, "_refuse_replaced", lambda _tier, _client: None)


def _let_a_freed_device_page_stay_current(patch: pytest.MonkeyPatch) -> None:
    """A slot that was freed on the device still counts there."""
    applied = Holdings._end_page
    patch.setattr(Holdings, "_end_page", lambda area, slot: applied(area, slot) if slot.entry else None)


def _hand_off_without_keeping(patch: pytest.MonkeyPatch) -> None:
    """A claim takes the page at once, as an exclusive load does: a lost reply loses it."""
    applied = Holdings._begin_lease

    def begin(area: Area, slot: Slot, request_id: int) -> None:
        if slot.state is SlotState.POOLED:
            area._end_page(slot)
            slot.step(SlotEvent.TAKEN_BY_LOAD)
            area.counters.loads[EXCLUSIVE][Outcome.HIT] += 1
        else:
            applied(area, slot, request_id)

    patch.setattr(Holdings, "_begin_lease", begin)


def _answer_every_claimant(patch: pytest.MonkeyPatch) -> None:
    """A second claimant gets the page too: R6 is gone."""
    applied = Loading.load

    def load(area: Area, offset: int, generation: int, mode: LoadMode, **options: int) -> LoadReply:
        if mode is CLAIM and _state(area, offset) in HANDED_OFF_STATES:
            options["request_id"] = area.held(offset).claimant or 0
        return applied(area, offset, generation, mode, **options)

    patch.setattr(Loading, "load", load)


def _copy_what_is_handed_off(patch: pytest.MonkeyPatch) -> None:
    """A shared load is answered while a lease runs."""
    applied = Loading.load

    def load(area: Area, offset: int, generation: int, mode: LoadMode, **options: int) -> LoadReply:
        slot = area._slots.get(offset)
        if mode is SHARED and slot and slot.state is SlotState.HANDED_OFF and slot.entry:
            return area._read_entry(slot.entry)
        return applied(area, offset, generation, mode, **options)

    patch.setattr(Loading, "load", load)


def _let_a_late_acknowledgement_delete(patch: pytest.MonkeyPatch) -> None:
    """An acknowledgement that comes after its lease takes the page from whoever has it."""
    applied = Loading.acknowledge

    def acknowledge(area: Area, offset: int, generation: int, request_id: int) -> SlotReply:
        slot = area._slots.get(offset)
        if slot and slot.generation == generation and slot.state in (SlotState.POOLED, SlotState.ON_DEVICE):
            area._begin_lease(slot, request_id)
        return applied(area, offset, generation, request_id)

    patch.setattr(Loading, "acknowledge", acknowledge)


def _let_anybody_acknowledge(patch: pytest.MonkeyPatch) -> None:
    """The request id of an acknowledgement is not looked at."""
    applied = Loading.acknowledge

    def acknowledge(area: Area, offset: int, generation: int, request_id: int) -> SlotReply:
        return applied(area, offset, generation, area.held(offset).claimant or request_id)

    patch.setattr(Loading, "acknowledge", acknowledge)


def _acknowledge_any_generation(patch: pytest.MonkeyPatch) -> None:
    """The generation of an acknowledgement is not looked at."""
    applied = Loading.acknowledge
    patch.setattr(
        Loading, "acknowledge", lambda area, o, _generation, r: applied(area, o, area.held(o).generation or 1, r)
    )


def _forget_who_acknowledged(patch: pytest.MonkeyPatch) -> None:
    """A repeated acknowledgement is told that it came too late."""
    applied = Holdings._end_lease

    def end(area: Area, slot: Slot, ended_by: LeaseEnd) -> None:
        applied(area, slot, ended_by)
        slot.claimant = None

    patch.setattr(Holdings, "_end_lease", end)


def _remember_who_did_not_acknowledge(patch: pytest.MonkeyPatch) -> None:
    """Who let a lease end, or lost its page to an invalidation, is told later that the page is his."""
    applied = Holdings._end_lease

    def end(area: Area, slot: Slot, ended_by: LeaseEnd) -> None:
        claimant = slot.claimant
        applied(area, slot, ended_by)
        slot.claimant = claimant

    patch.setattr(Holdings, "_end_lease", end)


def _let_repeats_keep_their_lease(patch: pytest.MonkeyPatch) -> None:
    """A claim that is asked again does not begin its lease anew."""
    applied = Leases.begin
    patch.setattr(Leases, "begin", lambda leases, slot: None if slot in leases else applied(leases, slot))


def _end_leases_late(patch: pytest.MonkeyPatch) -> None:
    """A lease lasts a nanosecond more than was said."""
    applied = Leases.overdue
    patch.setattr(Leases, "overdue", lambda leases, _now: applied(leases, leases._now_ns() - 1))


def _forget_the_limit_of_leases(patch: pytest.MonkeyPatch) -> None:
    """Any number of pages can be handed off."""
    patch.setattr(Area, "check_load", lambda area, offsets, _modes: area.check_offsets(offsets))


def _lose_pages_whose_lease_ended(patch: pytest.MonkeyPatch) -> None:
    """They do not come back to the LRU: R5 is half gone."""
    applied = Holdings.end_lease

    def end(area: Area, offset: int, ended_by: LeaseEnd = LeaseEnd.EXPIRED) -> bool:
        ended = applied(area, offset, ended_by)
        if ended:
            area._lru.discard(area._slots[offset])
        return ended

    patch.setattr(Holdings, "end_lease", end)


def _write_back_what_is_handed_off(patch: pytest.MonkeyPatch) -> None:
    """Writeback does not ask whether the page is anybody's."""
    applied = Writeback.write_back

    def write_back(area: Area, offset: int) -> bool:
        area.end_lease(offset)
        return applied(area, offset)

    patch.setattr(Writeback, "write_back", write_back)


def _drop_claimed_pages_from_a_device_that_frees_on_read(patch: pytest.MonkeyPatch) -> None:
    """e914d8f00391 with a lost reply."""
    applied = Holdings._begin_lease

    def begin(area: Area, slot: Slot, request_id: int) -> None:
        applied(area, slot, request_id)
        if area.options.device_free_on_read and slot.state in DEVICE_STATES:
            area._device.drop(slot.offset)

    patch.setattr(Holdings, "_begin_lease", begin)


def _forget_the_quota(patch: pytest.MonkeyPatch) -> None:
    """An area takes what the pool gives."""
    patch.setattr(Storing, "_make_room", lambda _area, _length, _quota: True)


def _refuse_at_the_quota_at_once(patch: pytest.MonkeyPatch) -> None:
    """An area that has used up its quota does not make room."""
    patch.setattr(Storing, "_make_room", lambda _area, _length, _quota: False)


def _give_no_second_chance(patch: pytest.MonkeyPatch) -> None:
    """Who was looked at goes like any other."""
    applied = Lru.take_victims

    def take(lru: Lru, bytes_wanted: int, pages_max: int) -> list[Slot]:
        for slot in lru:
            slot.is_referenced = False
        return applied(lru, bytes_wanted, pages_max)

    patch.setattr(Lru, "take_victims", take)


def _shrink_to_the_limit_only(patch: pytest.MonkeyPatch) -> None:
    """The accept threshold is not the goal."""
    applied = Shrinker.shrink

    def shrink(asked: Shrinker, pages_max: int) -> int:
        asked._pool.wants_shrink &= asked._pool.bytes > asked._pool.bytes_max
        return applied(asked, pages_max)

    patch.setattr(Shrinker, "shrink", shrink)


def _lose_what_a_device_refuses_at_writeback(patch: pytest.MonkeyPatch) -> None:
    """The entry is dropped although nobody has the page."""
    applied = Writeback._write_back_slots

    def write_back(area: Area, slots: list[Slot]) -> WrittenBack:
        done = applied(area, slots)
        for slot in slots if done.failed else ():
            slot.device_generation = slot.generation
            area._leave_pool(slot)
        return done

    patch.setattr(Writeback, "_write_back_slots", write_back)


def _answer_before_the_device_has_it(patch: pytest.MonkeyPatch) -> None:
    """A write-through store is answered whatever the device said."""
    patch.setattr(Storing, "_settle_refused", Storing._settle_written)


def _let_an_older_page_on_the_device_come_back(patch: pytest.MonkeyPatch) -> None:
    """A refused store leaves what the device had."""
    patch.setattr(Holdings, "_drop_from_device", lambda _area, _slot: None)


def _forget_that_the_server_restarted(patch: pytest.MonkeyPatch) -> None:
    """What only the earlier server had is said to have never been stored, or to be of another generation."""
    applied = Holdings.restore

    def restore(area: Area, pages: Iterable[SavedPage]) -> None:
        area.is_restored = False
        applied(area, pages)

    patch.setattr(Holdings, "restore", restore)


def _refuse_repeats_across_a_restart(patch: pytest.MonkeyPatch) -> None:
    """A store whose answer died with the server is refused when it is sent again."""
    applied = Holdings.restore

    def restore(area: Area, pages: Iterable[SavedPage]) -> None:
        applied(area, pages)
        for slot in area._slots.values():
            slot.store_reply = None

    patch.setattr(Holdings, "restore", restore)


def _take_from_the_device_what_was_written_through(patch: pytest.MonkeyPatch) -> None:
    """An exclusive load of the pool's entry ends the device's page as well."""

    def leave(area: Area, slot: Slot) -> None:
        area._end_page(slot)
        slot.step(SlotEvent.TAKEN_BY_LOAD)

    patch.setattr(Holdings, "_leave_pool", leave)


def _let_leases_outlive_a_drain(patch: pytest.MonkeyPatch) -> None:
    """What is handed off when the server stops is not ended before."""
    patch.setattr(Leases, "next_to_end", lambda _leases: None)


MUTANTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    mutant
    for name, mutant in list(globals().items())
    if callable(mutant) and name.startswith("_") and "patch" in getattr(mutant, "__annotations__", {})
]


FINDING = settings(
    max_examples=2000,  # the slowest to be found took XXX, over several seeds
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.generate],  # finding is enough: shrinking would only cost time
)


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__.strip("_"))
def test_a_tier_that_breaks_a_rule_is_caught(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    # `Failed` is what pytest raises where a refusal was expected and none came.
    with pytest.raises((AssertionError, SwapTierError, pytest.fail.Exception)):
        run_state_machine_as_test(TierMachine, settings=FINDING)


def test_the_same_search_finds_nothing_in_the_tier_as_it_is() -> None:
    run_state_machine_as_test(TierMachine, settings=settings(FINDING, max_examples=100))
