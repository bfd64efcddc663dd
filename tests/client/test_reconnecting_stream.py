"""The stream over a connection that breaks: what waits, what fails, what is told, and when it ends."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from tests.builders import load, lookup, page_of, store
from tests.client.fake_tier import AREA, FakeTier, offsets_of, serving
from tests.client.test_reconnect import Time

from swaptier_client.connection import OVERTAKERS_MAX, AnswerLost, StreamSettings
from swaptier_client.mm.effects import RequestReply
from swaptier_client.transport import TierStream
from swaptier_wire.errors import (
    ClientReplaced,
    DeadlinePassed,
    Draining,
    SwapTierError,
    TierUnreachable,
    Unauthenticated,
    UnknownArea,
)
from swaptier_wire.types import PAGE_BYTES, LoadReply, Outcome, SlotReply

STORED = SlotReply(Outcome.STORED, entry_bytes=PAGE_BYTES)


@pytest.fixture(name="fake")
async def _fake() -> FakeTier:
    return FakeTier()


@pytest.fixture(name="address")
async def _address(fake: FakeTier) -> AsyncIterator[str]:
    async with serving(fake) as address:
        yield address


def stream_to(address: str, **settings: float) -> TierStream:
    """Return a stream whose waits between attempts take no time."""
    return TierStream(address, AREA, StreamSettings(**settings), clock=Time().clock)  # type: ignore[arg-type]  # ints too


async def held_back(fake: FakeTier, stream: TierStream) -> list[asyncio.Future[RequestReply]]:
    """Submit four stores: two are sent and not answered, two wait."""
    fake.gate.clear()
    futures = []
    for offset in (1, 2):
        futures.append(stream.submit(store(offset)))
        await fake.arrived.get()
    return futures + [stream.submit(store(offset)) for offset in (3, 4)]


async def test_what_was_sent_is_unknown_and_what_waits_goes_over_the_next_connection(
    fake: FakeTier, address: str
) -> None:
    """Two messages break with the connection; the two behind them, and one that comes later, are stored."""
    async with stream_to(address) as stream:
        futures = await held_back(fake, stream)
        fake.break_with = grpc.StatusCode.UNAVAILABLE
        fake.gate.set()
        ends = await asyncio.gather(*futures, stream.submit(store(5)), return_exceptions=True)
    assert [isinstance(end, TierUnreachable) and end.definite for end in ends[:2]] == [False, False]
    assert all(isinstance(end, TierUnreachable) for end in ends[:2])
    assert ends[2:] == [STORED] * 3
    assert [offsets_of(message) for message in fake.messages] == [[1], [2], [3, 4, 5]]
    assert (stream.counters.streams_broken, stream.counters.reconnects) == (1, 1)
    assert fake.opened == [(100, "area")] * 2


async def test_what_is_known_to_have_had_no_effect_is_sent_again_first(fake: FakeTier, address: str) -> None:
    """A server that drains says so: nothing fails, and the order stays."""
    async with stream_to(address) as stream:
        futures = await held_back(fake, stream)
        fake.break_with = Draining("shutting down; what has no answer had no effect")
        fake.gate.set()
        assert await asyncio.gather(*futures) == [STORED] * 4
    assert [offset for message in fake.messages[2:] for offset in offsets_of(message)] == [1, 2, 3, 4]


NOT_LET_IN = Unauthenticated("the token that let this call in was withdrawn")


@pytest.mark.parametrize("then", [NOT_LET_IN, TierUnreachable("TLS lets it not even connect")])
@pytest.mark.parametrize("give_up_seconds", [0, 30])
async def test_a_host_that_is_let_in_no_more_hears_so_at_once(
    fake: FakeTier, give_up_seconds: float, then: SwapTierError
) -> None:
    """Not that the tier is unreachable; nothing is waited for."""
    time = Time()
    async with serving(fake) as address:
        settings = StreamSettings(give_up_seconds=give_up_seconds)
        stream = await TierStream(address, AREA, settings, clock=time.clock).__aenter__()
        futures = await held_back(fake, stream)
        fake.break_with, fake.swapon_error = NOT_LET_IN, then
        fake.gate.set()
        ends = await asyncio.gather(*futures, return_exceptions=True)
        late = await asyncio.gather(stream.submit(store(5)), return_exceptions=True)
        await stream.__aexit__(None, None, None)
    for end in ends + late:
        assert isinstance(end, Unauthenticated) and end.definite and str(NOT_LET_IN) in str(end)
    assert time.slept == []


async def test_a_host_that_got_another_token_goes_on(fake: FakeTier, address: str) -> None:
    """Its files are read at each connection; what had no effect is sent again."""
    async with stream_to(address) as stream:
        futures = await held_back(fake, stream)
        fake.break_with = NOT_LET_IN
        fake.gate.set()
        assert await asyncio.gather(*futures) == [STORED] * 4


async def test_without_a_connection_for_too_long_what_waits_fails_definitely() -> None:
    """It was never sent. What comes later is told the same at once, and room and drain do not hang."""
    fake = FakeTier()
    async with serving(fake) as address:
        stream = await stream_to(address).__aenter__()
        futures = await held_back(fake, stream)
    ends = await asyncio.gather(*futures, return_exceptions=True)
    late = (await asyncio.gather(stream.submit(store(9)), return_exceptions=True))[0]
    assert [isinstance(end, TierUnreachable) and end.definite for end in ends] == [False, False, True, True]
    assert "no other within 30 s" in str(ends[2])
    assert isinstance(late, TierUnreachable) and late.definite
    await stream.room()
    await stream.drain()
    with pytest.raises(TierUnreachable):
        await stream.stat()
    await stream.__aexit__(None, None, None)


@pytest.mark.parametrize("refusal", [ClientReplaced("epoch 2 owns the area"), Draining("not for long")])
async def test_only_a_refusal_that_stands_ends_the_stream(fake: FakeTier, address: str, refusal: SwapTierError) -> None:
    """Replaced by a newer life of this host: what waits is told so, in that class. Draining: it goes on."""
    async with stream_to(address) as stream:
        futures = await held_back(fake, stream)
        fake.swapon_error, fake.break_with = refusal, grpc.StatusCode.UNAVAILABLE
        fake.gate.set()
        await asyncio.gather(*futures[:2], return_exceptions=True)
        if isinstance(refusal, Draining):
            fake.swapon_error = None
            assert await asyncio.gather(*futures[2:]) == [STORED] * 2
        else:
            for future in [*futures[2:], stream.submit(store(5))]:
                with pytest.raises(ClientReplaced, match="epoch 2") as told:
                    await future
                assert told.value.definite


async def test_a_restarted_server_is_told_once_and_before_anything_is_sent_to_it(fake: FakeTier, address: str) -> None:
    """And a load that waited for it asks for its own generation or none: its device may never have had the page."""
    told: list[tuple[int, int, int]] = []
    stream = TierStream(
        address, AREA, on_epoch_change=lambda old, new: told.append((old, new, len(fake.messages))), clock=Time().clock
    )
    async with stream:
        futures = await held_back(fake, stream)
        futures.append(stream.submit(load(5)))
        fake.epoch, fake.break_with = 200, grpc.StatusCode.UNAVAILABLE
        fake.gate.set()
        await asyncio.gather(*futures, return_exceptions=True)
        fake.break_with = grpc.StatusCode.UNAVAILABLE
        await asyncio.gather(stream.submit(lookup(1)), return_exceptions=True)
        await stream.submit(lookup(1))
    assert told == [(100, 200, 2)]
    assert stream.counters.epoch_changes == 1
    assert fake.messages[2].load.require_generation


@pytest.mark.parametrize("is_old", [False, True])
async def test_a_server_that_forgot_the_area_is_told_like_a_restart(
    fake: FakeTier, address: str, *, is_old: bool
) -> None:
    """The epoch is the same, and the pages are gone. A server from before incarnations says so, too."""
    fake.is_old = is_old
    told: list[tuple[int, int]] = []
    stream = TierStream(address, AREA, on_epoch_change=lambda old, new: told.append((old, new)), clock=Time().clock)
    async with stream:
        fake.break_with, fake.forgets_areas = grpc.StatusCode.UNAVAILABLE, True
        await asyncio.gather(stream.submit(lookup(1)), return_exceptions=True)
        await stream.submit(lookup(1))
    assert told == [(100, 100)]
    assert fake.seen == [(0, 0), (100, int(not is_old))]


async def test_a_server_that_forgot_the_area_is_told_although_its_first_answer_was_lost(
    fake: FakeTier, address: str
) -> None:
    """The second Swapon finds the area that the first one opened: under another incarnation than the host knows."""
    told: list[tuple[int, int]] = []
    stream = TierStream(address, AREA, on_epoch_change=lambda old, new: told.append((old, new)), clock=Time().clock)
    async with stream:
        fake.opened.clear()  # as a server that is rid of idle areas
        fake.break_with, fake.swapon_answers_lost = grpc.StatusCode.UNAVAILABLE, 1
        await asyncio.gather(stream.submit(lookup(1)), return_exceptions=True)
        await stream.submit(lookup(1))
        assert len(fake.opened) == 2
    assert told == [(100, 100)]


async def test_an_area_forgotten_under_the_open_stream_is_opened_again(fake: FakeTier, address: str) -> None:
    """A refused message had no effect, so it goes over the next connection; the pages are gone, which is told first."""
    told: list[tuple[int, int, int]] = []
    stream = TierStream(
        address, AREA, on_epoch_change=lambda old, new: told.append((old, new, len(fake.messages))), clock=Time().clock
    )
    async with stream:
        fake.refusals[1], fake.forgets_areas = UnknownArea("area 'area' was closed"), True
        assert await asyncio.gather(stream.submit(store(1)), stream.submit(lookup(2))) == [
            STORED,
            SlotReply(Outcome.MISS),
        ]
    assert told == [(100, 100, 1)]
    assert [offsets_of(message) for message in fake.messages] == [[1, 2], [1, 2]]


async def test_an_answer_that_too_many_overtake_is_lost_and_the_stream_goes_on(fake: FakeTier, address: str) -> None:
    """No deadline is waited for: the server answers in order, so what later answers overtake does not come."""
    async with TierStream(address, AREA) as stream:
        fake.keeps_answers = {1}
        lost = stream.submit(store(1))
        await fake.arrived.get()
        for offset in range(2, 2 + OVERTAKERS_MAX):
            await stream.submit(store(offset))
            assert not lost.done()
        await stream.submit(store(9))
        with pytest.raises(AnswerLost) as failure:
            await lost
        assert not failure.value.definite
        assert (await stream.submit(lookup(1))).outcome is Outcome.HIT
    assert stream.counters.answers_lost == 1
    assert stream.counters.streams_broken == 0


async def test_an_answer_that_one_other_overtakes_is_taken(fake: FakeTier, address: str) -> None:
    """Two answers may be swapped on the way."""
    fake.keeps_answers, fake.late_answers = {1}, True
    async with TierStream(address, AREA) as stream:
        overtaken = stream.submit(store(1))
        await fake.arrived.get()
        assert await asyncio.gather(overtaken, stream.submit(store(2))) == [STORED, STORED]
    assert stream.counters.answers_lost == stream.counters.answers_unexpected == 0


async def test_an_answer_that_comes_twice_is_looked_at_once(fake: FakeTier, address: str) -> None:
    """The second is counted, and nothing else."""
    fake.repeats_answers = True
    async with TierStream(address, AREA) as stream:
        await stream.submit(store(1))
        reply = await stream.submit(load(1))
        assert isinstance(reply, LoadReply)
        assert reply.content() == page_of(1001)
        await stream.submit(lookup(1))
    assert stream.counters.answers_unexpected >= 2
    assert stream.counters.streams_broken == 0


async def test_each_operation_keeps_its_own_deadline_in_a_message_with_others(fake: FakeTier, address: str) -> None:
    """One waits for longer than the other until they leave together: it is late first, and alone."""
    settings = StreamSettings(deadline_seconds=0.3, give_up_seconds=0, window_messages=1)
    async with TierStream(address, AREA, settings) as stream:
        fake.gate.clear()
        fake.keeps_answers = {2}
        ahead = stream.submit(store(1))
        await fake.arrived.get()
        older = stream.submit(store(2))
        loop = asyncio.get_running_loop()
        waited = loop.create_future()
        loop.call_later(0.15, waited.set_result, None)
        await waited
        younger = stream.submit(store(3))
        fake.gate.set()
        assert await ahead == STORED
        with pytest.raises(DeadlinePassed) as late:
            await older
        assert not late.value.definite
        assert not younger.done()
        with pytest.raises(TierUnreachable):
            await younger
    assert [offsets_of(message) for message in fake.messages] == [[1], [2, 3]]


class StoppedHost:
    """A monotonic clock that jumps, as it does for a process that was stopped."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.asked = asyncio.Event()

    def now_ns(self) -> int:
        """Return the time."""
        self.asked.set()
        return round(self.seconds * 1e9)

    async def deadlines_are_looked_at(self) -> None:
        """Return when a timer has looked at the clock: nothing else runs meanwhile."""
        self.asked.clear()
        await self.asked.wait()


async def test_a_host_that_was_stopped_reads_its_answers_before_anything_is_late(fake: FakeTier, address: str) -> None:
    """The answer came while it was stopped, for a hundred deadlines: it counts. What waits is sent, and not late."""
    host = StoppedHost()
    settings = StreamSettings(deadline_seconds=0.5, give_up_seconds=0, window_messages=1)
    async with TierStream(address, AREA, settings, now_ns=host.now_ns) as stream:
        fake.gate.clear()
        sent = stream.submit(store(1))
        await fake.arrived.get()
        waiting = stream.submit(store(2))
        host.seconds += 50.0
        await host.deadlines_are_looked_at()
        fake.gate.set()
        assert await sent == STORED
        assert await waiting == STORED
    assert stream.counters.streams_broken == 0


async def test_a_patient_host_waits_for_its_first_connection_too() -> None:
    """A server that starts after its hosts is found; one that never does, is not."""
    async with serving(FakeTier()) as address:
        pass
    with pytest.raises(TierUnreachable):
        async with stream_to(address, give_up_seconds=3.0):
            pass
    fake = FakeTier()
    fake.swapon_error = Draining("not yet")
    async with serving(fake) as address:
        loop = asyncio.get_running_loop()
        entering = asyncio.ensure_future(TierStream(address, AREA).__aenter__())
        loop.call_later(0.1, setattr, fake, "swapon_error", None)
        await (await entering).__aexit__(None, None, None)


async def test_a_swapoff_whose_answer_is_lost_is_asked_again(fake: FakeTier, address: str) -> None:
    """What the area held when it was closed last is returned; nothing more can be submitted."""
    async with stream_to(address) as stream:
        await stream.submit(store(1))
        fake.swapoff_errors = [TierUnreachable("lost"), TierUnreachable("lost")]
        assert await stream.swapoff() == 1
        with pytest.raises(TierUnreachable) as closed:
            await stream.submit(store(2))
        assert closed.value.definite
