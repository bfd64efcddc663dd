"""What the next server finds, and what it says of the rest: the comment of Swapon in the proto, claim by claim."""

from collections.abc import Sequence

import pytest
from tests.builders import page_of
from tests.server.builders import put

from swaptier_server.tier.area import Area, Durability
from swaptier_server.tier.device import BackingDevice, DeviceError, DeviceFault
from swaptier_server.tier.free import acknowledge, invalidate
from swaptier_server.tier.load import load
from swaptier_server.tier.swap_file import Client, MemorySwapFile, SavedArea
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_server.tier.write_back import write_back
from swaptier_wire.errors import AreaExists, AreaNotOwned, ClientReplaced, LimitReached, UnknownArea
from swaptier_wire.types import (
    EPOCH_MAX,
    ZERO_PAGE,
    AreaOptions,
    LoadMode,
    LoadReply,
    Outcome,
    Reason,
    SlotReply,
    fill_page,
)

HOST, OTHER = Client("host", 5), Client("other", 1)
LIMITS = TierLimits(1 << 20)
OPTIONS = AreaOptions(pool_bytes_max=1 << 16)


class FullSwapFile(MemorySwapFile):
    """A swap file that records nothing while the test says so."""

    is_full = False

    def open_area(self, area: SavedArea, replaced: Sequence[str]) -> BackingDevice:
        """Fail, or record a new area."""
        self._check()
        return super().open_area(area, replaced)

    def forget_area(self, name: str) -> None:
        """Fail, or forget."""
        self._check()
        super().forget_area(name)

    def _check(self) -> None:
        if self.is_full:
            raise DeviceError(DeviceFault.FULL)


class Servers:
    """One server after the other, on the same swap file."""

    def __init__(self, durability: Durability = Durability.MEMORY) -> None:
        self.swap_file = FullSwapFile()
        self.durability = durability
        self.epoch = 0
        self.tier = self.start()
        self.area, _ = self.tier.swapon(HOST, "swap", 8, OPTIONS)

    def start(self, limits: TierLimits = LIMITS) -> Tier:
        """Start a server; whatever was before is gone."""
        self.epoch += 1
        self.tier = Tier(limits, self.epoch, swap_file=self.swap_file, durability=self.durability)
        self.tier.check_invariants()
        return self.tier

    def store(self, offset: int, generation: int, page: bytes) -> SlotReply:
        """Store a page."""
        return put(self.area, offset, generation, page)

    def restart(self) -> Area:
        """Kill the server and start another; return its area."""
        self.area = self.start().area(HOST, "swap")
        return self.area

    def load(self, offset: int, generation: int, mode: LoadMode = LoadMode.SHARED, request_id: int = 0) -> LoadReply:
        """Load a page of exactly this generation."""
        return load(self.area, offset, generation, mode, request_id=request_id, require_generation=True)


def test_an_area_is_open_after_a_restart_with_what_its_device_has() -> None:
    """Nothing has to be asked for: the next request of the host is answered, and Swapon says that it is open."""
    servers = Servers()
    servers.store(0, 3, page_of(0))
    write_back(servers.area, 0)
    area = servers.restart()
    assert servers.load(0, 3).page == page_of(0)
    assert servers.tier.swapon(HOST, "swap", 8, OPTIONS) == (area, True)
    assert (area.device_pages, area.stored_pages) == (1, 0)


def test_a_page_that_only_the_pool_had_is_lost_and_said_to_be() -> None:
    """After SIGKILL: LOST, and never the older bytes that the device has."""
    servers = Servers()
    servers.store(0, 1, page_of(0))
    write_back(servers.area, 0)
    servers.store(0, 2, page_of(1))
    servers.store(1, 1, page_of(2))
    servers.restart()
    assert servers.load(0, 2) == LoadReply(Outcome.LOST, Reason.RESTARTED, 1)
    assert servers.load(1, 1) == LoadReply(Outcome.LOST, Reason.RESTARTED)
    assert servers.area.counters.lost[Reason.RESTARTED] == 2
    assert load(servers.area, 0, 2, LoadMode.SHARED).generation == 1, "the kernel's load reads what the device has"
    assert load(servers.area, 1, 1, LoadMode.SHARED).page == ZERO_PAGE
    assert servers.load(0, 1).page == page_of(0), "and whoever asks for the older page by name gets it"


@pytest.mark.parametrize("page", [page_of(1), fill_page(7)])
def test_every_store_that_was_answered_survives_where_pages_are_written_through(page: bytes) -> None:
    servers = Servers(Durability.WRITE_THROUGH)
    assert servers.store(0, 1, page).outcome is Outcome.STORED
    servers.restart()
    reply = servers.load(0, 1)
    assert (reply.outcome, reply.content()) == (Outcome.DEVICE, page)


def test_everything_survives_a_drain() -> None:
    servers = Servers()
    for offset in range(4):
        servers.store(offset, 1, page_of(offset))
    servers.load(3, 1, LoadMode.CLAIM, request_id=7)
    *_, progress = servers.tier.drain()
    assert progress.written == 4
    servers.restart()
    assert [servers.load(offset, 1).page for offset in range(4)] == [page_of(offset) for offset in range(4)]


def test_a_store_whose_answer_died_with_the_server_is_answered_when_it_is_repeated() -> None:
    servers = Servers(Durability.WRITE_THROUGH)
    servers.store(0, 4, page_of(0))
    servers.restart()
    assert servers.store(0, 4, page_of(0)) == SlotReply(Outcome.DEVICE)
    assert servers.store(0, 4, page_of(1)).outcome is Outcome.STALE_GENERATION
    assert servers.store(0, 3, page_of(1)).outcome is Outcome.STALE_GENERATION
    assert servers.store(0, 5, page_of(1)).outcome is Outcome.STORED
    servers.tier.check_invariants()


def test_a_claim_ends_with_its_server_and_its_repeat_is_a_new_one() -> None:
    servers = Servers(Durability.WRITE_THROUGH)
    servers.store(0, 1, page_of(0))
    before = servers.load(0, 1, LoadMode.CLAIM, request_id=7)
    servers.restart()
    assert acknowledge(servers.area, 0, 1, 7).outcome is Outcome.LEASE_ENDED
    assert servers.load(0, 1, LoadMode.CLAIM, request_id=7).content() == before.content()
    assert servers.load(0, 1, LoadMode.CLAIM, request_id=8).outcome is Outcome.CLAIMED
    assert acknowledge(servers.area, 0, 1, 7).outcome is Outcome.ACKNOWLEDGED


def test_what_was_acknowledged_or_freed_may_come_back_under_its_own_generation_and_no_other() -> None:
    """The tombstones die with the server. The bytes are still those that were stored under that name."""
    servers = Servers(Durability.WRITE_THROUGH)
    for offset in range(2):
        servers.store(offset, 1, page_of(offset))
    servers.load(0, 1, LoadMode.CLAIM, request_id=7)
    acknowledge(servers.area, 0, 1, 7)
    invalidate(servers.area, 1, 1)
    assert [servers.load(offset, 1).outcome for offset in range(2)] == [Outcome.LOST] * 2
    servers.restart()
    assert [servers.load(offset, 1).page for offset in range(2)] == [page_of(0), page_of(1)]
    assert servers.load(0, 2) == LoadReply(Outcome.LOST, Reason.RESTARTED, 1)
    assert invalidate(servers.area, 0, 1).outcome is Outcome.MISS
    assert servers.load(0, 1) == LoadReply(Outcome.LOST, Reason.FREED)


@pytest.mark.parametrize("page", [page_of(0), fill_page(7)])
def test_what_an_exclusive_load_took_does_not_come_back(page: bytes) -> None:
    servers = Servers(Durability.WRITE_THROUGH)
    servers.store(0, 1, page)
    assert servers.load(0, 1, LoadMode.EXCLUSIVE).content() == page
    servers.restart()
    assert servers.load(0, 1) == LoadReply(Outcome.LOST, Reason.RESTARTED)
    assert load(servers.area, 0, 1, LoadMode.SHARED).page == ZERO_PAGE
    assert servers.area.device_pages == 0


def test_a_late_store_of_a_page_that_was_taken_before_a_restart_costs_memory_and_no_page() -> None:
    """Nothing says that it is late. It is kept under its own generation, until the slot is stored or freed."""
    servers = Servers(Durability.WRITE_THROUGH)
    for offset in range(2):
        servers.store(offset, 1, page_of(0))
        servers.store(offset, 2, page_of(1))
        servers.load(offset, 2, LoadMode.EXCLUSIVE)
    servers.restart()
    for offset in range(2):
        assert servers.store(offset, 1, page_of(0)).outcome is Outcome.STORED
        assert servers.load(offset, 2) == LoadReply(Outcome.LOST, Reason.RESTARTED, 1)
    assert invalidate(servers.area, 0, 2).outcome is Outcome.INVALIDATED
    assert servers.store(1, 3, page_of(2)).outcome is Outcome.STORED
    assert servers.load(1, 3).page == page_of(2)
    assert servers.area.stored_pages == 1


def test_a_late_store_of_a_page_that_was_acknowledged_before_a_restart_is_known_to_be_late() -> None:
    """The row stays behind, and is the one tombstone that outlives the server."""
    servers = Servers(Durability.WRITE_THROUGH)
    servers.store(0, 1, page_of(0))
    servers.store(0, 2, page_of(1))
    servers.load(0, 2, LoadMode.CLAIM, request_id=7)
    acknowledge(servers.area, 0, 2, 7)
    servers.restart()
    assert servers.store(0, 1, page_of(0)).outcome is Outcome.STALE_GENERATION
    assert servers.store(0, 2, page_of(1)) == SlotReply(Outcome.DEVICE)
    assert servers.area.stored_pages == 0
    assert servers.store(0, 3, page_of(2)).outcome is Outcome.STORED
    servers.restart()
    assert servers.load(0, 3).page == page_of(2)


def test_an_area_belongs_to_the_same_life_of_the_same_client_after_a_restart() -> None:
    servers = Servers()
    tier = servers.start()
    with pytest.raises(ClientReplaced):
        tier.area(Client("host", 4), "swap")
    with pytest.raises(AreaNotOwned):
        tier.swapon(OTHER, "swap", 8, OPTIONS)
    with pytest.raises(AreaExists):
        tier.swapon(HOST, "swap", 9, OPTIONS)
    with pytest.raises(AreaExists):
        tier.swapon(HOST, "swap", 8, AreaOptions())


def test_a_host_that_started_anew_finds_nothing_of_its_past_life() -> None:
    servers = Servers(Durability.WRITE_THROUGH)
    servers.store(0, 1, page_of(0))
    servers.start()
    reborn = Client("host", 6)
    servers.area, is_reopened = servers.tier.swapon(reborn, "swap", 8, OPTIONS)
    assert not is_reopened
    assert servers.load(0, 1) == LoadReply(Outcome.LOST, Reason.NEVER_STORED)
    tier = servers.start()
    assert tier.area(reborn, "swap").device_pages == 0


def test_an_area_that_was_closed_stays_closed() -> None:
    servers = Servers(Durability.WRITE_THROUGH)
    servers.store(0, 1, page_of(0))
    servers.tier.swapoff(HOST, "swap")
    tier = servers.start()
    with pytest.raises(UnknownArea):
        tier.area(HOST, "swap")
    servers.area, is_reopened = tier.swapon(HOST, "swap", 8, OPTIONS)
    assert not is_reopened
    assert servers.load(0, 1) == LoadReply(Outcome.LOST, Reason.NEVER_STORED)


def test_a_host_that_knew_the_area_is_told_of_the_restart_even_where_nothing_was_kept() -> None:
    """Or that this server forgot it: only the host's word tells such a page from one that was never stored."""
    tier = Tier(LIMITS, epoch=9)
    for seen, reason in ((0, Reason.NEVER_STORED), (9, Reason.RESTARTED), (8, Reason.RESTARTED)):
        area, is_reopened = tier.swapon(HOST, f"swap-{seen}", 8, OPTIONS, seen_server_epoch=seen)
        assert not is_reopened
        assert load(area, 0, 1, LoadMode.SHARED, require_generation=True) == LoadReply(Outcome.LOST, reason)


def test_a_host_that_saw_the_highest_epoch_sees_another() -> None:
    """It would take a server in the same epoch for the same server."""
    tier = Tier(LIMITS, epoch=9)
    for seen, epoch in ((EPOCH_MAX, 9), (EPOCH_MAX - 1, EPOCH_MAX), (EPOCH_MAX, EPOCH_MAX)):
        area, _ = tier.swapon(HOST, "swap", 8, OPTIONS, seen_server_epoch=seen)
        assert area.server_epoch == epoch


def test_what_became_of_a_page_since_the_restart_is_told_as_ever() -> None:
    servers = Servers()
    servers.restart()
    servers.store(0, 7, page_of(0))
    assert servers.load(0, 6) == LoadReply(Outcome.STALE_GENERATION, generation=7)
    servers.load(0, 7, LoadMode.EXCLUSIVE)
    assert servers.load(0, 7) == LoadReply(Outcome.LOST, Reason.TAKEN)
    assert servers.load(0, 8) == LoadReply(Outcome.LOST, Reason.RESTARTED)


# A swap file that cannot be written, or does not fit


def test_an_area_that_cannot_be_recorded_is_not_opened() -> None:
    """Otherwise its pages would be gone with the server, though it was durable."""
    servers = Servers()
    servers.swap_file.is_full = True
    with pytest.raises(LimitReached, match="'new' was not opened: the swap file could not record it"):
        servers.tier.swapon(OTHER, "new", 8, OPTIONS)
    with pytest.raises(LimitReached):
        servers.tier.swapon(Client("host", 6), "swap", 8, OPTIONS)
    assert servers.tier.area(HOST, "swap") is servers.area, "nor is the past life over"
    servers.swap_file.is_full = False
    servers.tier.swapon(OTHER, "new", 8, OPTIONS)


def test_an_area_that_cannot_be_forgotten_stays_open() -> None:
    """Forgotten in memory only, it would come back with its pages, to a host that numbers its stores from 1 again."""
    servers = Servers()
    servers.store(0, 1, page_of(0))
    servers.swap_file.is_full = True
    with pytest.raises(LimitReached, match="'swap' was not closed"):
        servers.tier.swapoff(HOST, "swap")
    with pytest.raises(LimitReached):
        servers.tier.drop_area("swap")
    assert servers.load(0, 1).page == page_of(0)
    servers.tier.check_invariants()


def test_a_server_whose_limits_the_swap_file_does_not_fit_is_not_started() -> None:
    servers = Servers()
    servers.tier.swapon(OTHER, "another", 8, OPTIONS)
    with pytest.raises(ValueError, match="has 2 areas of up to 8 slots, and the limits are 1 and 1048576"):
        servers.start(LIMITS._replace(areas_max=1))
    with pytest.raises(ValueError, match="the limits are 64 and 7"):
        servers.start(LIMITS._replace(slots_per_area_max=7))
    assert set(servers.start().areas) == {"swap", "another"}
