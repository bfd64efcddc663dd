"""The tier against a plain model of its contract, under any sequence of requests.

The model below is written from the comments of the proto and from KERNEL.md 3.7, not from the tier: one record a slot,
and every sum counted afresh each time it is asked for. `check_invariants()` runs after every step besides. The mutants
at the end are the negative control: each breaks one rule of the tier on purpose, and the machine must notice.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import lz4.block
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from swaptier_server.tier.area import Area
from swaptier_server.tier.holdings import Holdings
from swaptier_server.tier.pool import Pool
from swaptier_server.tier.slot import Slot
from swaptier_server.tier.tier import Client, Tier, TierLimits
from swaptier_wire.errors import AreaExists, AreaNotOwned, ClientReplaced, SwapTierError, UnknownArea
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


@dataclass
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
    fate: Reason = Reason.NEVER_STORED


@dataclass
class ModelArea:
    """One area."""

    owner: Client
    options: AreaOptions
    slots: list[ModelSlot] = field(default_factory=lambda: [ModelSlot() for _ in range(SLOTS)])

    def pooled(self) -> list[bytes]:
        """Every page it has in the pool."""
        return [slot.pooled[1] for slot in self.slots if slot.pooled]


class Model:
    """The whole tier."""

    def __init__(self, limits: TierLimits) -> None:
        self.limits = limits
        self.areas: dict[str, ModelArea] = {}
        self.newest: dict[str, int] = {}
        self.is_full = False
        self.limit_hits = 0

    def pool_bytes(self) -> int:
        """Counted afresh."""
        return sum(COSTS[page] for area in self.areas.values() for page in area.pooled())

    def swapon(self, client: Client, name: str, options: AreaOptions) -> type[SwapTierError] | bool:
        """What the tier must do: raise this, or say whether the area was open."""
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
        self.areas[name] = ModelArea(client, options)
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

    def store(self, name: str, offset: int, generation: int, page: bytes) -> SlotReply:
        """Store a page that arrived whole."""
        slot = self.areas[name].slots[offset]
        if generation < slot.seen or (generation == slot.seen and slot.stored != page):
            return SlotReply(Outcome.STALE_GENERATION)
        if generation == slot.seen:
            assert slot.answer is not None
            return slot.answer if slot.pooled else slot.answer._replace(entry_bytes=0)
        slot.seen, slot.stored, slot.pooled, slot.is_device_current = generation, page, None, False
        refusal = self._refusal(COSTS[page])
        if refusal is Reason.NONE:
            slot.pooled = generation, page
            slot.answer = SlotReply(Outcome.STORED, Reason.NONE, COSTS[page])
        else:
            slot.on_device, slot.is_device_current = (generation, page), True
            slot.answer = SlotReply(Outcome.DEVICE, refusal)
        return slot.answer

    def _refusal(self, page_cost: int) -> Reason:
        limit = self.limits.pool_bytes_max
        if page_cost == 0:
            return Reason.NONE
        if page_cost == PAGE_BYTES and not self.limits.keeps_incompressible:
            return Reason.COMPRESS_POOR
        if self.pool_bytes() + page_cost > limit:
            self.limit_hits += 1
            self.is_full = True
            return Reason.POOL_LIMIT
        if self.is_full and self.pool_bytes() * 100 > limit * self.limits.accept_threshold_percent:
            return Reason.POOL_LIMIT
        self.is_full = False
        return Reason.NONE

    def load(
        self, name: str, offset: int, generation: int, mode: LoadMode, is_safe: bool, is_pool_only: bool
    ) -> LoadReply:
        """Load a page."""
        area = self.areas[name]
        slot = area.slots[offset]
        held = slot.pooled or (slot.on_device if slot.is_device_current else None)
        if is_safe and held is None:
            return LoadReply(Outcome.LOST, slot.fate)
        if is_safe and held and held[0] != generation:
            return LoadReply(Outcome.STALE_GENERATION, generation=held[0])
        if slot.pooled:
            found, page = slot.pooled
            if mode is LoadMode.EXCLUSIVE:
                slot.pooled, slot.fate = None, Reason.TAKEN
            if COSTS[page]:
                return LoadReply(Outcome.HIT, Reason.NONE, found, page_checksum(page), page, None, COSTS[page])
            word = int.from_bytes(page[:8], "little")
            return LoadReply(Outcome.SAME_FILLED, Reason.NONE, found, page_checksum(page), None, word)
        if is_pool_only:
            return LoadReply(Outcome.MISS, generation=held[0] if held else 0)
        found, page = slot.on_device
        if area.options.device_free_on_read:
            if slot.is_device_current:
                slot.fate = Reason.TAKEN
            slot.on_device, slot.is_device_current = (0, ZERO_PAGE), False
        return LoadReply(Outcome.DEVICE, Reason.NONE, found, page_checksum(page), page)

    def invalidate(self, name: str, offset: int, generation: int) -> Outcome:
        """Free a slot."""
        slot = self.areas[name].slots[offset]
        if generation < slot.seen:
            return Outcome.STALE_GENERATION
        outcome = Outcome.INVALIDATED if slot.pooled else Outcome.MISS
        slot.pooled, slot.is_device_current, slot.fate = None, False, Reason.FREED
        if generation > slot.seen:
            slot.seen, slot.stored, slot.answer = generation, None, None
        return outcome


SHARED, EXCLUSIVE = LoadMode.SHARED, LoadMode.EXCLUSIVE
PICKS = st.integers(0, 1)
EPOCHS = st.sampled_from([1, 1, 1, 2, 3])
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
    )
    def begin(self, bytes_max: int, percent: int, keeps_incompressible: bool) -> None:
        """Start both empty, with an area open so that most requests find one."""
        limits = TierLimits(bytes_max, percent, len(NAMES), SLOTS, keeps_incompressible)
        self.tier, self.model = Tier(limits, epoch=1), Model(limits)
        self.swapon(CLIENTS[0], 1, NAMES[0], is_freeing=False)

    @rule(client_id=st.sampled_from(CLIENTS), epoch=EPOCHS, name=st.sampled_from(NAMES), is_freeing=st.booleans())
    def swapon(self, client_id: str, epoch: int, name: str, is_freeing: bool) -> None:
        """Open an area."""
        client, options = Client(client_id, epoch), AreaOptions(device_free_on_read=is_freeing)
        expected = self.model.swapon(client, name, options)
        if isinstance(expected, bool):
            area, is_reopened = self.tier.swapon(client, name, SLOTS, options)
            assert is_reopened == expected
            assert area is self.tier.area(client, name)
        else:
            with pytest.raises(expected):
                self.tier.swapon(client, name, SLOTS, options)

    @rule(client_id=st.sampled_from(CLIENTS), epoch=EPOCHS, name=st.sampled_from(NAMES))
    def swapoff(self, client_id: str, epoch: int, name: str) -> None:
        """Close an area, if it is the client's."""
        client = Client(client_id, epoch)
        expected = self.model.error_for(client, name)
        if expected is None:
            assert self.tier.swapoff(client, name) == len(self.model.areas.pop(name).pooled())
        else:
            with pytest.raises(expected):
                self.tier.swapoff(client, name)

    @rule(
        pick=PICKS, batch=batch_of(st.tuples(st.sampled_from([1, 1, 1, 1, 2, 0, -1]), st.sampled_from(sorted(PAGES))))
    )
    def store(self, pick: int, batch: dict[int, tuple[int, str]]) -> None:
        """Store pages: mostly of the next generation, some of a later, the same, or an earlier one."""
        for name, area in self._some_area(pick):
            area.check_store(list(batch), [1] * len(batch))
            for offset, (ahead, page_name) in batch.items():
                page = PAGES[page_name]
                generation = max(1, self.model.areas[name].slots[offset].seen + ahead)
                reply = area.store(offset, generation, page, page_checksum(page))
                assert reply == self.model.store(name, offset, generation, page)

    @rule(pick=PICKS, batch=batch_of(st.booleans()))
    def repeat_last_store(self, pick: int, batch: dict[int, bool]) -> None:
        """Store what was stored last once more, as a client that got no answer does; or newer, and damaged."""
        for name, area in self._some_area(pick):
            for offset, is_damaged in batch.items():
                slot = self.model.areas[name].slots[offset]
                if slot.stored is not None:
                    checksum = page_checksum(slot.stored)
                    reply = area.store(offset, slot.seen + is_damaged, slot.stored, checksum ^ is_damaged)
                    damaged = SlotReply(Outcome.ERROR, Reason.CHECKSUM)
                    assert reply == (damaged if is_damaged else self.model.store(name, offset, slot.seen, slot.stored))

    @rule(
        pick=PICKS,
        batch=batch_of(st.tuples(st.sampled_from([0, 0, 0, 1, -1]), st.sampled_from([SHARED, SHARED, EXCLUSIVE]))),
        is_safe=st.booleans(),
        is_pool_only=st.booleans(),
    )
    def load(self, pick: int, batch: dict[int, tuple[int, LoadMode]], is_safe: bool, is_pool_only: bool) -> None:
        """Load slots, mostly by the generation they were stored with."""
        for name, area in self._some_area(pick):
            area.check_load(list(batch), [mode for _, mode in batch.values()])
            for offset, (behind, mode) in batch.items():
                generation = max(0, self.model.areas[name].slots[offset].seen - behind)
                reply = area.load(offset, generation, mode, require_generation=is_safe, pool_only=is_pool_only)
                expected = self.model.load(name, offset, generation, mode, is_safe, is_pool_only)
                assert reply == expected
                assert reply.content() == expected.content()

    @rule(pick=PICKS, batch=batch_of(st.sampled_from([0, 0, 0, -1, 1])))
    def invalidate(self, pick: int, batch: dict[int, int]) -> None:
        """Free slots, mostly at the generation they were stored with."""
        for name, area in self._some_area(pick):
            area.check_offsets(list(batch))
            for offset, ahead in batch.items():
                generation = max(0, self.model.areas[name].slots[offset].seen + ahead)
                assert area.invalidate(offset, generation).outcome is self.model.invalidate(name, offset, generation)

    @invariant()
    def books_agree(self) -> None:
        """Every sum that the tier keeps is what the model counts."""
        if not hasattr(self, "tier"):
            return
        self.tier.check_invariants()
        pool = self.tier.pool
        assert pool.bytes == self.model.pool_bytes() <= pool.bytes_max
        assert (pool.limit_hits, pool.reached_full) == (self.model.limit_hits, self.model.is_full)
        assert set(self.tier.areas) == set(self.model.areas)
        for name, expected in self.model.areas.items():
            area = self.tier.areas[name]
            assert area.client == expected.owner
            assert area.stored_pages == len(expected.pooled())
            assert area.same_filled_pages == sum(COSTS[page] == 0 for page in expected.pooled())
            assert area.device_pages == sum(slot.is_device_current for slot in expected.slots)
            for offset, slot in enumerate(expected.slots):
                assert area.lookup(offset).outcome is (Outcome.HIT if slot.pooled else Outcome.MISS)

    def _some_area(self, pick: int) -> list[tuple[str, Area]]:
        """One of the open areas; none when none is open."""
        names = sorted(self.model.areas)
        return [(names[pick % len(names)], self.tier.areas[names[pick % len(names)]])] if names else []


TestTier = TierMachine.TestCase
TestTier.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


# The negative control


def _forget_lateness_of_stores(patch: pytest.MonkeyPatch) -> None:
    """A late store is applied: R1 is gone."""
    applied = Area.store
    patch.setattr(Area, "store", lambda area, o, g, p, c: applied(area, o, max(g, area._slot(o).generation + 1), p, c))


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
    applied = Area._load_entry
    patch.setattr(Area, "_load_entry", lambda area, s, e, w, _mode: applied(area, s, e, w, LoadMode.SHARED))


def _keep_the_older_entry_of_a_refused_store(patch: pytest.MonkeyPatch) -> None:
    """678e54d4bb9a's bug."""
    applied = Area.store

    def store(area: Area, offset: int, generation: int, page: bytes, checksum: int) -> SlotReply:
        older = area._slot(offset).entry
        reply = applied(area, offset, generation, page, checksum)
        if reply.outcome is Outcome.DEVICE and older is not None and not older.length:
            area._slot(offset).entry = older
        return reply

    patch.setattr(Area, "store", store)


def _forget_required_generations(patch: pytest.MonkeyPatch) -> None:
    """Safety is asked for in vain."""
    applied = Area._load_entry
    patch.setattr(Area, "_load_entry", lambda area, s, e, _wanted, m: applied(area, s, e, None, m))


def _forget_the_accept_threshold(patch: pytest.MonkeyPatch) -> None:
    """A full pool takes the next page that fits."""
    applied = Pool.add

    def add(pool: Pool, slot: Slot, length: int) -> bool:
        pool.reached_full = False
        return applied(pool, slot, length)

    patch.setattr(Pool, "add", add)


def _overshoot_the_limit_by_a_page(patch: pytest.MonkeyPatch) -> None:
    """The kernel's own check: refuse once at the limit."""
    applied = Pool.add
    patch.setattr(Pool, "add", lambda pool, s, length: applied(pool, s, 0 if pool.bytes < pool.bytes_max else length))


def _forget_to_give_bytes_back(patch: pytest.MonkeyPatch) -> None:
    """The pool leaks."""
    patch.setattr(Pool, "remove", lambda pool, slot, _length: pool._lru.pop(slot))


def _keep_the_areas_of_a_past_life(patch: pytest.MonkeyPatch) -> None:
    """A rebooted host finds the pages of its past life."""
    patch.setattr(Tier, "_refuse_replaced", lambda _tier, _client: None)


def _let_a_freed_device_page_stay_current(patch: pytest.MonkeyPatch) -> None:
    """A slot that was freed on the device still counts there."""
    applied = Holdings._end_page
    patch.setattr(Holdings, "_end_page", lambda area, slot: applied(area, slot) if slot.entry else None)


MUTANTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    _forget_lateness_of_stores,
    _forget_lateness_of_invalidations,
    _forget_tombstones,
    _keep_what_an_exclusive_load_took,
    _keep_the_older_entry_of_a_refused_store,
    _forget_required_generations,
    _forget_the_accept_threshold,
    _overshoot_the_limit_by_a_page,
    _forget_to_give_bytes_back,
    _keep_the_areas_of_a_past_life,
    _let_a_freed_device_page_stay_current,
]


FINDING = settings(
    max_examples=2000,  # the slowest to be found took 250, over several seeds
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
