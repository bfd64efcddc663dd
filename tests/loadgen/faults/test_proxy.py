"""A faulty link between a real client stream and a real server: each fault does what it says, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.builders import load, page_of, store
from tests.server.configuration import load_config

from swaptier_client.area_calls import HostArea
from swaptier_client.connection import AnswerLost, StreamSettings
from swaptier_client.mm.effects import Invalidate, Load, RequestReply, Store, SwapEntry
from swaptier_client.transport import TierStream
from swaptier_loadgen.faults.hazards import Hazard, PageName
from swaptier_loadgen.faults.injection import FaultyStream, InjectedFaults, Route
from swaptier_loadgen.faults.proxy import FaultyLink
from swaptier_loadgen.faults.spec import Faults
from swaptier_server.lifecycle import TierServer
from swaptier_server.tier.load import load as load_from_area
from swaptier_wire.errors import AreaExists, DeadlinePassed, Draining, SwapTierError, TierUnreachable
from swaptier_wire.types import LoadMode, LoadReply, Outcome

AREA = HostArea("host", 1, "area", slots=64)
PATIENT = StreamSettings(deadline_seconds=5.0)
MESSAGES = 200


@pytest.fixture(name="server")
async def _server() -> AsyncIterator[TierServer]:
    server = await TierServer.start(load_config(["--listen", "127.0.0.1:0", "--metrics", "off"]), epoch=7)
    yield server
    await server.drain()


@asynccontextmanager
async def linked(
    server: TierServer, faults: str, settings: StreamSettings = PATIENT
) -> AsyncIterator[tuple[TierStream, InjectedFaults]]:
    """Give a stream to *server* over a link with *faults*, and what they did."""
    injected = InjectedFaults()
    route = Route(str(server.listening), 0, Faults.parse(faults), injected)
    async with FaultyLink(route, seed=1) as link, TierStream(link.address, AREA, settings) as stream:
        yield stream, injected


async def one_by_one(stream: TierStream, messages: int) -> list[RequestReply | BaseException]:
    """Store slot after slot, each in a message of its own with two on their way at any time; return the ends."""
    ends: list[RequestReply | BaseException] = []
    on_their_way: list[asyncio.Future[RequestReply]] = []
    for number in range(messages):
        on_their_way.append(stream.submit(store(number % AREA.slots, number // AREA.slots + 1)))
        await asyncio.sleep(0)
        if len(on_their_way) == 2:
            ends += await asyncio.gather(on_their_way.pop(0), return_exceptions=True)
    return ends + await asyncio.gather(*on_their_way, return_exceptions=True)


async def test_without_a_fault_everything_passes_unchanged(server: TierServer) -> None:
    """Pages, unary calls, and refusals with what they say of their effect."""
    async with linked(server, "drop-reply=1e-9") as (stream, injected):
        await asyncio.gather(*(stream.submit(store(offset)) for offset in range(AREA.slots)))
        replies = await asyncio.gather(*(stream.submit(load(offset)) for offset in range(AREA.slots)))
        assert [reply.content() for reply in replies if isinstance(reply, LoadReply)] == [
            page_of(offset * 1000 + 1) for offset in range(AREA.slots)
        ]
        assert (await stream.stat()).stored_pages == AREA.slots
        with pytest.raises(AreaExists) as refused:
            async with TierStream(stream.address, AREA._replace(slots=9)):
                pass
        assert refused.value.definite
        assert await stream.swapoff() == AREA.slots
    assert not injected.counts


async def test_what_goes_wrong_does_not_depend_on_the_name_of_the_race(server: TierServer) -> None:
    """A seed means the same under a name that is drawn anew for each race."""
    dropped = []
    for race in ("race-1", "race-2"):
        area = AREA._replace(client_id=race, name=f"{race}-area")
        route = Route(str(server.listening), 0, Faults.parse("drop-reply=0.3"), InjectedFaults())
        settings = StreamSettings(deadline_seconds=0.2, window_messages=1)
        async with FaultyLink(route, 1, race) as link, TierStream(link.address, area, settings) as stream:
            dropped.append([isinstance(await _end(stream, store(slot)), SwapTierError) for slot in range(6)])
    assert dropped[0] == dropped[1]
    assert True in dropped[0]


async def test_a_dropped_reply_leaves_its_request_applied_and_unknown(server: TierServer) -> None:
    """The page that an exclusive load took with it is known to the link, under its area, slot and generation."""
    async with linked(server, "drop-reply=0.5", StreamSettings(deadline_seconds=0.05)) as (stream, injected):
        for offset in range(8):
            while isinstance(await _end(stream, store(offset)), SwapTierError):
                pass
        ends = [await _end(stream, load(offset, LoadMode.EXCLUSIVE)) for offset in range(8)]
        area = server.tier.areas["area"]
        assert area.stored_pages == 0, "all were applied"
    unknown = [offset for offset, end in enumerate(ends) if isinstance(end, AnswerLost | DeadlinePassed)]
    assert unknown
    assert injected.counts["drop-reply"] >= len(unknown)
    for offset in unknown:
        assert injected.taken_pages.hazard(PageName(0, "area", offset, 1)) is Hazard.REPLY_DROPPED


async def test_a_host_that_cannot_be_written_to_has_its_stream_ended(
    server: TierServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and with an unknown outcome: else it would wait for an answer that nobody passes on."""

    async def fail(stream: FaultyStream) -> None:
        await stream._answers.get()
        raise RuntimeError("cannot be written to")

    monkeypatch.setattr(FaultyStream, "_deliver", fail)
    async with linked(server, "drop-reply=1e-9", StreamSettings(give_up_seconds=0)) as (stream, _):
        with pytest.raises(SwapTierError) as ended:
            await asyncio.wait_for(stream.submit(store(0)), timeout=5)
        assert not ended.value.definite


async def _end(stream: TierStream, effect: Store | Load) -> RequestReply | BaseException:
    return (await asyncio.gather(stream.submit(effect), return_exceptions=True))[0]


async def test_delayed_answers_come_later_and_in_order(server: TierServer) -> None:
    """Each within its bounds, and none overtakes another."""
    async with linked(server, "delay=20ms..40ms") as (stream, injected):
        loop = asyncio.get_running_loop()
        began = loop.time()
        await stream.submit(store(1))
        assert loop.time() - began >= 0.02
        ends = await one_by_one(stream, 8)
        assert not any(isinstance(end, BaseException) for end in ends)
    assert injected.counts["delay"] == 9
    assert stream.counters.answers_unexpected == 0


async def test_messages_that_overtake_each_other_still_find_their_answers(server: TierServer) -> None:
    """One place is made up for; the slots hold what was stored last."""
    async with linked(server, "reorder=0.5") as (stream, injected):
        ends = await one_by_one(stream, MESSAGES)
        assert not any(isinstance(end, BaseException) for end in ends)
        assert injected.counts["reorder"] > MESSAGES // 10
    assert stream.counters.answers_lost == 0


async def test_a_late_second_arrival_changes_nothing_that_is_newer(server: TierServer) -> None:
    """Stores and invalidations of older generations are refused by the tier; their answers are not looked at."""
    async with linked(server, "duplicate=0.5") as (stream, injected):
        entry = SwapEntry(0, 5)
        for generation in range(1, MESSAGES, 2):
            await stream.submit(store(5, generation))
            reply = await stream.submit(load(5, generation=generation, exact=True))
            assert isinstance(reply, LoadReply)
            assert reply.content() == page_of(5000 + generation)
            await stream.submit(Invalidate(entry, generation + 1))
        await stream.submit(store(5, MESSAGES + 1))
    assert injected.counts["duplicate"] > MESSAGES // 2
    assert stream.counters.answers_unexpected > MESSAGES // 4
    area = server.tier.areas["area"]
    assert load_from_area(area, 5, MESSAGES + 1, LoadMode.SHARED, require_generation=True).outcome is Outcome.HIT


async def test_a_second_arrival_of_an_exclusive_load_takes_a_page_that_the_link_knows(server: TierServer) -> None:
    """KERNEL.md section 5, hazard 2: the copy of the load comes when the slot holds the next page."""
    async with linked(server, "duplicate=0.5") as (stream, injected):
        taken = []
        for generation in range(1, MESSAGES):
            await stream.submit(store(5, generation))
            reply = await stream.submit(load(5, LoadMode.EXCLUSIVE, generation, exact=False))
            assert isinstance(reply, LoadReply)
            if reply.generation != generation:
                taken.append(generation)
    assert taken
    for generation in taken:
        assert injected.taken_pages.hazard(PageName(0, "area", 5, generation)) is Hazard.REQUEST_REPEATED


async def test_a_reset_connection_is_made_again_and_what_was_on_its_way_is_unknown(server: TierServer) -> None:
    """Nothing else fails: every other store is there."""
    async with linked(server, "disconnect=20/s") as (stream, injected):
        ends: list[RequestReply | BaseException] = []
        round_ = 0
        while injected.counts["disconnect"] < 3 or stream.counters.reconnects < 3:
            round_ += 1
            ends += await asyncio.gather(
                *(stream.submit(store(offset, round_)) for offset in range(AREA.slots)), return_exceptions=True
            )
        assert (await stream.stat()).slots == AREA.slots
    failures = [end for end in ends if isinstance(end, BaseException)]
    assert all(isinstance(failure, TierUnreachable) and not failure.definite for failure in failures)
    assert len(failures) <= 2 * AREA.slots * stream.counters.streams_broken
    assert server.tier.areas["area"].stored_pages == AREA.slots


async def test_a_server_that_ends_behind_the_link_is_what_the_host_is_told(server: TierServer) -> None:
    """Draining, with what it says of the effect; then there is no connection behind, which is definite too."""
    async with linked(server, "delay=1ms", StreamSettings(give_up_seconds=0)) as (stream, _injected):
        await stream.submit(store(1))
        draining = asyncio.create_task(server.drain())
        end: RequestReply | BaseException | None = None
        while not isinstance(end, BaseException):
            end = await _end(stream, store(2))
        assert isinstance(end, TierUnreachable)
        assert end.definite
        assert "shutting down" in str(end)
        await draining
        with pytest.raises((TierUnreachable, Draining)) as nobody:
            async with TierStream(stream.address, AREA, StreamSettings(give_up_seconds=0)):
                pass
        assert nobody.value.definite
