"""Random requests, in random order, to the tier and to its plain model: they must answer the same."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.server.tier.tier_model import CLAIM, CLIENTS, COSTS, EXCLUSIVE, LEASE_NS, NAMES, PAGES, SHARED, SLOTS, Model

from swaptier_server.swapfile.file import SqliteSwapFile
from swaptier_server.tier import shrinker
from swaptier_server.tier.area import Area, Durability
from swaptier_server.tier.device import DeviceError, MemoryDevice
from swaptier_server.tier.free import acknowledge, invalidate
from swaptier_server.tier.load import check_load, load, lookup
from swaptier_server.tier.page import StoredPage
from swaptier_server.tier.store import check_store, store, store_many
from swaptier_server.tier.swap_file import Client, MemorySwapFile, SwapFile
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_server.tier.write_back import write_back
from swaptier_wire.checksum import page_checksum
from swaptier_wire.errors import (
    LimitReached,
)
from swaptier_wire.types import (
    AreaOptions,
    LoadMode,
    Outcome,
    Reason,
    SlotReply,
)


class FailingDevice(MemoryDevice):
    """A device that takes nothing while the machine says so."""

    def __init__(self, is_broken: Callable[[], bool]) -> None:
        super().__init__()
        self._is_broken = is_broken

    def write(self, pages: Sequence[tuple[int, StoredPage]]) -> None:
        """Fail, or do as a device does."""
        if self._is_broken():
            raise DeviceError
        super().write(pages)


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
        has_been_here=st.booleans(),
    )
    def swapon(
        self,
        client_id: str,
        epoch: int,
        name: str,
        is_freeing: bool,
        quota: int | None,
        has_writeback: bool,
        has_been_here: bool,
    ) -> None:
        """Open an area."""
        client, options = Client(client_id, epoch), AreaOptions(is_freeing, quota, has_writeback)
        expected = self.model.swapon(client, name, options, has_been_here=has_been_here)
        seen = self.server_epoch if has_been_here else 0
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
            check_store(area, list(batch), generations)
            replies = store_many(area, list(batch), generations, pages, list(map(page_checksum, pages)))
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
                    reply = store(area, offset, slot.seen + is_damaged, slot.stored, checksum ^ is_damaged)
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
                    check_load(area, list(batch), modes)
                continue
            check_load(area, list(batch), modes)
            for offset, (behind, mode, claim) in batch.items():
                generation = max(0, self.model.areas[name].slots[offset].seen - behind)
                reply = load(
                    area,
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
            area.check_offsets(list(batch))
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
        reply = acknowledge(self.tier.areas[name], offset, generation, claim)
        assert reply.outcome is self.model.acknowledge(name, offset, generation, claim)

    @rule(pick=PICKS, batch=batch_of(st.sampled_from([0, 0, 0, -1, 1])))
    def invalidate(self, pick: int, batch: dict[int, int]) -> None:
        """Free slots, mostly at the generation they were stored with."""
        for name, area in self._some_area(pick):
            area.check_offsets(list(batch))
            for offset, ahead in batch.items():
                generation = max(0, self.model.areas[name].slots[offset].seen + ahead)
                assert invalidate(area, offset, generation).outcome is self.model.invalidate(name, offset, generation)

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
            assert write_back(area, offset) == self.model.write_back(name, offset)

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
            if self.tier.areas[name].device.read(offset).generation == was[0]:
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
                assert lookup(area, offset).outcome is (Outcome.HIT if slot.pooled else Outcome.MISS)
                on_device = area.device.read(offset)
                assert (on_device.generation, on_device.checksum) == (
                    slot.on_device[0],
                    page_checksum(slot.on_device[1]),
                )

    def _some_area(self, pick: int) -> list[tuple[str, Area]]:
        """One of the open areas; none when none is open."""
        for area in self.tier.areas.values():
            area.known_slots.pack()  # as after a batch: what a row cannot say would be lost here
        names = sorted(self.model.areas)
        return [(names[pick % len(names)], self.tier.areas[names[pick % len(names)]])] if names else []


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
