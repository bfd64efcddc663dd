"""The stream against a fake tier that records, holds back, breaks and lies."""

import asyncio
import socket
from collections import defaultdict
from collections.abc import AsyncIterator

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import load, lookup, page_of, store
from tests.client.fake_tier import AREA, SLOTS, FakePages, FakeTier, offsets_of, serving

from swaptier_client.connection import StreamSettings
from swaptier_client.mm.effects import Invalidate, Request, RequestReply, Store, SwapEntry
from swaptier_client.transport import TierStream
from swaptier_wire.errors import (
    DeadlinePassed,
    Draining,
    InvalidRequest,
    LimitReached,
    TierUnreachable,
    UnknownArea,
)
from swaptier_wire.types import (
    BATCH_SLOTS_MAX,
    NO_GENERATION,
    PAGE_BYTES,
    LoadMode,
    LoadReply,
    Outcome,
    Reason,
    SlotReply,
)

REFUSED_ADDRESS = "127.0.0.1:1"
AT_ONCE = StreamSettings(give_up_seconds=0)
"""What is lost with the connection fails with it."""


@pytest.fixture(name="fake")
async def _fake() -> FakeTier:
    return FakeTier()


@pytest.fixture(name="address")
async def _address(fake: FakeTier) -> AsyncIterator[str]:
    async with serving(fake) as address:
        yield address


async def test_what_was_stored_is_loaded_back(address: str) -> None:
    """A store and a load of one slot, submitted together, are answered in that order with the very bytes."""
    async with TierStream(address, AREA) as stream:
        stored, loaded = stream.submit(store(7)), stream.submit(load(7))
        assert (await stored).outcome is Outcome.STORED
        reply = await loaded
    assert isinstance(reply, LoadReply)
    assert reply.content() == page_of(7001)


requests_of_few_slots = st.lists(
    st.tuples(
        st.sampled_from(["store", "load", "exclusive", "lookup", "invalidate"]),
        st.integers(0, 4),
        st.booleans(),  # whether the loop may turn after it
    ),
    max_size=40,
)


@settings(max_examples=40, deadline=None)
@given(requests_of_few_slots, st.integers(1, 5))
async def test_coalescing_answers_as_if_each_request_had_been_alone(
    sequence: list[tuple[str, int, bool]], batch_slots_max: int
) -> None:
    """Any sequence, cut into messages in any way, has the replies of the same sequence applied one by one.

    No message holds an offset twice or more slots than the server takes.
    """
    generations: dict[int, int] = defaultdict(int)
    alone = FakePages()
    fake = FakeTier()
    fake.batch_slots_max = batch_slots_max
    async with serving(fake) as address, TierStream(address, AREA) as stream:
        futures, expected = [], []
        for kind, offset, lets_the_loop_turn in sequence:
            if kind == "store":
                generations[offset] += 1
            generation = max(1, generations[offset])
            effect: Request = {
                "store": store(offset, generation),
                "load": load(offset),
                "exclusive": load(offset, LoadMode.EXCLUSIVE),
                "lookup": lookup(offset),
                "invalidate": Invalidate(SwapEntry(0, offset), generation),
            }[kind]
            futures.append(stream.submit(effect))
            expected.append(alone.apply(effect))
            if lets_the_loop_turn:
                await asyncio.sleep(0)
        assert [await future for future in futures] == expected
    for message in fake.messages:
        offsets = offsets_of(message)
        assert len(offsets) == len(set(offsets))
        assert 1 <= len(offsets) <= batch_slots_max


async def test_whatever_waits_travels_together_and_a_lone_request_at_once(fake: FakeTier, address: str) -> None:
    """300 requests while nothing is on its way: one full message and the rest; no timer, no message for each."""
    async with TierStream(address, AREA) as stream:
        await asyncio.gather(*(stream.submit(lookup(offset)) for offset in range(300)))
        await stream.submit(lookup(0))
    assert [len(offsets_of(message)) for message in fake.messages] == [BATCH_SLOTS_MAX, 300 - BATCH_SLOTS_MAX, 1]
    assert dict(stream.counters.message_slots.cumulative())["1"] == 1


async def test_no_more_messages_are_unanswered_than_the_window(fake: FakeTier, address: str) -> None:
    """With the server holding its answers back, the third request waits; it leaves when the first is answered."""
    async with TierStream(address, AREA, StreamSettings(window_messages=2)) as stream:
        fake.gate.clear()
        futures = []
        for request_id in (1, 2):
            futures.append(stream.submit(lookup(request_id)))
            assert await fake.arrived.get() == request_id
        futures += [stream.submit(lookup(offset)) for offset in (3, 4)]
        await stream.stat()  # a round trip on the same connection: a third message would have been seen
        assert len(fake.messages) == 2
        fake.gate.set()
        await asyncio.gather(*futures)
    assert [offsets_of(message) for message in fake.messages] == [[1], [2], [3, 4]]


async def test_a_full_queue_refuses_definitely_and_gives_room_again(fake: FakeTier, address: str) -> None:
    """Back-pressure: has_room turns false, submit() answers LimitReached, room() returns when a message has left."""
    async with TierStream(address, AREA, StreamSettings(window_messages=1, queue_ops_max=2)) as stream:
        fake.gate.clear()
        futures = [stream.submit(lookup(0))]
        await fake.arrived.get()
        futures += [stream.submit(lookup(offset)) for offset in (1, 2)]
        assert not stream.has_room
        with pytest.raises(LimitReached) as refused:
            await stream.submit(lookup(3))
        assert refused.value.definite
        room = asyncio.ensure_future(stream.room())
        fake.gate.set()
        await room
        assert stream.has_room
        await asyncio.gather(*futures)


@pytest.mark.parametrize(
    "effect",
    [lookup(SLOTS), lookup(-1), Store(SwapEntry(0, 1), 1, b"short"), store(1, NO_GENERATION)],
    ids=["offset too high", "offset negative", "page too short", "no generation"],
)
async def test_a_request_that_cannot_succeed_fails_alone(fake: FakeTier, address: str, effect: Request) -> None:
    """It is refused before it can spoil the message of its neighbours."""
    async with TierStream(address, AREA) as stream:
        bad, good = stream.submit(effect), stream.submit(lookup(5))
        assert await good == SlotReply(Outcome.MISS)
        with pytest.raises(InvalidRequest):
            await bad
    assert len(fake.messages) == 1


async def test_a_flipped_bit_becomes_an_error_and_never_a_page(fake: FakeTier, address: str) -> None:
    """Bytes whose checksum is not that of their store: Outcome.ERROR, no bytes, and it is counted."""
    async with TierStream(address, AREA) as stream:
        await stream.submit(store(1))
        fake.damages_pages = True
        reply = await stream.submit(load(1))
        assert reply == LoadReply(Outcome.ERROR, Reason.CHECKSUM, generation=1)
        fake.damages_pages = False
        intact = await stream.submit(load(1))
    assert isinstance(intact, LoadReply)
    assert intact.content() == page_of(1001)
    assert stream.counters.damaged_loads == 1


async def test_a_refused_message_fails_its_requests_only(fake: FakeTier, address: str) -> None:
    """The error is of the class the server named, the stream goes on."""
    fake.refusals[1] = UnknownArea("no area 'area': Swapon first")
    async with TierStream(address, AREA, AT_ONCE) as stream:
        futures = [stream.submit(store(offset)) for offset in (1, 2)]
        for future in futures:
            with pytest.raises(UnknownArea, match="Swapon first") as refused:
                await future
            assert refused.value.definite
        assert await stream.submit(lookup(1)) == SlotReply(Outcome.MISS)
    assert stream.counters.messages_refused == 1


async def test_a_broken_stream_fails_sent_requests_indefinitely_and_unsent_ones_definitely(
    fake: FakeTier, address: str
) -> None:
    """Two messages are on their way, two requests wait, one comes later: unknown, unknown, never, never, never."""
    async with TierStream(address, AREA, AT_ONCE) as stream:
        fake.gate.clear()
        futures = []
        for offset in (1, 2):
            futures.append(stream.submit(store(offset)))
            await fake.arrived.get()
        futures += [stream.submit(store(offset)) for offset in (3, 4)]
        fake.break_with = grpc.StatusCode.UNAVAILABLE
        fake.gate.set()
        failures = await asyncio.gather(*futures, return_exceptions=True)
        failures.append((await asyncio.gather(stream.submit(store(5)), return_exceptions=True))[0])
        await stream.room()
        await stream.drain()
    assert [type(failure) for failure in failures] == [TierUnreachable] * 5
    assert [failure.definite for failure in failures if isinstance(failure, TierUnreachable)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert "unknown" in str(failures[0])
    assert "not sent" in str(failures[2])
    assert all(address in str(failure) for failure in failures)
    assert stream.counters.streams_broken == 1


async def test_a_draining_server_says_that_unanswered_requests_had_no_effect(fake: FakeTier, address: str) -> None:
    """A stream that ends with a definite status makes what was sent and not answered definite, too."""
    fake.break_with = Draining("shutting down; what has no answer had no effect")
    async with TierStream(address, AREA, AT_ONCE) as stream:
        with pytest.raises(TierUnreachable, match=r"shutting down.*no effect") as failure:
            await stream.submit(store(1))
        assert failure.value.definite


async def test_an_answer_that_breaks_the_contract_tears_the_stream_down(fake: FakeTier, address: str) -> None:
    """Too few outcomes: nothing of that message is believed, and its effect is unknown."""
    fake.drops_outcomes = True
    async with TierStream(address, AREA) as stream:
        with pytest.raises(TierUnreachable, match="contract") as failure:
            await stream.submit(store(1))
        assert not failure.value.definite


async def test_a_passed_deadline_is_indefinite_and_takes_the_stream_with_it(fake: FakeTier, address: str) -> None:
    """The late message: DeadlinePassed. The one behind it: unknown too. The waiting one: never sent."""
    async with TierStream(address, AREA, StreamSettings(deadline_seconds=0.05, give_up_seconds=0)) as stream:
        fake.gate.clear()
        futures = []
        for offset in (1, 2):
            futures.append(stream.submit(store(offset)))
            await fake.arrived.get()
        futures.append(stream.submit(store(3)))
        failures = await asyncio.gather(*futures, return_exceptions=True)
    assert [(type(failure), getattr(failure, "definite", None)) for failure in failures] == [
        (DeadlinePassed, False),
        (TierUnreachable, False),
        (TierUnreachable, True),
    ]


async def test_a_new_server_epoch_is_told_before_the_reply_that_brought_it(fake: FakeTier, address: str) -> None:
    """The attribute and the callback are there when the waiting path runs again."""
    changes: list[tuple[int, int]] = []
    async with TierStream(address, AREA, on_epoch_change=lambda old, new: changes.append((old, new))) as stream:
        assert stream.server_epoch == 100
        await stream.submit(lookup(1))
        assert changes == []
        fake.epoch = 200
        await stream.submit(lookup(1))
        assert changes == [(100, 200)]
        assert stream.server_epoch == 200
    assert stream.counters.epoch_changes == 1


async def test_a_cancelled_request_that_waits_is_never_sent(fake: FakeTier, address: str) -> None:
    """And one that is on its way is answered into nothing, without harm to its neighbours."""
    async with TierStream(address, AREA, StreamSettings(window_messages=1)) as stream:
        fake.gate.clear()
        sent, neighbour = stream.submit(store(1)), stream.submit(store(2))
        await fake.arrived.get()
        waiting = stream.submit(store(3))
        sent.cancel()
        waiting.cancel()
        fake.gate.set()
        assert (await neighbour).outcome is Outcome.STORED
        await stream.drain()
    assert sorted(fake.slots.pages) == [1, 2]


async def test_leaving_the_stream_finishes_what_was_submitted(fake: FakeTier, address: str) -> None:
    """Close drains: nobody awaited the futures, and all are answered."""
    async with TierStream(address, AREA) as stream:
        futures = [stream.submit(store(offset)) for offset in range(600)]
    assert all(future.result() == SlotReply(Outcome.STORED, entry_bytes=PAGE_BYTES) for future in futures)
    with pytest.raises(TierUnreachable) as closed:
        await stream.submit(lookup(1))
    assert closed.value.definite
    assert stream.counters.streams_broken == 0


async def test_leaving_the_stream_with_an_error_gives_up_what_was_submitted(fake: FakeTier, address: str) -> None:
    """A failing owner does not wait for a server that may be the reason."""
    fake.gate.clear()
    futures: list[asyncio.Future[RequestReply]] = []

    async def fail_with_a_request_on_its_way() -> None:
        async with TierStream(address, AREA) as stream:
            futures.append(stream.submit(store(1)))
            await fake.arrived.get()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_with_a_request_on_its_way()
    with pytest.raises(TierUnreachable) as given_up:
        await futures[0]
    assert not given_up.value.definite


async def test_an_unreachable_address_is_named_and_nothing_was_sent() -> None:
    """Definite, with the address, the cause and what to do."""
    with pytest.raises(TierUnreachable, match=rf"{REFUSED_ADDRESS}.*refused.*swaptier-server --listen") as failure:
        async with TierStream(REFUSED_ADDRESS, AREA, AT_ONCE):
            pass
    assert failure.value.definite


async def test_a_server_that_never_speaks_is_unreachable_within_the_connect_bound() -> None:
    """A port that accepts and says nothing is not a tier."""
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the kernel accepts, nobody answers
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(TierUnreachable, match=r"no connection within 0\.1 s") as failure:
            async with TierStream(address, AREA, StreamSettings(connect_seconds=0.1, give_up_seconds=0)):
                pass
    assert failure.value.definite


async def test_a_refused_swapon_is_the_error_the_server_named(fake: FakeTier, address: str) -> None:
    """Its class and its message come back whole."""
    fake.swapon_error = LimitReached("64 areas are open and the limit is 64")
    with pytest.raises(LimitReached, match="64 areas") as failure:
        async with TierStream(address, AREA, AT_ONCE):
            pass
    assert failure.value.definite


async def test_stat_and_swapoff_answer_and_swapoff_lets_the_stream_finish_first(fake: FakeTier, address: str) -> None:
    """Swapoff does not overtake the stores on the stream."""
    async with TierStream(address, AREA) as stream:
        await stream.submit(store(1))
        assert (await stream.stat()).stored_pages == 1
        late = [stream.submit(store(offset)) for offset in (2, 3)]
        assert await stream.swapoff() == 3
        assert all(future.done() for future in late)


async def test_what_was_counted_is_exported_in_rows(address: str) -> None:
    """Bytes, slots per message and round trips, as (name, cause, value)."""
    async with TierStream(address, AREA) as stream:
        await asyncio.gather(stream.submit(store(1)), stream.submit(store(2)))
        await stream.submit(load(1))
    rows = {(name, cause): value for name, cause, value in stream.counters.rows()}
    assert rows["page_bytes_sent", ""] == 2 * PAGE_BYTES
    assert rows["page_bytes_received", ""] == PAGE_BYTES
    assert rows["message_slots_sum", ""] == 3
    assert rows["message_slots_bucket", "1"] == 1
    assert rows["message_slots_bucket", "+Inf"] == rows["round_trip_us_bucket", "+Inf"] == 2
