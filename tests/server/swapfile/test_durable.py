"""A server on a swap file, and the one after it, over the wire."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import pytest
from grpc import aio
from tests.builders import page_of

from swaptier.v1 import swaptier_pb2 as pb
from swaptier.v1 import swaptier_pb2_grpc
from swaptier_server.config import ServerConfig
from swaptier_server.errors import ConfigError
from swaptier_server.lifecycle import TierServer
from swaptier_wire import reply_codec, request_codec
from swaptier_wire.batches import Acknowledges, Header, Loads, Stores
from swaptier_wire.channels import open_channel
from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import LoadMode, LoadReply, Outcome, Reason, SlotReply

PAGE = page_of(1)
IDLE_SECONDS = 100


class Clock:
    """A monotonic clock that stands until told. It starts anew with each server, as a machine's does."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        """Tell the time."""
        return self.ns


class Host:
    """What one client says to one server."""

    def __init__(self, server: TierServer, channel: aio.Channel, clock: Clock) -> None:
        self.server = server
        self.clock = clock
        self.stub = swaptier_pb2_grpc.SwapTierServiceStub(channel)
        self.header = request_codec.encode_header(Header("host", 1, 5, "swap"))

    async def swapon(self, seen_server_epoch: int = 0) -> pb.SwaponResponse:
        """Open the area."""
        return await self.stub.Swapon(
            pb.SwaponRequest(header=self.header, slots=64, seen_server_epoch=seen_server_epoch)
        )

    async def store(self, offset: int, generation: int) -> SlotReply:
        """Store the page."""
        request = pb.StoreRequest(header=self.header)
        request_codec.encode_stores(Stores([offset], [generation], [PAGE], [page_checksum(PAGE)]), request.batch)
        return reply_codec.decode_store_replies((await self.stub.Store(request)).result, 1)[0]

    async def load(
        self, offset: int, generation: int, mode: LoadMode = LoadMode.SHARED, *, is_exact: bool = True
    ) -> LoadReply:
        """Load the page, of exactly this generation or of any."""
        request = pb.LoadRequest(header=self.header)
        loads = Loads([offset], [generation], [mode], [7], require_generation=is_exact)
        request_codec.encode_loads(loads, request.batch)
        return reply_codec.decode_load_replies((await self.stub.Load(request)).result, 1)[0]

    async def acknowledge(self, offset: int, generation: int) -> SlotReply:
        """End the hand-off of the page."""
        request = pb.AcknowledgeRequest(header=self.header)
        request_codec.encode_acknowledges(Acknowledges([offset], [generation], [7]), request.batch)
        return reply_codec.decode_acknowledge_replies((await self.stub.Acknowledge(request)).result, 1)[0]


def events(caplog: pytest.LogCaptureFixture) -> dict[str, dict[str, object]]:
    """What was logged since the last look, the last of each event."""
    logged = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    caplog.clear()
    return {str(entry["event"]): entry for entry in logged}


class Start(Protocol):
    """Starts a server on the swap file, after those before have been drained."""

    async def __call__(self, **config: object) -> Host:
        """Return a host that talks to it."""


@pytest.fixture
async def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    for field in ServerConfig.model_fields:
        monkeypatch.delenv(f"SWAPTIER_{field.upper()}", raising=False)
    async with AsyncExitStack() as stack:

        async def start_one(**config: object) -> Host:
            await stack.aclose()
            clock = Clock()
            here = {"listen": "127.0.0.1:0", "metrics": "off", "device": f"sqlite:{tmp_path / 'swap'}"}
            settings = ServerConfig.model_validate(here | {"area_idle_seconds": IDLE_SECONDS} | config)
            server = await TierServer.start(settings, epoch=7, now_ns=clock)
            stack.push_async_callback(server.drain)
            assert server.listening is not None
            channel = await stack.enter_async_context(open_channel(server.listening))
            return Host(server, channel, clock)

        yield start_one


async def test_a_host_goes_on_with_the_next_server_where_it_was(start: Start) -> None:
    """Every answer says that it is another; nothing has to be opened again."""
    host = await start()
    first = await host.swapon()
    assert (await host.store(0, 4)).outcome is Outcome.STORED
    assert (await host.load(0, 4, LoadMode.CLAIM)).outcome is Outcome.HIT
    host = await start()
    reply = await host.load(0, 4)
    assert (reply.outcome, reply.page) == (Outcome.DEVICE, PAGE)
    again = await host.swapon(first.server_epoch)
    assert again.reopened
    assert again.server_epoch > first.server_epoch
    assert (await host.acknowledge(0, 4)).outcome is Outcome.LEASE_ENDED
    assert (await host.load(1, 1)) == LoadReply(Outcome.LOST, Reason.RESTARTED)


async def test_an_area_that_was_found_waits_for_its_client_as_long_as_any(start: Start) -> None:
    """Nobody has asked anything of this server yet: that is no reason to forget what the last one kept."""
    host = await start()
    await host.swapon()
    await host.store(0, 1)
    host = await start()
    host.clock.ns += round((IDLE_SECONDS - 1) * 1e9)
    host.server.housekeeper.keep_house()
    assert (await host.load(0, 1)).page == PAGE
    host = await start()
    host.clock.ns += round(IDLE_SECONDS * 1e9)
    assert list(host.server.housekeeper.reap_idle_areas()) == ["swap"]
    host = await start()
    assert host.server.tier.areas == {}


async def test_an_area_that_cannot_be_forgotten_is_kept_and_the_house_goes_on(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    host = await start()
    await host.swapon()
    host.clock.ns += round(IDLE_SECONDS * 1e9)
    assert host.server._swap_file is not None
    forbid: Callable[[str], object] = host.server._swap_file._db.execute
    forbid("PRAGMA query_only = ON")
    assert list(host.server.housekeeper.reap_idle_areas()) == []
    assert "area_not_expired" in events(caplog)
    assert (await host.store(0, 1)).outcome is Outcome.STORED
    forbid("PRAGMA query_only = OFF")
    host.clock.ns += round(IDLE_SECONDS * 1e9)
    assert list(host.server.housekeeper.reap_idle_areas()) == ["swap"]
    assert host.server.housekeeper.areas_expired == 1


async def test_what_is_written_through_and_refused_by_the_disk_is_refused_to_the_host(start: Start) -> None:
    host = await start(durability="write-through")
    assert (await host.swapon()).writes_through
    assert (await host.store(0, 1)).outcome is Outcome.STORED
    assert host.server._swap_file is not None
    host.server._swap_file._db.execute("PRAGMA query_only = ON")
    assert await host.store(1, 1) == SlotReply(Outcome.REJECTED, Reason.DEVICE_ERROR)
    assert (await host.load(0, 1)).page == PAGE
    host.server._swap_file._db.execute("PRAGMA query_only = OFF")
    assert (await host.store(1, 2)).outcome is Outcome.STORED


@pytest.mark.parametrize(("survives", "synchronous"), [(False, 1), (True, 2)])
async def test_an_operator_chooses_whether_every_batch_is_synced(
    start: Start, survives: bool, synchronous: int
) -> None:
    """--survive-power-loss: SQLite then syncs its log with every transaction, else now and then."""
    host = await start(survive_power_loss=survives)
    assert host.server._swap_file is not None
    assert host.server._swap_file._db.execute("PRAGMA synchronous").fetchone() == (synchronous,)
    await host.swapon()
    assert (await host.store(0, 1)).outcome is Outcome.STORED


async def test_a_start_says_what_was_found_and_what_of_it_is_damaged(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="swaptier.server")
    host = await start()
    await host.swapon()
    await host.store(0, 1)
    await host.store(1, 1)
    events(caplog)
    host = await start()
    said = events(caplog)
    assert (said["swap_file_opened"]["areas"], said["swap_file_opened"]["pages"]) == (1, 2)
    assert "swap_file_damaged" not in said
    assert host.server._swap_file is not None
    host.server._swap_file._db.execute("UPDATE pages SET seal = 0 WHERE number & 1")
    host = await start()
    said = events(caplog)["swap_file_damaged"]
    assert (said["damaged_areas"], said["damaged_pages"]) == (0, 1)
    assert [(await host.load(offset, 1)).outcome for offset in (0, 1)] == [Outcome.DEVICE, Outcome.LOST]


async def test_a_page_that_is_gone_from_the_file_is_an_error_with_a_cause_and_one_line_a_second(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Loads that asked for any generation got zeros for it, and a claim handed them off."""
    host = await start(pool_limit=0)
    await host.swapon()
    await host.store(0, 2)
    assert host.server._swap_file is not None
    host.server._swap_file._db.execute("DELETE FROM pages")
    for mode in (LoadMode.SHARED, LoadMode.EXCLUSIVE, LoadMode.CLAIM):
        reply = await host.load(0, 2, mode, is_exact=False)
        assert (reply.outcome, reply.reason, reply.page) == (Outcome.ERROR, Reason.DEVICE_ERROR, None)
    events(caplog)
    host.server.housekeeper.keep_house()
    said = events(caplog)["device_gives_other_pages"]
    assert said["why"] == "the device failed (damaged): it took generation 2 and gives nothing"
    assert (said["reads"], said["area"], said["offset"], said["fault"]) == (3, "swap", 0, "damaged")
    host.server.housekeeper.keep_house()
    assert "device_gives_other_pages" not in events(caplog)
    assert (await host.store(0, 2)).outcome is Outcome.DEVICE, "the repeat of a store mends it"
    assert (await host.load(0, 2)).page == PAGE


async def test_two_servers_never_share_a_swap_file(start: Start, tmp_path: Path) -> None:
    await start()
    other = ServerConfig.model_validate(
        {"listen": "127.0.0.1:0", "metrics": "off", "device": f"sqlite:{tmp_path}/swap"}
    )
    with pytest.raises(ConfigError, match="another server has it"):
        await TierServer.start(other)
