"""Driver, stream, codec, service and tier together, over gRPC on a free port."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.builders import page_of
from tests.server.configuration import load_config

from swaptier_client.area_calls import HostArea
from swaptier_client.connection import StreamSettings
from swaptier_client.driver import Driver, Preemption
from swaptier_client.mm.effects import Batch, Invalidate, Load, Path, Store, SwapEntry
from swaptier_client.mm.lost_reply import ask, batch, load
from swaptier_client.transport import TierStream
from swaptier_server.lifecycle import TierServer
from swaptier_server.tier.load import load as load_from_area
from swaptier_wire.errors import AreaExists, ClientReplaced, TierUnreachable
from swaptier_wire.types import ZERO_PAGE, LoadMode, LoadReply, Outcome

AREA = HostArea("host", 1, "area", slots=256)


@pytest.fixture(name="server")
async def _server() -> AsyncIterator[TierServer]:
    server = await TierServer.start(load_config(["--listen", "127.0.0.1:0", "--metrics", "off"]), epoch=7)
    yield server
    await server.drain()


def live_of_a_slot(offset: int, rounds: int) -> Path[int]:
    """Store, load both ways and free one slot, over and over; return how many pages came back right."""
    entry = SwapEntry(0, offset)
    right = 0
    for generation in range(1, rounds + 1):
        content = page_of(offset * 1000 + generation)
        yield from ask(Store(entry, generation, content))
        shared = yield from load(Load(entry, generation, LoadMode.SHARED, 0))
        exclusive = yield from load(Load(entry, generation, LoadMode.EXCLUSIVE, 0))
        yield from ask(Invalidate(entry, generation))
        right += (shared.content() == content) + (exclusive.content() == content)
    return right


async def test_many_paths_at_once_get_their_own_pages_back(server: TierServer) -> None:
    """100 slots, each with its own life: every page that comes back is the one that was stored last."""
    async with TierStream(str(server.listening), AREA) as stream:
        driver = Driver([stream], seed=1, preemption=Preemption(probability=0.0))
        right = await asyncio.gather(*(driver.run(live_of_a_slot(offset, rounds=5)) for offset in range(100)))
        assert right == [10] * 100
        assert await stream.swapoff() == 0
    assert stream.server_epoch == 7
    assert sum(stream.counters.message_slots.counts) < stream.counters.message_slots.sum / 4, "they coalesced"


async def test_a_slot_nobody_wrote_reads_zeros_from_the_device(server: TierServer) -> None:
    """The contract's silence: success, zeros, and a checksum that is theirs."""
    async with TierStream(str(server.listening), AREA) as stream:
        reply = await stream.submit(Load(SwapEntry(0, 9), 1, LoadMode.SHARED, 0))
    assert isinstance(reply, LoadReply)
    assert (reply.outcome, reply.content()) == (Outcome.DEVICE, ZERO_PAGE)


async def test_a_batch_larger_than_a_message_is_answered_in_its_order(server: TierServer) -> None:
    """256 stores and their loads: no reply is mixed up."""
    entries = [SwapEntry(0, offset) for offset in range(AREA.slots)]

    def path() -> Path[list[bytes | None]]:
        yield from batch(tuple(Store(entry, 1, page_of(entry.offset)) for entry in entries))
        replies = yield Batch(tuple(Load(entry, 1, LoadMode.SHARED, 0) for entry in entries))
        assert isinstance(replies, list)
        return [reply.content() for reply in replies if isinstance(reply, LoadReply)]

    async with TierStream(str(server.listening), AREA) as stream:
        assert await Driver([stream], seed=1).run(path()) == [page_of(entry.offset) for entry in entries]


async def test_opening_twice_keeps_the_pages_and_other_geometry_is_refused(server: TierServer) -> None:
    """The same epoch and slots: reopened. Other slots: AreaExists."""
    address = str(server.listening)
    async with TierStream(address, AREA) as first:
        assert not first.reopened
        assert not first.writes_through
    async with TierStream(address, AREA) as second:
        assert second.reopened
    with pytest.raises(AreaExists):
        async with TierStream(address, AREA._replace(slots=9)):
            pass


async def test_a_replaced_host_is_told_to_stop_and_the_stream_survives_the_refusal(server: TierServer) -> None:
    """A newer epoch takes the area over: the older stream's requests are ClientReplaced, definitely."""
    address = str(server.listening)
    async with TierStream(address, AREA) as old, TierStream(address, AREA._replace(client_epoch=2)):
        with pytest.raises(ClientReplaced) as refused:
            await old.submit(Store(SwapEntry(0, 1), 1, ZERO_PAGE))
        assert refused.value.definite


async def test_a_drain_under_load_leaves_no_request_unknown_and_tells_the_truth(server: TierServer) -> None:
    """Every path fails definitely, and the tier has exactly the stores that were answered: none more, none less."""
    answered = dict.fromkeys(range(AREA.slots), 0)

    def store_for_ever(offset: int) -> Path[None]:
        while True:
            yield from ask(Store(SwapEntry(0, offset), answered[offset] + 1, page_of(offset)))
            answered[offset] += 1

    async with TierStream(str(server.listening), AREA, StreamSettings(give_up_seconds=0)) as stream:
        driver = Driver([stream], seed=1)
        paths = [asyncio.ensure_future(driver.run(store_for_ever(offset))) for offset in answered]
        while min(answered.values()) < 3:
            await stream.stat()
        await server.drain()
        failures = await asyncio.gather(*paths, return_exceptions=True)
    assert {type(failure) for failure in failures} == {TierUnreachable}
    assert [failure.definite for failure in failures if isinstance(failure, TierUnreachable)] == [True] * AREA.slots
    assert "shutting down" in str(failures[0])
    area = server.tier.areas["area"]
    in_the_tier = {offset: load_from_area(area, offset, 1, LoadMode.SHARED).generation for offset in answered}
    assert in_the_tier == answered
