"""A device that gives another page than it took: never answered, always counted, mended where the page is at hand."""

import random
from collections.abc import Callable, Sequence

import pytest
from tests.builders import noise_of, page_of
from tests.server.builders import HOST, put

from swaptier_server.tier.area import Durability
from swaptier_server.tier.device import DeviceError, DeviceFault, MemoryDevice
from swaptier_server.tier.free import acknowledge, invalidate
from swaptier_server.tier.load import load
from swaptier_server.tier.page import Raw, StoredPage, stored_page
from swaptier_server.tier.slot import DEVICE_STATES, POOL_STATES, SlotState
from swaptier_server.tier.store import store_many
from swaptier_server.tier.swap_file import MemorySwapFile
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_server.tier.write_back import write_back
from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import ZERO_PAGE, AreaOptions, LoadMode, Outcome, Reason, SlotReply

PAGE, OLDER, OTHER = noise_of(2), page_of(1), page_of(3)
GENERATION = 2


def stored(page: bytes, generation: int) -> StoredPage:
    return stored_page(page, page_checksum(page), generation)


LIES: dict[str, Callable[[MemoryDevice], None]] = {
    "nothing": lambda device: device.drop(0),
    "an older page": lambda device: device.write([(0, stored(OLDER, 1))]),
    "a newer page": lambda device: device.write([(0, stored(OTHER, 3))]),
    "another page of the generation": lambda device: device.write([(0, stored(OTHER, GENERATION))]),
    "zeros of the generation": lambda device: device.write([(0, stored(ZERO_PAGE, GENERATION))]),
}
DAMAGED = stored(PAGE, GENERATION)._replace(checksum=1)


class RefusingDevice(MemoryDevice):
    """Refuses writes while it is told to."""

    is_refusing = False

    def write(self, pages: Sequence[tuple[int, StoredPage]]) -> None:
        """Overwrite the slots."""
        if self.is_refusing:
            raise DeviceError
        super().write(pages)


class Pages:
    """An area whose slot 0 has PAGE, on a device that the test can reach."""

    def __init__(self, *, pool: int = 0, frees_on_read: bool = False, writes_through: bool = False) -> None:
        self.device = RefusingDevice()
        self.swap_file = MemorySwapFile(lambda _name: self.device)
        self.durability = Durability.WRITE_THROUGH if writes_through else Durability.MEMORY
        self.tier = self.start(pool)
        options = AreaOptions(device_free_on_read=frees_on_read)
        self.area, _ = self.tier.swapon(HOST, "swap", 8, options)
        assert self.store().outcome is (Outcome.STORED if pool else Outcome.DEVICE)

    def start(self, pool: int = 0) -> Tier:
        """Return the next tier on what was kept."""
        return Tier(TierLimits(pool), 1, swap_file=self.swap_file, durability=self.durability)

    def store(self) -> SlotReply:
        """Store the page, or repeat that."""
        return put(self.area, 0, GENERATION, PAGE)

    def exact(self) -> bytes | None:
        """Load the page, or nothing."""
        return load(self.area, 0, GENERATION, LoadMode.SHARED, require_generation=True).page

    def check(self, errors: int) -> None:
        """The books agree, and so many reads were counted and noted."""
        self.tier.check_invariants()
        assert self.area.counters.device_errors[DeviceFault.DAMAGED] == errors
        assert self.area.bad_reads.take()[0] == errors


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
@pytest.mark.parametrize("mode", LoadMode)
@pytest.mark.parametrize("is_exact", [False, True])
@pytest.mark.parametrize("is_restored", [False, True])
def test_what_the_device_does_not_give_back_is_an_error_whoever_asks(
    lie: Callable[[MemoryDevice], None], mode: LoadMode, is_exact: bool, is_restored: bool
) -> None:
    """Zeros were answered as DEVICE unless the generation was required, and a claim handed them off."""
    pages = Pages()
    if is_restored:
        pages.tier = pages.start()
        pages.area = pages.tier.areas["swap"]
    lie(pages.device)
    reply = load(pages.area, 0, GENERATION, mode, request_id=7, require_generation=is_exact)
    assert (reply.outcome, reply.reason, reply.page) == (Outcome.ERROR, Reason.DEVICE_ERROR, None)
    assert pages.area.counters.load_errors[Reason.DEVICE_ERROR] == 1
    assert pages.area.held(0).state is SlotState.ON_DEVICE, "nothing was handed off"
    assert acknowledge(pages.area, 0, GENERATION, 7).outcome is Outcome.LEASE_ENDED
    pages.check(errors=1)
    pages.device.write([(0, stored(PAGE, GENERATION))])
    assert pages.exact() == PAGE


def test_a_page_that_is_damaged_on_the_device_is_counted_as_its_error() -> None:
    pages = Pages()
    pages.device.write([(0, DAMAGED)])
    assert load(pages.area, 0, GENERATION, LoadMode.SHARED).reason is Reason.CHECKSUM
    pages.device.write([(5, DAMAGED)])
    assert load(pages.area, 5, 1, LoadMode.SHARED).reason is Reason.CHECKSUM, "nor does a slot that was never stored"
    pages.check(errors=2)


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_the_repeat_of_a_claim_gets_the_same_bytes_or_an_error(lie: Callable[[MemoryDevice], None]) -> None:
    pages = Pages()
    assert load(pages.area, 0, GENERATION, LoadMode.CLAIM, request_id=7).page == PAGE
    lie(pages.device)
    assert load(pages.area, 0, GENERATION, LoadMode.CLAIM, request_id=7).outcome is Outcome.ERROR
    assert pages.area.held(0).state is SlotState.DEVICE_HANDED_OFF
    pages.check(errors=1)


def test_a_device_that_frees_on_read_keeps_what_it_did_not_give() -> None:
    pages = Pages(frees_on_read=True)
    LIES["an older page"](pages.device)
    assert load(pages.area, 0, GENERATION, LoadMode.SHARED).outcome is Outcome.ERROR
    assert pages.device.read(0).generation == 1
    pages.check(errors=1)


def test_an_older_page_and_zeros_are_given_where_the_tier_knows_of_nothing_newer() -> None:
    """As a swap device gives them: of a slot that was freed, of one never stored to, of one the device let go."""
    pages = Pages()
    invalidate(pages.area, 0, GENERATION)
    assert load(pages.area, 0, GENERATION, LoadMode.SHARED).page == PAGE
    pages.device.write([(1, stored(OLDER, 9))])
    assert [load(pages.area, offset, 1, LoadMode.SHARED).page for offset in (1, 2)] == [OLDER, ZERO_PAGE]
    invalidate(pages.area, 2, 5)
    assert load(pages.area, 2, 5, LoadMode.SHARED).page == ZERO_PAGE
    pages.check(errors=0)
    LIES["nothing"](pages.device)
    assert load(pages.area, 0, GENERATION, LoadMode.SHARED).outcome is Outcome.ERROR, "it was freed, and never dropped"
    pages.check(errors=1)


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_an_entry_is_given_up_only_where_the_device_has_the_page_that_it_took_before(
    lie: Callable[[MemoryDevice], None],
) -> None:
    """Written through, then lost by the device: the pool's is the last one."""
    pages = Pages(pool=1 << 20, writes_through=True)
    lie(pages.device)
    assert write_back(pages.area, 0)
    assert pages.area.held(0).state is SlotState.ON_DEVICE
    assert pages.exact() == PAGE
    pages.check(errors=1)


@pytest.mark.parametrize("mode", LoadMode)
@pytest.mark.parametrize("is_exact", [False, True])
def test_an_entry_that_is_damaged_gives_way_to_the_copy_that_was_written_through(
    mode: LoadMode, is_exact: bool
) -> None:
    """It was an error, with the page at hand."""
    pages = Pages(pool=1 << 20, writes_through=True)
    slot = pages.area.slot(0)
    assert slot.entry is not None
    slot.entry = slot.entry._replace(encoded=Raw(OTHER))
    reply = load(pages.area, 0, GENERATION, mode, request_id=7, require_generation=is_exact)
    assert (reply.outcome, reply.generation, reply.page) == (Outcome.DEVICE, GENERATION, PAGE)
    assert pages.area.counters.load_errors[Reason.CHECKSUM] == 1
    pages.check(errors=0)
    assert acknowledge(pages.area, 0, GENERATION, 7).outcome is (
        Outcome.ACKNOWLEDGED if mode is LoadMode.CLAIM else Outcome.LEASE_ENDED
    )


def test_the_repeat_of_a_claim_gets_the_copy_that_was_written_through() -> None:
    """Of an entry that was damaged since: it was an error for as long as the claim was repeated."""
    pages = Pages(pool=1 << 20, writes_through=True)
    assert load(pages.area, 0, GENERATION, LoadMode.CLAIM, request_id=7).outcome is Outcome.HIT
    slot = pages.area.slot(0)
    assert slot.entry is not None
    slot.entry = slot.entry._replace(encoded=Raw(OTHER))
    assert load(pages.area, 0, GENERATION, LoadMode.CLAIM, request_id=7).page == PAGE
    assert acknowledge(pages.area, 0, GENERATION, 7).outcome is Outcome.ACKNOWLEDGED
    pages.check(errors=0)


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_an_entry_that_is_damaged_stays_an_error_where_the_device_has_lost_the_page(
    lie: Callable[[MemoryDevice], None],
) -> None:
    pages = Pages(pool=1 << 20, writes_through=True)
    slot = pages.area.slot(0)
    assert slot.entry is not None
    slot.entry = slot.entry._replace(encoded=Raw(OTHER))
    lie(pages.device)
    assert load(pages.area, 0, GENERATION, LoadMode.CLAIM).reason is Reason.CHECKSUM
    assert slot.state is SlotState.POOLED
    pages.check(errors=1)


def test_a_drain_writes_anew_what_the_device_has_lost() -> None:
    pages = Pages(pool=1 << 20, writes_through=True)
    LIES["nothing"](pages.device)
    assert list(pages.tier.drain())[-1].written == 1
    pages.tier = pages.start()
    pages.area = pages.tier.areas["swap"]
    assert pages.exact() == PAGE


def test_an_entry_stays_where_the_device_has_lost_the_page_and_takes_none() -> None:
    pages = Pages(pool=1 << 20, writes_through=True)
    LIES["nothing"](pages.device)
    pages.device.is_refusing = True
    assert not write_back(pages.area, 0)
    assert pages.exact() == PAGE
    pages.check(errors=1)


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
@pytest.mark.parametrize("pool", [0, 1 << 20], ids=["on the device", "written through"])
def test_the_repeat_of_a_store_mends_what_the_device_has_lost(lie: Callable[[MemoryDevice], None], pool: int) -> None:
    """Its answer says that the device has the page; the host forgets its own then."""
    pages = Pages(pool=pool, writes_through=True)
    first = pages.store()
    pages.check(errors=0)
    lie(pages.device)
    assert pages.store() == first
    assert pages.device.read(0) == stored(PAGE, GENERATION)
    assert pages.exact() == PAGE
    pages.check(errors=1)


def test_the_repeat_of_a_store_that_a_broken_device_refuses_is_refused() -> None:
    pages = Pages(writes_through=True)
    LIES["nothing"](pages.device)
    pages.device.is_refusing = True
    assert pages.store() == SlotReply(Outcome.REJECTED, Reason.DEVICE_ERROR)
    assert pages.exact() is None
    pages.check(errors=1)


def test_a_late_store_of_another_page_under_the_same_generation_reads_nothing() -> None:
    pages = Pages()
    LIES["nothing"](pages.device)
    replies = store_many(pages.area, [0], [GENERATION], [OTHER], [page_checksum(OTHER)])
    assert replies == [SlotReply(Outcome.STALE_GENERATION)]
    pages.check(errors=0)


def test_the_first_of_many_bad_reads_is_noted_with_their_number() -> None:
    pages = Pages()
    LIES["an older page"](pages.device)
    for _ in range(1000):
        load(pages.area, 0, GENERATION, LoadMode.SHARED)
    reads, first = pages.tier.bad_reads.take()
    assert (reads, first) == (
        1000,
        (
            "swap",
            0,
            GENERATION,
            DeviceFault.DAMAGED,
            "the device failed (damaged): it took generation 2 and gives generation 1",
        ),
    )
    assert pages.tier.bad_reads.take() == (0, None)


class Storm:
    """Requests by chance to an area whose device lies by chance, across tiers.

    The next tier knows only what the device says then, so what is of another slot is seen by the swap file's seals
    alone: here it is dropped before.
    """

    SLOTS = 4

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.device = MemoryDevice()
        self.swap_file = MemorySwapFile(lambda _name: self.device)
        self.generations = [0] * self.SLOTS
        self.answered = 0
        self.restart()

    def restart(self) -> None:
        """Go on with the next tier."""
        for offset, page in self.device.written().items():
            if page != stored(self.content(offset, page.generation), page.generation):
                self.device.drop(offset)
        durability = self.chance.choice(list(Durability))
        limits = TierLimits(self.chance.choice([0, 1 << 16]))
        self.tier = Tier(limits, 1, swap_file=self.swap_file, durability=durability)
        self.area, _ = self.tier.swapon(HOST, "swap", self.SLOTS, AreaOptions())

    def content(self, offset: int, generation: int) -> bytes:
        """Return the page that is stored as this."""
        return page_of(100 * generation + offset) if generation else ZERO_PAGE

    def lie(self, offset: int) -> None:
        """Let the device have something else in a slot."""
        generation = self.chance.randint(0, self.generations[offset])
        other = self.chance.choice([offset, offset, (offset + 1) % self.SLOTS])
        if generation == 0:
            self.device.drop(offset)
        else:
            self.device.write([(offset, stored(self.content(other, generation), generation))])

    def step(self) -> None:
        """Do one thing, and check what it answers."""
        offset = self.chance.randrange(self.SLOTS)
        match self.chance.randrange(8):
            case 0 | 1:
                self.generations[offset] += self.chance.randrange(2)
                if generation := self.generations[offset]:
                    put(self.area, offset, generation, self.content(offset, generation))
            case 2 | 3 | 4:
                self.load(offset)
            case 5:
                write_back(self.area, offset)
            case 6:
                self.lie(offset)
            case _:
                self.chance.choice([self.restart, lambda: invalidate(self.area, offset, self.generations[offset])])()

    def load(self, offset: int) -> None:
        """Load in some way, and acknowledge what is handed off."""
        held = self.area.held(offset)
        state, generation = held.state, held.generation
        mode, is_exact = self.chance.choice(list(LoadMode)), self.chance.random() < 0.5
        wanted = self.generations[offset]
        reply = load(self.area, offset, wanted, mode, request_id=7, require_generation=is_exact)
        page = reply.content()
        if page is not None and state in (*POOL_STATES, *DEVICE_STATES):
            assert (reply.generation, page) == (generation, self.content(offset, generation))
            self.answered += 1
        assert page is None or not is_exact or page == self.content(offset, wanted)
        if mode is LoadMode.CLAIM and self.chance.random() < 0.5:
            acknowledge(self.area, offset, generation, 7)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_device_has_a_slot_that_holds_a_page_answers_that_or_none(seed: int) -> None:
    """Pages of other slots and generations, and none, before and after restarts."""
    storm = Storm(seed)
    bad_reads = 0
    for _ in range(2000):
        storm.step()
        storm.tier.check_invariants()
        bad_reads += storm.tier.bad_reads.take()[0]
    assert storm.answered > 100 and bad_reads > 100
