"""A plain model of the tier, written from the contract and not from the code. What the tests compare it with.

Pure.
"""

from dataclasses import dataclass, field

import lz4.block

from swaptier_server.tier.area import Durability
from swaptier_server.tier.swap_file import Client
from swaptier_server.tier.tier import TierLimits
from swaptier_wire.checksum import page_checksum
from swaptier_wire.errors import (
    AreaExists,
    AreaNotOwned,
    ClientReplaced,
    InvalidRequest,
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
        self, client: Client, name: str, options: AreaOptions, *, has_been_here: bool
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
        self.areas[name] = ModelArea(client, options, is_restored=has_been_here)
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
            self.wants_shrink = True
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
        """Shrink the pool to its accept threshold, if it refused pages; say how many were written back."""
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
        elif slot.pooled:
            if self.writes_through:
                slot.on_device = 0, ZERO_PAGE
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
