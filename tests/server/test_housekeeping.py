"""What is done every second is done under any load, and holds no request up for long."""

import asyncio
import random
import threading
from itertools import count
from pathlib import Path

import pytest
from tests.server.conftest import Clock, Serve, Served, header_message

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_server import backing
from swaptier_server.access.scrapers import MetricsScrapers
from swaptier_server.backing import SwapFileWatch, Upkeep
from swaptier_server.housekeeping import Credentials, Housekeeper
from swaptier_server.rpc.garbage import PARTS, PATIENCE, PAUSE_SECONDS, Collector
from swaptier_server.rpc.traffic import Traffic
from swaptier_server.swapfile.file import SqliteSwapFile
from swaptier_server.swapfile.medium import LOG_PAGES
from swaptier_server.tier.page import stored_page
from swaptier_server.tier.slices import Slices, to_its_end
from swaptier_server.tier.store import store
from swaptier_server.tier.swap_file import Client, SavedArea
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.awake import LATE_BEATS_MAX, AwakeClock
from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import PAGE_BYTES, AreaOptions

SLOW_SECONDS = 2.0
"""From beat to beat of a loop that is held up by its load."""
NOISE = random.Random(3).randbytes(PAGE_BYTES)
PAGE = stored_page(NOISE, page_checksum(NOISE), 1)


def housekeeper_of(served: Served, awake: AwakeClock) -> Housekeeper:
    """Return another housekeeper of that server, by a clock of its own."""
    server = served.server
    scrapers = MetricsScrapers(None, None)
    credentials = Credentials(server.access, None, scrapers, server.traffic, server.callers, server.shares)
    return Housekeeper(
        server.tier, server.activity, credentials, server.upkeep, None, awake, served.clock, area_idle_seconds=300
    )


async def test_areas_expire_also_where_every_beat_is_late(serve: Serve) -> None:
    """A load that holds the loop up each second ends neither leases nor areas otherwise."""
    served = await serve(area_idle_seconds=300)
    await served.swapon()
    wall = Clock()
    keeper = housekeeper_of(served, AwakeClock(wall, 1.25))
    served.clock.advance(301)
    for late_beats in range(1, LATE_BEATS_MAX + 1):
        wall.advance(SLOW_SECONDS)
        keeper.beat()
        await keeper.keep_house_in_steps()
        assert ("a" in served.server.tier.areas) == (late_beats < LATE_BEATS_MAX)


async def test_idle_areas_expire_one_a_step_unless_their_client_is_back(serve: Serve) -> None:
    """In between, requests are answered: one of them shows that its client is alive."""
    served = await serve(area_idle_seconds=300)
    for name in "abc":
        await served.swapon(name, client=f"host-{name}")
    served.clock.advance(301)
    steps = served.server.housekeeper.reap_idle_areas()
    assert next(steps) == "a"
    assert list(served.server.tier.areas) == ["b", "c"]
    await served.stub.Stat(pb.StatRequest(header=header_message("b", client="host-b")))
    assert list(steps) == ["c"]
    assert list(served.server.tier.areas) == ["b"]


async def test_an_area_with_a_message_in_progress_is_not_idle(serve: Serve) -> None:
    """One that waited for a slow disk for longer than that: its area was recorded as closed, and failed to close."""
    served = await serve(area_idle_seconds=300)
    await served.swapon("a")
    served.clock.advance(301)
    with served.server.tier.areas["a"].message():
        assert not list(served.server.housekeeper.reap_idle_areas())
    assert list(served.server.housekeeper.reap_idle_areas()) == ["a"]


class BusyFile(SqliteSwapFile):
    """Counts how often its log was brought in."""

    brought_in = 0

    def bring_in_the_log(self) -> None:
        """Do it."""
        super().bring_in_the_log()
        self.brought_in += 1


async def test_no_checkpoint_begins_while_housekeeping_waits_for_one(tmp_path: Path) -> None:
    """The messages that waited too come first, and make the log long again: so it went on for as long as they came."""
    with BusyFile(tmp_path / "swap") as file:
        tier, traffic = Tier(TierLimits(1 << 20), 1, swap_file=file), Traffic(lambda: 0)
        upkeep = Upkeep(tier, file, traffic.turns)
        device = file.open_area(SavedArea("a", Client("host", 1), 1 << 20, AreaOptions()), ())
        firsts = count(0, LOG_PAGES)

        def make_the_log_long() -> Slices[None]:
            first = next(firsts)
            device.write([(offset, PAGE) for offset in range(first, first + LOG_PAGES)])
            upkeep.after_request()
            yield LOG_PAGES

        async def write_for_ever() -> None:
            with traffic.call() as call:
                while True:
                    await call.next(come_at_once)
                    await call.in_turn(make_the_log_long())

        to_its_end(make_the_log_long())
        writer = asyncio.create_task(write_for_ever())
        await asyncio.wait_for(upkeep.quiet(), 30)
        assert file.brought_in == 1
        assert next(firsts) >= 2 * LOG_PAGES, "the writer came first"
        writer.cancel()
        await asyncio.wait([writer])
        await upkeep.quiet()


async def test_the_pool_is_shrunk_while_a_large_area_ends() -> None:
    """In turn, a piece each: the requests of others are not refused for as long as the end takes."""
    tier = Tier(TierLimits(1 << 16), 1)
    client = Client("host", 1)
    ended, _ = tier.swapon(client, "ended", 8000, AreaOptions())
    zeros = bytes(PAGE_BYTES)
    for offset in range(8000):
        store(ended, offset, 1, zeros, page_checksum(zeros))
    kept, _ = tier.swapon(client, "kept", 64, AreaOptions())
    for offset in range(64):
        store(kept, offset, 1, NOISE, page_checksum(NOISE))
    assert tier.pool.wants_shrink
    tier.swapoff(client, "ended")
    Upkeep(tier, None, Traffic(lambda: 0).turns).after_request()
    for _ in range(4):
        await asyncio.sleep(0)
    assert tier.is_ending
    assert kept.counters.written_back_pages > 0


async def test_room_is_given_back_by_one_chain_of_pieces_however_often_the_file_is_looked_at(tmp_path: Path) -> None:
    """Each piece is a change, after which the log may have to be brought in."""
    changes = 0

    def note() -> None:
        nonlocal changes
        changes += 1

    file = EndlessFile(tmp_path / "swap")
    watch = SwapFileWatch(file, note)
    for _ in range(5):
        watch.look()
    assert file.pieces == changes == 1
    await watch.close()


class EndlessFile(SqliteSwapFile):
    """Has always more to give back."""

    pieces = 0

    def give_back(self) -> bool:
        """Give nothing back."""
        self.pieces += 1
        return True


async def test_a_checkpoint_for_which_the_disk_does_not_answer_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All messages wait for it, and nothing else would say why."""
    monkeypatch.setattr(backing, "HANGS_SECONDS", 0)
    with HungFile(tmp_path / "swap") as file:
        upkeep = Upkeep(Tier(TierLimits(1 << 20), 1, swap_file=file), file, Traffic(lambda: 0).turns)
        device = file.open_area(SavedArea("a", Client("host", 1), LOG_PAGES, AreaOptions()), ())
        device.write([(offset, PAGE) for offset in range(LOG_PAGES)])
        upkeep.after_request()
        for _ in range(3):
            await asyncio.sleep(0)
        file.answers.set()
        await upkeep.quiet()
    assert [record for record in caplog.records if "swap_file_hangs" in record.getMessage()]


class HungFile(SqliteSwapFile):
    """Is on a disk that does not answer until it is made to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.answers = threading.Event()

    def bring_in_the_log(self) -> None:
        """Wait for the disk."""
        self.answers.wait()
        super().bring_in_the_log()


async def come_at_once() -> None:
    """Read a message that is there already."""
    await asyncio.sleep(0)


# Reference cycles


class Tried:
    """A collector, a clock that stands until told, and how often it was collected."""

    def __init__(self, seconds: float = 0.01) -> None:
        """Let a collection take so long."""
        self.ns = 0
        self.collected = 0
        self._seconds = seconds
        self.collector = Collector(lambda: self.ns, self._collect)

    def _collect(self) -> None:
        self.collected += 1
        self.pass_time(self._seconds)

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.ns += round(seconds * 1e9)


def test_an_idle_server_is_collected_after_a_pause() -> None:
    """Not before, and then not again before the next one."""
    tried = Tried()
    tried.collector.look(5)
    tried.pass_time(PAUSE_SECONDS / 2)
    tried.collector.look(5)
    assert tried.collected == 0
    tried.pass_time(PAUSE_SECONDS / 2)
    tried.collector.look(5)
    tried.collector.look(5)
    assert tried.collected == 1


def test_nobody_waits_for_a_collection_that_can_wait() -> None:
    """A server that is asked all the time is collected when it was due for long."""
    tried = Tried()
    for asked in range(PATIENCE):
        tried.pass_time(PAUSE_SECONDS - 1)
        tried.collector.look(asked + 1)
    assert tried.collected == 0
    tried.pass_time(PATIENCE)
    tried.collector.look(PATIENCE + 1)
    assert tried.collected == 1


def test_long_collections_are_rare() -> None:
    """They take a thousandth of the time at most."""
    tried = Tried(seconds=1)
    for _ in range(2):
        tried.pass_time(PAUSE_SECONDS)
        tried.collector.look(0)
    assert tried.collected == 1
    tried.pass_time(PARTS)
    tried.collector.look(0)
    assert tried.collected == 2
