"""A message in slices is one step to everybody else: to other messages, to the end of its call, to the disk."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.builders import noise_of, page_of
from tests.server.builders import HOST, put
from tests.server.conftest import Serve
from tests.server.rpc.test_service import HEADER

from swaptier_server.rpc.apply import apply
from swaptier_server.rpc.traffic import Traffic
from swaptier_server.swapfile.file import SqliteSwapFile
from swaptier_server.tier.area import Durability
from swaptier_server.tier.device import DeviceError, DeviceFault, MemoryDevice
from swaptier_server.tier.load import load
from swaptier_server.tier.page import StoredPage
from swaptier_server.tier.slices import SLICE_SLOTS, Slices, to_its_end
from swaptier_server.tier.slot import SlotState
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_server.tier.write_back import write_back_oldest
from swaptier_wire.batches import Acknowledges, Loads, RequestBatches, Stores
from swaptier_wire.checksum import page_checksum
from swaptier_wire.errors import Draining
from swaptier_wire.types import PAGE_BYTES, AreaOptions, LoadMode, Outcome

SLOTS = 4 * SLICE_SLOTS
EVERY = list(range(SLOTS))
PAGES = [page_of(offset) for offset in EVERY]


def stores(generation: int) -> RequestBatches:
    return RequestBatches(
        HEADER, store=Stores(EVERY, [generation] * SLOTS, PAGES, [page_checksum(page) for page in PAGES])
    )


def loads(mode: LoadMode) -> RequestBatches:
    return RequestBatches(HEADER, load=Loads(EVERY, [1] * SLOTS, [mode] * SLOTS, [7] * SLOTS))


class Durable:
    """An area that writes through, and the transactions of its file."""

    def __init__(self, path: Path) -> None:
        self.file = SqliteSwapFile(path)
        self.tier = Tier(TierLimits(1 << 22), 1, swap_file=self.file, durability=Durability.WRITE_THROUGH)
        self.area = self.tier.swapon(HOST, "a", SLOTS, AreaOptions(device_free_on_read=True))[0]
        self._commits = 0
        self.file._db.set_trace_callback(self._note)

    def _note(self, statement: str) -> None:
        self._commits += statement == "COMMIT"

    def transactions_of(self, request: RequestBatches) -> int:
        """Apply *request*; return how many that took."""
        before = self._commits
        to_its_end(apply(self.area, request))
        return self._commits - before

    @property
    def written(self) -> int:
        """Pages on the device."""
        return sum(self.area.device.read(offset).generation != 0 for offset in EVERY)


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[Durable]:
    """On a file."""
    made = Durable(tmp_path / "swap")
    yield made
    made.tier.check_invariants()
    made.file.close()


def test_what_exclusive_loads_take_leaves_the_device_in_one_transaction(durable: Durable) -> None:
    """As it came there: a sync for each page held everybody up for as long as 256 of them take."""
    assert durable.transactions_of(stores(1)) == 1
    assert durable.transactions_of(loads(LoadMode.EXCLUSIVE)) == 1
    assert durable.written == 0


@pytest.mark.parametrize("mode", [LoadMode.SHARED, LoadMode.CLAIM])
def test_what_a_device_frees_on_read_goes_in_one_transaction(durable: Durable, mode: LoadMode) -> None:
    """When it is read, or when the claim of it is acknowledged."""
    durable.transactions_of(stores(1))
    while durable.area.lru:
        write_back_oldest(durable.area, 1 << 20, SLOTS)
    taken = durable.transactions_of(loads(mode))
    if mode is LoadMode.CLAIM:
        acknowledges = Acknowledges(EVERY, [1] * SLOTS, [7] * SLOTS)
        taken += durable.transactions_of(RequestBatches(HEADER, acknowledge=acknowledges))
    assert taken == 1
    assert durable.written == 0


def test_a_batch_that_the_device_refuses_clears_its_slots_at_once(durable: Durable) -> None:
    """A disk that refuses takes longer than one that works: its room is probed, and whether it is writable."""
    durable.transactions_of(stores(1))
    asked: list[str] = []
    durable.file._db.set_trace_callback(asked.append)
    durable.file._db.execute("PRAGMA query_only = 1")
    replies = to_its_end(apply(durable.area, stores(2)))
    assert {reply.outcome for reply in replies.store or ()} == {Outcome.REJECTED}
    assert asked.count("BEGIN IMMEDIATE") == 2, "the pages, then what is to be cleared"


class Unsteady(MemoryDevice):
    """Refuses the next write."""

    refuses = False

    def write(self, pages: Sequence[tuple[int, StoredPage]]) -> None:
        """Overwrite the slots, but for the first time."""
        if self.refuses:
            self.refuses = False
            raise DeviceError(DeviceFault.FULL)
        super().write(pages)


def test_what_is_written_back_at_the_second_attempt_of_a_message_stays_on_the_device() -> None:
    """A store made room for itself in vain, the next one did it: the end of the message deleted the only copy."""
    device = Unsteady()
    tier = Tier(TierLimits(1 << 22), 1, lambda _: device)
    area = tier.swapon(HOST, "a", SLOTS, AreaOptions(pool_bytes_max=PAGE_BYTES))[0]
    pages = [noise_of(offset) for offset in range(3)]
    put(area, 0, 1, pages[0])
    device.refuses = True
    checksums = [page_checksum(page) for page in pages[1:]]
    to_its_end(apply(area, RequestBatches(HEADER, store=Stores([1, 2], [1, 1], pages[1:], checksums))))
    assert [area.held(offset).state for offset in range(3)] == [
        SlotState.ON_DEVICE,
        SlotState.ON_DEVICE,
        SlotState.POOLED,
    ]
    for offset, page in enumerate(pages):
        assert load(area, offset, 1, LoadMode.SHARED, require_generation=True).page == page
    tier.check_invariants()


# Other messages, and the end of calls


def test_a_lease_that_ends_between_two_slices_lets_no_more_be_claimed_than_may(durable: Durable) -> None:
    """The claims of the rest of the message had been checked before."""
    durable.transactions_of(stores(1))
    claims = apply(durable.area, loads(LoadMode.CLAIM))
    next(claims)
    durable.tier.expire_leases(1 << 62)
    to_its_end(claims)
    assert durable.area.handed_off_pages == SLOTS - SLICE_SLOTS


@pytest.mark.parametrize("request_", [stores(1), loads(LoadMode.SHARED)], ids=["stores", "loads"])
def test_a_message_that_waits_for_nobody_does_not_say_so(request_: RequestBatches) -> None:
    """A store that needed no device ended in a slice about no slot, and waited a round for that."""
    area = Tier(TierLimits(1 << 22), 1).swapon(HOST, "a", SLOTS, AreaOptions())[0]
    assert list(apply(area, request_)) == [SLICE_SLOTS] * (SLOTS // SLICE_SLOTS)


def test_a_message_is_atomic_to_others_of_its_area() -> None:
    """The area says so for as long as it lasts, and is neither closed nor asked by another one meanwhile."""
    tier = Tier(TierLimits(1 << 22), 1)
    area, _ = tier.swapon(HOST, "a", SLOTS, AreaOptions())
    message = apply(area, stores(1))
    next(message)
    assert area.is_in_message
    with pytest.raises(AssertionError, match="in progress"):
        next(apply(area, stores(2)))
    with pytest.raises(AssertionError, match="closed under a message"):
        tier.swapoff(HOST, "a")
    to_its_end(message)
    assert not area.is_in_message


async def test_of_two_connections_that_share_an_area_one_waits_for_the_others_message(serve: Serve) -> None:
    """Nobody asks who they are, so each has its turns; a reboot's Swapon waits, too, and is not refused."""
    served = await serve()
    await served.swapon(slots=SLOTS)
    area = served.server.tier.areas["a"]
    other = apply(area, stores(1))

    def others_message() -> Slices[None]:
        yield from other

    with served.server.traffic.call(flow="another connection") as call:
        task = asyncio.create_task(call.in_turn(others_message()))
        await asyncio.sleep(0)
        assert area.is_in_message
        await served.swapon(slots=SLOTS, epoch=2)
        await task
    assert area.is_closed
    assert not served.server.tier.areas["a"].stored_pages


async def test_a_call_that_is_ended_while_it_waits_for_its_turn_has_done_nothing() -> None:
    """What it is told is definite."""
    traffic = Traffic(lambda: 0)
    begun: list[int] = []

    def steps() -> Slices[None]:
        begun.append(1)
        yield 1

    async def ask() -> None:
        with traffic.call(flow="a") as call:
            await call.in_turn(steps())

    traffic.turns.hold()
    waiting = asyncio.create_task(ask())
    await asyncio.sleep(0)
    drained = asyncio.create_task(traffic.drain(10))
    await asyncio.sleep(0)
    traffic.turns.let_go()
    with pytest.raises(Draining):
        await waiting
    assert await drained == 0
    assert not begun


@pytest.mark.parametrize("has_begun", [True, False])
async def test_a_message_whose_caller_goes_is_done_whole_or_not_at_all(has_begun: bool) -> None:
    """Its call is cancelled, before its turn or in the middle of it."""
    traffic = Traffic(lambda: 0)
    done: list[int] = []

    def steps() -> Slices[None]:
        for step in range(10):
            done.append(step)
            yield SLICE_SLOTS

    async def ask() -> None:
        with traffic.call(flow="a") as call:
            await call.in_turn(steps())

    if not has_begun:
        traffic.turns.hold()
    task = asyncio.create_task(ask())
    await asyncio.sleep(0)
    assert bool(done) is has_begun
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    traffic.turns.let_go()
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(done) == (10 if has_begun else 0)
    assert traffic.in_flight == 0
