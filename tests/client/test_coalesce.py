"""What goes into a message and what stays: the order rules, on made-up sequences."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swaptier_client.coalesce import PendingRequest, RequestQueue
from swaptier_client.mm.effects import Invalidate, Load, Request, Store, SwapEntry
from swaptier_wire.types import ZERO_PAGE, LoadMode


@pytest.fixture(name="loop", scope="module")
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Futures want a loop; it never runs."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@st.composite
def requests(draw: st.DrawFn) -> Request:
    entry = SwapEntry(0, draw(st.integers(0, 5)))
    match draw(st.sampled_from(["store", "load", "load", "invalidate"])):
        case "store":
            return Store(entry, 1, ZERO_PAGE)
        case "load":
            return Load(entry, 1, LoadMode.SHARED, 0, require_generation=draw(st.booleans()))
        case _:
            return Invalidate(entry, 1)


def filled(loop: asyncio.AbstractEventLoop, effects: list[Request]) -> tuple[RequestQueue, list[PendingRequest]]:
    waiting = RequestQueue()
    ops = [PendingRequest(effect, loop.create_future()) for effect in effects]
    for op in ops:
        waiting.add(op)
    return waiting, ops


@given(st.lists(requests(), max_size=60), st.integers(1, 8), st.data())
def test_messages_keep_the_order_of_each_slot_and_lose_nothing(
    loop: asyncio.AbstractEventLoop, effects: list[Request], slots_max: int, data: st.DataObject
) -> None:
    """However many are added between two messages: bounded, an offset once, one load flag, each slot's order kept."""
    waiting = RequestQueue()
    ops = [PendingRequest(effect, loop.create_future()) for effect in effects]
    unsubmitted = list(reversed(ops))
    messages: list[list[PendingRequest]] = []
    while unsubmitted or len(waiting):
        for _ in range(data.draw(st.integers(1, 10), label="added")):
            if unsubmitted:
                waiting.add(unsubmitted.pop())
        messages.append(waiting.take_message(slots_max))

    sent_by_offset: dict[int, list[PendingRequest]] = defaultdict(list)
    for message in messages:
        assert 1 <= len(message) <= slots_max
        offsets = [op.effect.entry.offset for op in message]
        assert len(set(offsets)) == len(offsets)
        assert len({op.effect.require_generation for op in message if isinstance(op.effect, Load)}) <= 1
        for op in message:
            sent_by_offset[op.effect.entry.offset].append(op)
    for offset, sent in sent_by_offset.items():
        assert sent == [op for op in ops if op.effect.entry.offset == offset]
    assert sum(map(len, messages)) == len(ops)


def test_operations_on_different_slots_leave_in_the_order_they_came(loop: asyncio.AbstractEventLoop) -> None:
    """First come, first sent."""
    waiting, ops = filled(loop, [Invalidate(SwapEntry(0, offset), 1) for offset in (3, 1, 2, 0)])
    assert waiting.take_message(3) == ops[:3]
    assert waiting.take_message(3) == ops[3:]


def test_a_load_behind_a_held_back_store_of_its_slot_does_not_overtake_it(loop: asyncio.AbstractEventLoop) -> None:
    """Invalidate, Store, Load on one slot: three messages, in that order, while another slot goes ahead."""
    slot, other = SwapEntry(0, 1), SwapEntry(0, 2)
    waiting, ops = filled(
        loop,
        [Invalidate(slot, 1), Store(slot, 2, ZERO_PAGE), Load(slot, 2, LoadMode.SHARED, 0), Invalidate(other, 1)],
    )
    assert waiting.take_message(8) == [ops[0], ops[3]]
    assert waiting.take_message(8) == [ops[1]]
    assert waiting.take_message(8) == [ops[2]]


def test_a_load_with_another_flag_waits_and_holds_its_slot(loop: asyncio.AbstractEventLoop) -> None:
    """A message has one require_generation; the odd load waits, and so does the store behind it on its slot."""
    slot = SwapEntry(0, 1)
    waiting, ops = filled(
        loop,
        [
            Load(SwapEntry(0, 0), 1, LoadMode.SHARED, 0),
            Load(slot, 1, LoadMode.SHARED, 0, require_generation=True),
            Store(slot, 2, ZERO_PAGE),
        ],
    )
    assert waiting.take_message(8) == [ops[0]]
    assert waiting.take_message(8) == [ops[1]]
    assert waiting.take_message(8) == [ops[2]]


def test_a_cancelled_operation_is_never_sent(loop: asyncio.AbstractEventLoop) -> None:
    """Nobody would read its reply: an exclusive load would take the only copy for nothing."""
    waiting, ops = filled(loop, [Load(SwapEntry(0, offset), 1, LoadMode.EXCLUSIVE, 0) for offset in range(3)])
    ops[1].reply.cancel()
    assert waiting.take_message(8) == [ops[0], ops[2]]
    assert not len(waiting)


def test_the_queue_is_bounded(loop: asyncio.AbstractEventLoop) -> None:
    """has_room turns false at the bound and true again when a message has been taken."""
    waiting = RequestQueue(ops_max=2)
    for offset in range(2):
        assert waiting.has_room
        waiting.add(PendingRequest(Invalidate(SwapEntry(0, offset), 1), loop.create_future()))
    assert not waiting.has_room
    waiting.take_message(1)
    assert waiting.has_room
